//! Loss and gradients beside one plain backward pass over the whole model.

use pumice_train::{
    engine::{Engine, Options, Piece, Stack, ranks::Alone},
    model::{Llava, llama::Targets},
    unit::Unit,
};
use tch::{Device, Kind, Tensor};

use crate::small::{Stage, batch, engine, groups, model, options, weights};

/// The loss and per trainable unit its gradient `[numel]` in f32, by `.backward()`.
fn plain(stage: Stage, kind: Kind, tied: bool, k: usize) -> (f64, Vec<Tensor>) {
    let mut model = model(stage, kind, tied, 1);
    for unit in model.units_mut() {
        if let Some(flat) = &unit.flat {
            unit.flat = Some(flat.to_kind(kind));
            unit.view();
        }
    }
    let loss = model.loss(&batch(k)).unwrap();
    if loss.requires_grad() {
        loss.backward();
    }
    let slope = |leaf: &Tensor| match leaf.grad() {
        g if g.defined() => g.to_kind(Kind::Float).flatten(0, -1),
        _ => Tensor::zeros([leaf.numel() as i64], (Kind::Float, Device::Cpu)),
    };
    let trainable = model.units().filter(|u| u.flat.is_some());
    let slopes = trainable.map(|u| Tensor::cat(&u.leaves.iter().map(slope).collect::<Vec<_>>(), 0)).collect();
    (loss.double_value(&[]), slopes)
}

fn ours(stage: Stage, kind: Kind, tied: bool, k: usize, checkpoint: bool) -> (f64, Vec<Tensor>) {
    let options = Options { kind, checkpoint, accumulate: 1, ..options() };
    let mut engine = engine(stage, tied, Box::new(Alone), options);
    engine.micro(&batch(k)).unwrap();
    let measured = engine.measure().unwrap();
    let slopes: Vec<Tensor> = engine.shards().iter().map(|s| s.grad().copy()).collect();
    let norm = slopes.iter().map(|g| g.norm().double_value(&[]).powi(2)).sum::<f64>().sqrt();
    assert!((measured.norm - norm).abs() <= 1e-5 * norm, "norm {} against {norm}", measured.norm);
    (measured.loss, slopes)
}

/// Same arithmetic but for the loss's chunks and the division by n: a few roundings of the type at each of some eight products in a row.
fn hold(kind: Kind, eps: f64) {
    for stage in [Stage::Align, Stage::Tune] {
        for (tied, k) in [(false, 0), (true, 1), (false, 3)] {
            let (loss, want) = plain(stage, kind, tied, k);
            let (straight, kept) = ours(stage, kind, tied, k, false);
            let (again, recomputed) = ours(stage, kind, tied, k, true);
            assert!((straight - loss).abs() <= eps * loss, "{stage:?} {k}: loss {straight} against {loss}");
            assert_eq!(straight, again);
            assert_eq!(want.len(), kept.len());
            for (i, (want, (kept, recomputed))) in want.iter().zip(kept.iter().zip(&recomputed)).enumerate() {
                assert_eq!(kept, recomputed, "{stage:?} {k}: unit {i} differs with checkpoints");
                let (off, size) = ((kept - want).norm().double_value(&[]), want.norm().double_value(&[]));
                assert!(off <= eps * size, "{stage:?} {k}: unit {i} is off by {off} of {size}");
                // Batch 3 has no picture: the projector's gradient must be exactly zero, and in stage 1 nothing else is there.
                assert_eq!(size == 0.0, k == 3 && i == 0, "{stage:?} {k}: unit {i} has norm {size}");
            }
        }
    }
}

#[test]
fn gradients_equal_plain_autograd_in_f32() {
    hold(Kind::Float, 8.0 * f64::from(f32::EPSILON));
}

#[test]
fn gradients_equal_plain_autograd_in_bf16() {
    hold(Kind::BFloat16, 8.0 / 256.0);
}

/// A LLaVA whose layers drop out.
struct Dropping(Llava);

