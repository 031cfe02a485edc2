//! What a training run tells while it runs: one report per step, to any number of observers.
//!
//! The engine knows the trait alone; a terminal, a JSONL log and TensorBoard are observers of equal standing, and a run without any is
//! silent.

pub mod jsonl;
pub mod progress;
pub mod tensorboard;

use serde::Serialize;

pub use jsonl::Jsonl;
pub use progress::Progress;
pub use tensorboard::TensorBoard;

use crate::Result;

/// A finished step, over all ranks.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StepReport {
    /// Number of the step, from 1.
    pub step: u64,
    /// Steps of the run.
    pub of: u64,
    /// Mean loss over the micro-batches.
    pub loss: f64,
    /// Learning rate of the step.
    pub lr: f64,
    /// Norm of the gradient before clipping, where it was computed.
    pub grad_norm: Option<f64>,
    /// Positions of the step on all ranks, image slots and padding counted; the other ranks' are taken to be as many as the first's.
    pub tokens: u64,
    /// Seconds from the end of the step before to the end of this one.
    pub seconds: f64,
    /// Bytes of the first rank: the device's peak, or where it tells none the most that the process held.
    pub memory: u64,
    /// FLOPs of the step on all ranks, recomputation not counted.
    pub flops: f64,
    /// Rows skipped since the run began, because they could not be learned from.
    pub skipped_rows: u64,
}

impl StepReport {
    /// Tokens a second.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds.max(1e-9)
    }

    /// Share of `peak` (FLOP/s of all devices together) that the step reached; `None` where the peak is not known.
    pub fn mfu(&self, peak: Option<f64>) -> Option<f64> {
        peak.filter(|p| *p > 0.0).map(|p| self.flops / self.seconds.max(1e-9) / p)
    }
}

/// Someone who watches a run.
pub trait Observer {
    /// A step is done.
    ///
    /// # Errors
    /// What was observed cannot be written. The run says so and goes on.
    fn step(&mut self, report: &StepReport) -> Result<()>;
    /// Something happened that is no step: a checkpoint, a skipped row.
    fn note(&mut self, text: &str);
}

/// Several observers in one; each is told, also when one before it fails.
#[derive(Default)]
pub struct Observers(pub Vec<Box<dyn Observer>>);

impl Observer for Observers {
    fn step(&mut self, report: &StepReport) -> Result<()> {
        let mut outcome = Ok(());
        for observer in &mut self.0 {
            outcome = outcome.and(observer.step(report));
        }
        outcome
    }

    fn note(&mut self, text: &str) {
        for observer in &mut self.0 {
            observer.note(text);
        }
    }
}

#[cfg(test)]
mod tests;
