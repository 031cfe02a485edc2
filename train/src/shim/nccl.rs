//! NCCL, NVIDIA's collectives, from the `libnccl.so.2` that every CUDA build of PyTorch brings: opened when first asked for.
//!
//! Version and unique id were called without a GPU (NCCL 2.31). **The rest has not run on a GPU yet.**

use std::ffi::{c_int, c_void};
use std::time::Duration;

use tch::Tensor;
use torch_sys::C_tensor;

use super::store::{Failure, check};

unsafe extern "C" {
    fn pumice_nccl_version(out: *mut c_int) -> c_int;
    fn pumice_nccl_id(out: *mut Id) -> c_int;
    fn pumice_nccl_new(
        id: *const Id,
        rank: c_int,
        size: c_int,
        device: c_int,
        out: *mut *mut c_void,
    ) -> c_int;
    fn pumice_nccl_drop(comm: *mut c_void, broken: c_int) -> c_int;
    fn pumice_nccl_reduce_scatter(comm: *mut c_void, whole: *const C_tensor, shard: *mut C_tensor) -> c_int;
    fn pumice_nccl_all_gather(comm: *mut c_void, shard: *const C_tensor, whole: *mut C_tensor) -> c_int;
    fn pumice_nccl_all_reduce(comm: *mut c_void, t: *mut C_tensor) -> c_int;
    fn pumice_nccl_wait(comm: *mut c_void, device: c_int, timeout: i64) -> c_int;
}

/// What names one set of ranks (`ncclUniqueId`): rank 0 makes it, all need it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id(pub [u8; 128]);

impl Id {
    /// A new one.
    ///
    /// # Errors
    /// libnccl.so.2 is missing or fails.
    pub fn new() -> Result<Self, Failure> {
        let mut id = Self([0; 128]);
        // SAFETY: the place has the 128 bytes that nccl.h defines.
        check(unsafe { pumice_nccl_id(&raw mut id) })?;
        Ok(id)
    }
}

/// NCCL's version as it counts: 10000 · major + 100 · minor + patch.
///
/// # Errors
/// libnccl.so.2 is missing.
pub fn version() -> Result<i32, Failure> {
    let mut version = 0;
    // SAFETY: the place lives for the call.
    check(unsafe { pumice_nccl_version(&raw mut version) })?;
    Ok(version)
}

/// This rank's end of a communicator. Collectives are queued on the current CUDA stream and return at once.
#[derive(Debug)]
pub struct Comm {
    raw: *mut c_void,
    device: c_int,
    broken: bool,
}

impl Comm {
    /// Joins the others; returns when all `size` have. `device`: number of the GPU.
    pub fn new(id: &Id, rank: usize, size: usize, device: usize) -> Result<Self, Failure> {
        let (mut raw, device) = (std::ptr::null_mut(), device as c_int);
        // SAFETY: the id and the place live for the call; on success `raw` is ours until pumice_nccl_drop.
        check(unsafe { pumice_nccl_new(id, rank as c_int, size as c_int, device, &raw mut raw) })?;
        Ok(Self { raw, device, broken: false })
    }

    fn holds(&self, tensors: [&Tensor; 2]) {
        for t in tensors {
            assert!(
                t.device() == tch::Device::Cuda(self.device as usize),
                "NCCL: a tensor on {:?}",
                t.device()
            );
            assert!(t.is_contiguous(), "NCCL: a tensor that is not contiguous");
        }
        assert_eq!(tensors[0].kind(), tensors[1].kind(), "NCCL: two types");
    }

    /// `whole` `[size * n]` summed over the ranks in its own type; the rank-th `[n]` into `shard`.
    pub fn reduce_scatter(&self, whole: &Tensor, shard: &mut Tensor) -> Result<(), Failure> {
        self.holds([whole, shard]);
        // SAFETY: both tensors are contiguous, on this device, of one type; libtorch frees their memory in the order of the same stream.
        check(unsafe { pumice_nccl_reduce_scatter(self.raw, whole.as_ptr(), shard.as_mut_ptr()) })
    }

    /// `shard` `[n]` of all ranks, joined into `whole` `[size * n]`.
    pub fn all_gather(&self, shard: &Tensor, whole: &mut Tensor) -> Result<(), Failure> {
        self.holds([shard, whole]);
        // SAFETY: as in reduce_scatter.
        check(unsafe { pumice_nccl_all_gather(self.raw, shard.as_ptr(), whole.as_mut_ptr()) })
    }

    /// `t` summed over the ranks in place.
    pub fn all_reduce(&self, t: &mut Tensor) -> Result<(), Failure> {
        self.holds([t, t]);
        // SAFETY: as in reduce_scatter.
        check(unsafe { pumice_nccl_all_reduce(self.raw, t.as_mut_ptr()) })
    }

    /// Waits until the current stream has done all that was queued.
    ///
    /// # Errors
    /// [`Failure::Late`] after `timeout`; what NCCL reports of its own.
    pub fn wait(&self, timeout: Duration) -> Result<(), Failure> {
        let ms = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX).min(i64::from(i32::MAX));
        // SAFETY: `raw` is a live communicator.
        check(unsafe { pumice_nccl_wait(self.raw, self.device, ms) })
    }

    /// The communicator is of no more use: closing it will not wait for the others.
    pub fn give_up(&mut self) {
        self.broken = true;
    }
}

impl Drop for Comm {
    fn drop(&mut self) {
        // SAFETY: `raw` came from pumice_nccl_new and is not used again. A failure to close leaves nothing to be done.
        let _ = unsafe { pumice_nccl_drop(self.raw, self.broken.into()) };
    }
}
