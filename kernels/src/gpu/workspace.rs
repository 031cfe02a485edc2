//! Room that ops need beside their operands: one buffer for all, since ops follow each other.
//!
//! It grows when tensors are allocated, by what ops on them may need; only attention to a cache in several buffers, and
//! the largest of many rows, ask for more when they are recorded.

use super::{Gpu, buffers::STORAGE};
use crate::Tensor;

/// The buffer, once there is one.
#[derive(Default)]
pub(super) struct Workspace {
    number: Option<u32>,
    bytes: u64,
}

impl Workspace {
    /// Its number.
    ///
    /// # Panics
    /// Where no op asked for it before.
    #[track_caller]
    pub fn number(&self) -> u32 {
        self.number.unwrap_or_else(|| panic!("an op without scratch"))
    }
}

impl Gpu {
    /// Makes the scratch `bytes` large at least; false where there is no memory for it.
    pub(super) fn grow(&mut self, bytes: u64) -> bool {
        if self.workspace.bytes >= bytes && self.workspace.number.is_some() {
            return true;
        }
        let Some(buffer) = self.device.buffer("scratch", bytes, STORAGE) else { return false };
        // What is recorded takes its number when it is submitted, so the old one is nobody's.
        if let Some(old) = self.workspace.number.take() {
            self.encoder.forget(old);
            self.buffers.slots.remove(old).iter().for_each(|buffer| self.device.free(buffer));
        }
        let bytes = buffer.size();
        self.workspace = Workspace { number: Some(self.buffers.slots.add(buffer)), bytes };
        true
    }

    /// [`Gpu::grow`] for an op on `tensor`; where there is no memory, the next call that can fail says so.
    pub(super) fn grow_late(&mut self, bytes: u64, tensor: Tensor) {
        if !self.device.failed() && !self.grow(bytes) {
            self.device.starve(bytes as usize, tensor.rows, tensor.cols, tensor.dtype);
        }
    }
}