impl Stack for Dropping {
    type Batch = <Llava as Stack>::Batch;
    type Input = <Llava as Stack>::Input;

    fn count(&self) -> usize {
        self.0.count()
    }
    fn unit(&self, i: usize) -> &Unit {
        self.0.unit(i)
    }
    fn unit_mut(&mut self, i: usize) -> &mut Unit {
        self.0.unit_mut(i)
    }
    fn layers(&self) -> usize {
        Stack::layers(&self.0)
    }
    fn reads(&self, piece: Piece) -> Vec<usize> {
        self.0.reads(piece)
    }
    fn prepare(&self, batch: &Self::Batch, place: (Kind, Device)) -> pumice_train::Result<Self::Input> {
        self.0.prepare(batch, place)
    }
    fn start(&self, input: &Self::Input) -> pumice_train::Result<Tensor> {
        self.0.start(input)
    }
    fn layer(&self, i: usize, x: &Tensor, input: &Self::Input) -> Tensor {
        self.0.layer(i, x, input).dropout(0.2, true)
    }
    fn targets<'a>(&self, input: &'a Self::Input) -> &'a Targets {
        self.0.targets(input)
    }
    fn loss(&self, x: &Tensor, ids: &Tensor) -> Tensor {
        Stack::loss(&self.0, x, ids)
    }
    fn rows<'a>(&self, batch: &'a Self::Batch) -> &'a [String] {
        self.0.rows(batch)
    }
    fn tokens(&self, batch: &Self::Batch) -> usize {
        self.0.tokens(batch)
    }
    fn random(&self) -> bool {
        true
    }
}

/// Torch's generator is the whole process's, and other tests draw from it: this runs in a process of its own, when the environment says so.
#[test]
fn dropout_child() {
    if std::env::var_os(ALONE).is_none() {
        return;
    }
    let run = |checkpoint, seed| {
        let options = Options { checkpoint, seed, accumulate: 1, ..options() };
        let stack = Dropping(model(Stage::Tune, Kind::Float, false, 1));
        let mut engine = Engine::new(stack, Box::new(Alone), options, &groups(Stage::Tune)).unwrap();
        engine.micro(&batch(0)).unwrap();
        let loss = engine.measure().unwrap().loss;
        (loss, engine.shards().iter().map(|s| s.grad().copy()).collect::<Vec<_>>())
    };
    assert_eq!(run(false, 1), run(true, 1));
    assert_ne!(run(false, 1).0, run(false, 2).0);
}

const ALONE: &str = "PUMICE_TEST_DROPOUT";

#[test]
fn dropout_draws_the_same_when_a_layer_is_computed_again() {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    let done = child.args(["--exact", "gradients::dropout_child"]).env(ALONE, "1").output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
}

#[test]
fn a_frozen_model_and_senseless_settings_are_refused() {
    let frozen = || {
        let mut model = model(Stage::Align, Kind::Float, false, 1);
        model.projector.flat = None;
        model
    };
    let refused = |model, options| {
        let made = Engine::new(model, Box::new(Alone), options, &groups(Stage::Tune));
        made.err().expect("it must be refused").to_string()
    };
    assert!(refused(frozen(), options()).contains("nothing to train"));
    let whole = || model(Stage::Tune, Kind::Float, false, 1);
    assert!(refused(whole(), Options { accumulate: 0, ..options() }).contains("at least 1"));
    assert!(refused(whole(), Options { shard_weights: true, ..options() }).contains("checkpointing"));
}

#[test]
fn master_weights_keep_what_bf16_would_lose() {
    let options = Options { kind: Kind::BFloat16, ..options() };
    let half = engine(Stage::Tune, false, Box::new(Alone), options);
    let full = engine(Stage::Tune, false, Box::new(Alone), crate::small::options());
    assert_eq!(weights(&half), weights(&full));
    assert_eq!(half.stack().head.leaves[1].kind(), Kind::BFloat16);
}
