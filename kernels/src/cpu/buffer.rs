//! Memory of the CPU backend: its own, zeroed and aligned, or bytes that somebody else keeps (a mapped file).

use crate::{Bytes, DType, Tensor};

/// Bytes of a cache line: own memory begins at one, so that rows of whole lines are aligned for every vector.
const LINE: usize = 64;

/// Own memory: zero pages of the system, taken up only as they are first written.
///
/// The elements are 16 bytes wide and not a line, because the allocator hands out untouched pages only up to the alignment
/// that it gives anyway; beyond, it writes the zeros itself (a second for a cache of 1 GB). So the line is found by hand.
pub(super) struct Own {
    memory: Box<[u128]>,
    /// Where the first line begins, in elements.
    start: usize,
}

/// The bytes of a matrix.
pub(super) enum Data {
    /// Memory that ops may write. At least as long as the matrix.
    Own(Own),
    /// Weights as they lie in the file.
    Shared(Bytes),
}

/// A matrix that tensors refer to.
pub(super) struct Buffer {
    pub(super) data: Data,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) dtype: DType,
    /// Bytes of a row.
    pub(super) row_bytes: usize,
}

impl Default for Data {
    /// No bytes. Costs no allocation: it stands in a slot whose memory an op has taken out.
    fn default() -> Self {
        Data::Own(Own { memory: Box::default(), start: 0 })
    }
}

impl Data {
    /// `bytes` zeroed bytes, touched by nobody yet: the system gives pages as they are first used. `None` where it refuses.
    pub(super) fn zeroed(bytes: usize) -> Option<Self> {
        const PER_LINE: usize = LINE / size_of::<u128>();
        let elements = bytes.div_ceil(LINE).checked_mul(PER_LINE)?.checked_add(PER_LINE - 1)?;
        let memory = bytemuck::allocation::try_zeroed_slice_box::<u128>(elements).ok()?;
        // Elements are 16 bytes and aligned so: a line begins at one of the first four.
        let start = memory.as_ptr().align_offset(LINE).min(PER_LINE - 1);
        Some(Data::Own(Own { memory, start }))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Data::Own(own) => bytemuck::cast_slice(&own.memory[own.start..]),
            Data::Shared(bytes) => bytes,
        }
    }

    /// The bytes for writing.
    #[track_caller]
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Data::Own(own) => bytemuck::cast_slice_mut(&mut own.memory[own.start..]),
            Data::Shared(_) => panic!("a weight is read-only"),
        }
    }

    /// The bytes for writing, as floats.
    #[track_caller]
    pub(super) fn f32_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(self.bytes_mut())
    }
}

impl Buffer {
    /// The bytes of `t`'s rows within the buffer.
    #[track_caller]
    pub(super) fn range(&self, t: Tensor) -> std::ops::Range<usize> {
        assert!(
            t.cols == self.cols && t.dtype == self.dtype && t.first + t.rows <= self.rows,
            "rows {}..{} of {} columns of {} in a buffer of {}×{} {}",
            t.first,
            t.first + t.rows,
            t.cols,
            t.dtype,
            self.rows,
            self.cols,
            self.dtype
        );
        t.first * self.row_bytes..(t.first + t.rows) * self.row_bytes
    }
}
