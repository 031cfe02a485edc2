//! Memory of the CPU backend: its own, zeroed and aligned, or bytes that somebody else keeps (a mapped file).

use crate::{Bytes, DType, Tensor};

/// A cache line: what own memory is made of, so that rows of whole lines are aligned for every vector.
#[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
pub(super) struct Line([u8; 64]);

/// The bytes of a matrix.
pub(super) enum Data {
    /// Memory that ops may write. At least as long as the matrix.
    Own(Box<[Line]>),
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
        Data::Own(Box::default())
    }
}

impl Data {
    /// `bytes` zeroed bytes, touched by nobody yet: the system gives pages as they are first used. `None` where it refuses.
    pub(super) fn zeroed(bytes: usize) -> Option<Self> {
        bytemuck::allocation::try_zeroed_slice_box(bytes.div_ceil(size_of::<Line>())).ok().map(Data::Own)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Data::Own(lines) => bytemuck::cast_slice(lines),
            Data::Shared(bytes) => bytes,
        }
    }

    /// The bytes for writing.
    #[track_caller]
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Data::Own(lines) => bytemuck::cast_slice_mut(lines),
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
