//! Collectives over NCCL, for one rank per NVIDIA GPU. **Not run on a GPU yet**: written against nccl.h; only the library's opening, its
//! version and its unique id have been tried.
//!
//! A collective is queued on the current CUDA stream (the one that libtorch computes on, so nothing else need be ordered) and returns at once. A
//! rank that died would let the GPU, and whoever reads a value from it, wait for ever; so [`Ranks::sum`] and [`Ranks::barrier`], of which each
//! micro-batch has one, wait for the stream with the timeout before they read. The engine calls one of them before it copies to or from the GPU.

use std::cell::RefCell;

use tch::{Device, Kind, Tensor};

use crate::shim::nccl::{Comm, Id};
use crate::shim::store::Failure;
use crate::{Error, Result};

use super::{Ranks, meeting::Meeting, place::Place, store::share};

/// Ranks that exchange tensors through NCCL, and met through [`Meeting`].
#[derive(Debug)]
pub struct NcclRanks {
    // Before the meeting: communicators close while the others can still be met.
    comm: RefCell<Comm>,
    meeting: Meeting,
    device: Device,
}

impl NcclRanks {
    /// Joins the other ranks; `gpu` is the number of this rank's GPU on its machine.
    ///
    /// # Errors
    /// [`Error::Ranks`] when ranks are missing, or libnccl.so.2 is.
    pub fn new(place: &Place, gpu: usize) -> Result<Self> {
        let meeting = Meeting::new(place, "cuda")?;
        let key = meeting.turn("nccl");
        let mut id = Id([0; 128]);
        if place.rank == 0 {
            id = Id::new().map_err(|e| missing(place.rank, &e))?;
            meeting.post(&key, &id.0)?;
        } else {
            meeting.fetch(&key, 0, place.size - 1, &mut id.0)?;
        }
        let comm = Comm::new(&id, place.rank, place.size, gpu).map_err(|e| missing(place.rank, &e))?;
        Ok(Self { comm: RefCell::new(comm), meeting, device: Device::Cuda(gpu) })
    }

    fn failed(&self, what: &str, e: &Failure) -> Error {
        self.comm.borrow_mut().give_up();
        let rank = self.meeting.rank();
        Error::Ranks(match e {
            Failure::Late(_) => format!(
                "timeout: rank {rank} waited {} s for {what} on its GPU. Another rank was killed, hangs, or is slower than that: look at what \
                 each wrote last, or allow more time",
                self.meeting.timeout().as_secs()
            ),
            Failure::Broken(why) => {
                format!("rank {rank}: {what}: NCCL: {why}. NCCL_DEBUG=WARN makes it say more")
            }
        })
    }
}

fn missing(rank: usize, e: &Failure) -> Error {
    Error::Ranks(format!(
        "rank {rank} cannot join the other GPUs: {e}. NCCL's libnccl.so.2 comes with PyTorch for CUDA (package nvidia-nccl-cu13): put its folder \
         into LD_LIBRARY_PATH; NCCL_DEBUG=WARN makes it say more"
    ))
}

impl Ranks for NcclRanks {
    fn rank(&self) -> usize {
        self.meeting.rank()
    }

    fn size(&self) -> usize {
        self.meeting.size()
    }

    /// Sums in the type of `whole`, in NCCL's order.
    fn reduce_scatter(&self, whole: &Tensor) -> Result<Tensor> {
        let n = share(whole, self.size());
        let whole = whole.detach().contiguous();
        let mut shard = Tensor::empty([n], (whole.kind(), self.device));
        let done = self.comm.borrow().reduce_scatter(&whole, &mut shard);
        done.map_err(|e| self.failed("reduce_scatter", &e))?;
        Ok(shard)
    }

    fn all_gather(&self, shard: &Tensor, whole: &mut Tensor) -> Result<()> {
        let done = self.comm.borrow().all_gather(&shard.detach().contiguous(), whole);
        done.map_err(|e| self.failed("all_gather", &e))
    }

    fn sum(&self, numbers: &mut [f64]) -> Result<()> {
        let wait = |what: &str| {
            let done = self.comm.borrow().wait(self.meeting.timeout());
            done.map_err(|e| self.failed(what, &e))
        };
        // The copy to the GPU waits for the stream, with no end of its own: first see that it comes to one.
        wait("the collectives before sum")?;
        let mut t = Tensor::from_slice(numbers).to_device(self.device);
        let done = self.comm.borrow().all_reduce(&mut t);
        done.map_err(|e| self.failed("sum", &e))?;
        wait("sum")?;
        let t = t.to_device(Device::Cpu).to_kind(Kind::Double);
        t.copy_data(numbers, numbers.len());
        Ok(())
    }

    fn barrier(&self) -> Result<()> {
        self.sum(&mut [0.0])
    }
}
