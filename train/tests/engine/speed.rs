//! Seconds per step of a model of the demo's size, beside plain autograd with the same AdamW: `cargo test -p pumice-train --test engine speed -- --ignored --nocapture`.

use pumice_train::{
    data::Batch,
    engine::{Engine, Group, Options, ranks::Alone},
    model::{LlamaConfig, Llava, LlavaConfig},
    shim,
    unit::Unit,
};
use tch::{Device, Kind, Tensor};

const ROWS: usize = 16;
const LENGTH: usize = 200;

fn model(layers: i64, kind: Kind) -> Llava {
    let mut text = LlamaConfig::new(2500, 256, 688, layers, 4, 512);
    text.tied = true;
    let mut model = Llava::init(LlavaConfig { text, vision: None, image_id: None }, Kind::Float, Device::Cpu);
    for unit in model.units_mut().filter(|u| !u.slots.is_empty()) {
        let plain = std::mem::replace(unit, Unit::frozen("", Vec::new()));
        *unit = plain.trainable(kind, Device::Cpu, 1);
    }
    model
}

fn batch() -> Batch {
    let ids: Vec<i64> = (0..ROWS * LENGTH).map(|i| (i * 7919 % 2500) as i64).collect();
    Batch {
        labels: ids.clone(),
        ids,
        b: ROWS,
        t: LENGTH,
        rows: vec![String::new(); ROWS],
        ..Batch::default()
    }
}

/// Seconds of this process's processor time, whatever else the machine does; steps of 10 ms.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<f64> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|f| f.parse().unwrap())
        .collect();
    fields.iter().sum::<f64>() / 100.0
}

/// Processor seconds per `step`: the best of four after a first.
fn cost(mut step: impl FnMut()) -> f64 {
    step();
    let mut once = || {
        let start = cpu();
        step();
        cpu() - start
    };
    (0..4).map(|_| once()).fold(f64::INFINITY, f64::min)
}

fn plain(layers: i64, kind: Kind) -> f64 {
    let (model, batch) = (model(layers, kind), batch());
    let leaves: Vec<&Tensor> = model.units().flat_map(|u| &u.leaves).collect();
    let floats = |t: &&Tensor| tch::no_grad(|| t.to_dtype(Kind::Float, false, true));
    let zeros = |t: &&Tensor| Tensor::zeros(t.size(), (Kind::Float, Device::Cpu));
    let (masters, m, v): (Vec<_>, Vec<_>, Vec<_>) = (
        leaves.iter().map(floats).collect(),
        leaves.iter().map(zeros).collect(),
        leaves.iter().map(zeros).collect(),
    );
    let with = shim::AdamW { lr: 1e-3, betas: (0.9, 0.999), eps: 1e-8, decay: 0.0 };
    cost(|| {
        model.loss(&batch).unwrap().backward();
        let grads: Vec<Tensor> = leaves.iter().map(|l| l.grad().to_kind(Kind::Float)).collect();
        let counts: Vec<Tensor> = leaves.iter().map(|_| Tensor::from(1.0f32)).collect();
        shim::adamw(
            &masters.iter().collect::<Vec<_>>(),
            &grads.iter().collect::<Vec<_>>(),
            &m.iter().collect::<Vec<_>>(),
            &v.iter().collect::<Vec<_>>(),
            &counts.iter().collect::<Vec<_>>(),
            &with,
        )
        .unwrap();
        tch::no_grad(|| {
            for (leaf, master) in leaves.iter().zip(&masters) {
                let mut leaf = leaf.shallow_clone();
                leaf.copy_(master);
                leaf.zero_grad();
            }
        });
    })
}

fn ours(layers: i64, kind: Kind, checkpoint: bool) -> f64 {
    let options = Options { kind, checkpoint, accumulate: 1, ..Options::default() };
    let group = |_: &str| Group { scale: 1.0, decay: 0.0 };
    let mut engine = Engine::new(model(layers, kind), Box::new(Alone), options, &group).unwrap();
    let batch = batch();
    cost(|| {
        engine.micro(&batch).unwrap();
        let norm = engine.measure().unwrap().norm;
        engine.apply(1e-3, norm).unwrap();
    })
}

#[test]
#[ignore = "measures speed; prints a table"]
fn seconds_per_step_on_one_thread() {
    tch::set_num_threads(1);
    println!("| layers | type | plain autograd | engine | engine, checkpoints | (s/step)");
    for layers in [4, 6] {
        for kind in [Kind::Float, Kind::BFloat16] {
            let (a, b, c) = (plain(layers, kind), ours(layers, kind, false), ours(layers, kind, true));
            println!("| {layers} | {kind:?} | {a:.3} | {b:.3} | {c:.3} |");
        }
    }
}
