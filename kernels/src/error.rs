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
    /// No graphics processor that could compute, or not the one that was asked for.
    #[error("no GPU to compute on: {what}; `--device cpu` computes on the processor")]
    NoAdapter {
        /// What was looked for, and what there is.
        what: String,
    },
    /// The device stopped working: its driver was reset, it was unplugged, or it took too long.
    #[error(
        "{device}: lost while computing ({what}); start again, or compute on the processor with `--device cpu`"
    )]
    DeviceLost {
        /// The device's name.
        device: String,
        /// What the driver says.
        what: String,
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
