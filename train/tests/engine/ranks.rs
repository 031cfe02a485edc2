//! Threads as ranks: a run over 2 or 4 of them learns what one rank learns with as many micro-batches.

use std::{
    path::Path,
    sync::{Arc, Barrier, Mutex},
};

use pumice_train::{
    Result,
    engine::{
        Options,
        ranks::{Alone, Ranks},
        schedule::Schedule,
    },
};
use serde_json::Value;
use tch::{Kind, Tensor};

use crate::small::{Stage, batch, engine, options, weights};

/// What the ranks of one run share.
struct Board {
    tensors: Vec<Mutex<Option<Tensor>>>,
    numbers: Vec<Mutex<Vec<f64>>>,
    barrier: Barrier,
}

/// One thread's place at the board.
struct Thread(usize, Arc<Board>);

impl Thread {
    fn all(size: usize) -> Vec<Self> {
        let board = Arc::new(Board {
            tensors: (0..size).map(|_| Mutex::new(None)).collect(),
            numbers: (0..size).map(|_| Mutex::default()).collect(),
            barrier: Barrier::new(size),
        });
        (0..size).map(|rank| Self(rank, board.clone())).collect()
    }

    /// Lays down `own` and takes copies of all ranks' tensors.
    fn swap(&self, own: &Tensor) -> Vec<Tensor> {
        *self.1.tensors[self.0].lock().unwrap() = Some(own.detach().copy());
        self.1.barrier.wait();
        let all = self.1.tensors.iter().map(|t| t.lock().unwrap().as_ref().unwrap().copy()).collect();
        self.1.barrier.wait();
        all
    }
}

impl Ranks for Thread {
    fn rank(&self) -> usize {
        self.0
    }
    fn size(&self) -> usize {
        self.1.tensors.len()
    }
    fn reduce_scatter(&self, whole: &Tensor) -> Result<Tensor> {
        let n = whole.size()[0] / self.size() as i64;
        let parts = self.swap(whole).into_iter().map(|t| t.narrow(0, n * self.0 as i64, n));
        Ok(parts.reduce(|a, b| a + b).unwrap())
    }
    fn all_gather(&self, shard: &Tensor, whole: &mut Tensor) -> Result<()> {
        tch::no_grad(|| whole.copy_(&Tensor::cat(&self.swap(shard), 0)));
        Ok(())
    }
    fn sum(&self, numbers: &mut [f64]) -> Result<()> {
        *self.1.numbers[self.0].lock().unwrap() = numbers.to_vec();
        self.1.barrier.wait();
        numbers.fill(0.0);
        for other in &self.1.numbers {
            numbers.iter_mut().zip(other.lock().unwrap().iter()).for_each(|(n, o)| *n += o);
        }
        self.1.barrier.wait();
        Ok(())
    }
    fn barrier(&self) -> Result<()> {
        self.1.barrier.wait();
        Ok(())
    }
}

/// Losses of steps `from..to` and the weights after them; `micro` micro-batches a step over all ranks. Resumes from and saves to `folder` where given.
fn rank(
    ranks: Box<dyn Ranks>,
    stage: Stage,
    options: Options,
    micro: usize,
    steps: (usize, usize),
    folder: Option<&Path>,
) -> (Vec<f64>, Vec<f32>) {
    let (rank, size) = (ranks.rank(), ranks.size());
    let mut engine = engine(stage, true, ranks, Options { accumulate: micro / size, ..options });
    if let Some(folder) = folder {
        engine.resume(folder).unwrap();
        assert_eq!(engine.steps() as usize, steps.0);
    }
    let schedule = Schedule::cosine(2e-3, 0.1, 12);
    let mut losses = Vec::new();
    for step in steps.0..steps.1 {
        for i in (rank..micro).step_by(size) {
            engine.micro(&batch(step * micro + i)).unwrap();
        }
        let measured = engine.measure().unwrap();
        engine.apply(schedule.rate(step as u64), measured.norm).unwrap();
        losses.push(measured.loss);
    }
    if let Some(folder) = folder {
        engine.save(folder, 2, &Value::Null).unwrap();
    }
    (losses, weights(&engine))
}

/// As [`rank`], by `size` threads; all must say the same.
fn threads(
    size: usize,
    stage: Stage,
    options: Options,
    micro: usize,
    steps: (usize, usize),
    folder: Option<&Path>,
) -> (Vec<f64>, Vec<f32>) {
    if size == 1 {
        return rank(Box::new(Alone), stage, options, micro, steps, folder);
    }
    let mut all: Vec<_> = std::thread::scope(|scope| {
        let run = |t| scope.spawn(move || rank(Box::new(t), stage, options, micro, steps, folder));
        let running: Vec<_> = Thread::all(size).into_iter().map(run).collect();
        running.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let first = all.remove(0);
    assert!(all.iter().all(|other| *other == first), "the ranks drifted apart");
    first
}

fn near(a: &(Vec<f64>, Vec<f32>), b: &(Vec<f64>, Vec<f32>), what: &str) {
    assert_eq!(a.0.len(), b.0.len());
    for (step, (a, b)) in a.0.iter().zip(&b.0).enumerate() {
        assert!((a - b).abs() < 1e-5, "{what}: step {step}: loss {a} against {b}");
    }
    // The padding of the shards may differ, the weights not; a step moves a weight by at most about the rate, 2e-3.
    assert_eq!(a.1.len(), b.1.len());
    let far = a.1.iter().zip(&b.1).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(far < 2e-4, "{what}: weights differ by {far}");
}

#[test]
fn two_and_four_ranks_learn_what_one_learns() {
    for stage in [Stage::Align, Stage::Tune] {
        let sharded = Options { checkpoint: true, shard_weights: true, ..options() };
        let one = threads(1, stage, options(), 4, (0, 12), None);
        for size in [2, 4] {
            near(&one, &threads(size, stage, options(), 4, (0, 12), None), &format!("{stage:?} on {size}"));
            let three = threads(size, stage, sharded, 4, (0, 12), None);
            near(&one, &three, &format!("{stage:?} on {size}, sharded weights"));
        }
        near(&one, &threads(1, stage, sharded, 4, (0, 12), None), "alone with freed weights");
    }
}

#[test]
fn bf16_ranks_agree_whether_weights_are_sharded_or_not() {
    let half = Options { kind: Kind::BFloat16, checkpoint: true, ..options() };
    let two = threads(2, Stage::Tune, half, 2, (0, 6), None);
    let three = threads(2, Stage::Tune, Options { shard_weights: true, ..half }, 2, (0, 6), None);
    assert_eq!(two, three);
}

#[test]
fn another_number_of_ranks_continues() {
    let folder = tempfile::tempdir().unwrap();
    let one = threads(1, Stage::Tune, options(), 4, (0, 12), None);
    let mut losses = Vec::new();
    let mut last = Vec::new();
    for (size, steps) in [(4, (0, 4)), (1, (4, 8)), (2, (8, 12))] {
        let (part, weights) = threads(size, Stage::Tune, options(), 4, steps, Some(folder.path()));
        losses.extend(part);
        last = weights;
    }
    near(&one, &(losses, last), "4, 1, 2 ranks");
}
