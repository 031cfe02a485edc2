//! Collectives over the meeting's store, for ranks on the CPU: tests, and small runs on machines without GPUs.
//!
//! Every byte goes to rank 0's server once and leaves it once per reader. Sums run in rank order, so each run gives the same bits.

use tch::{Device, Kind, Tensor};

use crate::Result;

use super::{Ranks, meeting::Meeting, place::Place};

/// Ranks that exchange tensors through [`Meeting`].
#[derive(Debug)]
pub struct StoreRanks {
    meeting: Meeting,
}

impl StoreRanks {
    /// Joins the other ranks; see [`Meeting::new`].
    pub fn new(place: &Place) -> Result<Self> {
        Ok(Self { meeting: Meeting::new(place, "cpu")? })
    }
}

/// The elements in memory order, as this machine stores them.
fn bytes(t: &Tensor) -> Vec<u8> {
    let t = t.to_device(Device::Cpu).contiguous();
    let mut out = vec![0; t.numel() * t.kind().elt_size_in_bytes()];
    t.copy_data_u8(&mut out, t.numel());
    out
}

impl Ranks for StoreRanks {
    fn rank(&self) -> usize {
        self.meeting.rank()
    }

    fn size(&self) -> usize {
        self.meeting.size()
    }

    /// Sums in f32 (f64 for f64) in rank order, then rounds to the type of `whole`.
    fn reduce_scatter(&self, whole: &Tensor) -> Result<Tensor> {
        let (rank, size, kind) = (self.rank(), self.size(), whole.kind());
        let n = share(whole, size);
        let turn = self.meeting.turn("reduce_scatter");
        let flat = whole.detach().to_device(Device::Cpu).reshape([-1]);
        let segment = |r: usize| flat.narrow(0, r as i64 * n, n);
        for to in others(rank, size) {
            self.meeting.post(&format!("{turn}/{rank}-{to}"), &bytes(&segment(to)))?;
        }
        let mut sum =
            Tensor::zeros([n], (if kind == Kind::Double { kind } else { Kind::Float }, Device::Cpu));
        let mut theirs = vec![0; n as usize * kind.elt_size_in_bytes()];
        for from in 0..size {
            if from == rank {
                sum += segment(rank);
            } else {
                self.meeting.fetch(&format!("{turn}/{from}-{rank}"), from, 1, &mut theirs)?;
                sum += Tensor::from_data_size(&theirs, &[n], kind);
            }
        }
        Ok(sum.to_kind(kind).to_device(whole.device()))
    }

    fn all_gather(&self, shard: &Tensor, whole: &mut Tensor) -> Result<()> {
        let (rank, size, kind) = (self.rank(), self.size(), shard.kind());
        let n = share(whole, size);
        assert_eq!((shard.numel() as i64, kind), (n, whole.kind()), "all_gather: shard and whole do not fit");
        let turn = self.meeting.turn("all_gather");
        self.meeting.post(&format!("{turn}/{rank}"), &bytes(shard))?;
        let mut theirs = vec![0; n as usize * kind.elt_size_in_bytes()];
        for from in 0..size {
            let part = if from == rank {
                shard.detach().reshape([-1])
            } else {
                self.meeting.fetch(&format!("{turn}/{from}"), from, size - 1, &mut theirs)?;
                Tensor::from_data_size(&theirs, &[n], kind)
            };
            tch::no_grad(|| whole.narrow(0, from as i64 * n, n).copy_(&part));
        }
        Ok(())
    }

    fn sum(&self, numbers: &mut [f64]) -> Result<()> {
        let (rank, size) = (self.rank(), self.size());
        let turn = self.meeting.turn("sum");
        let mine = numbers.to_vec();
        self.meeting.post(&format!("{turn}/{rank}"), bytemuck::cast_slice(&mine))?;
        numbers.fill(0.0);
        let mut theirs = vec![0.0; mine.len()];
        for from in 0..size {
            if from == rank {
                theirs.copy_from_slice(&mine);
            } else {
                let key = format!("{turn}/{from}");
                self.meeting.fetch(&key, from, size - 1, bytemuck::cast_slice_mut(&mut theirs))?;
            }
            for (sum, x) in numbers.iter_mut().zip(&theirs) {
                *sum += x;
            }
        }
        Ok(())
    }

    fn barrier(&self) -> Result<()> {
        self.sum(&mut [])
    }
}

/// Elements of one rank's shard of `whole` `[size * n]`.
pub(super) fn share(whole: &Tensor, size: usize) -> i64 {
    assert!(
        whole.numel().is_multiple_of(size),
        "{} elements do not divide among {size} ranks",
        whole.numel()
    );
    (whole.numel() / size) as i64
}

fn others(rank: usize, size: usize) -> impl Iterator<Item = usize> {
    (0..size).filter(move |r| *r != rank)
}
