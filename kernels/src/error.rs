//! What can go wrong below the models: memory and devices. Shape errors are bugs of the caller and panic.

/// An error of a backend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The allocator refused.
    #[error(
        "{device}: {bytes} bytes for a {rows}×{cols} {dtype} tensor could not be allocated; close other programs or lower the context (-c)"
    )]
    OutOfMemory {
        /// The device's name.
        device: String,
        /// Bytes asked for.
        bytes: usize,
        /// Rows of the tensor.
        rows: usize,
        /// Columns of the tensor.
        cols: usize,
        /// Element type of the tensor.
        dtype: crate::DType,
    },
    /// A weight's bytes do not have the length that its shape and type ask for.
    #[error("a {rows}×{cols} {dtype} tensor takes {expected} bytes, got {got}")]
    WrongLength {
        /// Rows of the tensor.
        rows: usize,
        /// Columns of the tensor.
        cols: usize,
        /// Element type of the tensor.
        dtype: crate::DType,
        /// Bytes that shape and type ask for.
        expected: usize,
        /// Bytes given.
        got: usize,
    },
    /// The row length is not a multiple of the block length.
    #[error("{cols} columns are not a multiple of the {len} elements of a {dtype} block")]
    RaggedBlock {
        /// Columns of the tensor.
        cols: usize,
        /// Elements of a block.
        len: usize,
        /// Element type of the tensor.
        dtype: crate::DType,
    },
}
