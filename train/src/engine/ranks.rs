//! The ranks of a run and what they say to each other: one process has one rank and one device.
//!
//! Sharded training needs four collectives only. `Alone` is the run of one process, where each of them is the identity; [`store`] does them
//! over TCP for the CPU, [`nccl`] for NVIDIA's GPUs. [`place`] chooses, [`launch`] starts the processes.
//!
//! A rank that stops must not leave the others waiting for ever: every wait has an end, and its error says for whom it waited.

pub mod launch;
pub mod meeting;
pub mod nccl;
pub mod place;
pub mod store;

use tch::Tensor;

use crate::Result;

/// The other processes of a run. All ranks must call the same collectives in the same order with the same shapes.
///
/// # Errors
/// Each collective fails with [`crate::Error::Ranks`] when another rank ends, does not answer in time, or runs with other settings.
pub trait Ranks {
    /// This process, from 0.
    fn rank(&self) -> usize;
    /// How many there are.
    fn size(&self) -> usize;
    /// `[size * n]` of each rank, summed over the ranks; each keeps its own `[n]` (the rank-th).
    fn reduce_scatter(&self, whole: &Tensor) -> Result<Tensor>;
    /// `[n]` of each rank, joined in rank order into `whole` `[size * n]`.
    fn all_gather(&self, shard: &Tensor, whole: &mut Tensor) -> Result<()>;
    /// Sums each number over the ranks.
    fn sum(&self, numbers: &mut [f64]) -> Result<()>;
    /// Waits until all are here.
    fn barrier(&self) -> Result<()>;
}

/// A run of one process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Ranks for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn reduce_scatter(&self, whole: &Tensor) -> Result<Tensor> {
        Ok(whole.shallow_clone())
    }

    fn all_gather(&self, shard: &Tensor, whole: &mut Tensor) -> Result<()> {
        tch::no_grad(|| whole.copy_(shard));
        Ok(())
    }

    fn sum(&self, _: &mut [f64]) -> Result<()> {
        Ok(())
    }

    fn barrier(&self) -> Result<()> {
        Ok(())
    }
}
