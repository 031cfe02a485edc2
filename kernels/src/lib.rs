//! Matrices of blocks, and the arithmetic on them.
//!
//! A tensor is a matrix whose rows are tokens; a quantization format is a property of a weight and is seen only inside
//! [`Backend::matmul`] and [`Backend::get_rows`]. Scalar Rust is the specification of every op; SIMD paths agree with it.

pub mod backend;
pub mod bytes;
pub mod checked;
pub mod count;
pub mod cpu;
pub mod dtype;
pub mod error;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod probe;
pub mod quant;
mod relay;
mod shapes;
pub mod split;
pub mod timed;

pub use backend::{Backend, Gelu, Tensor};
pub use bytes::Bytes;
pub use checked::Checked;
pub use count::Count;
pub use cpu::{Cpu, CpuOptions, Isa};
pub use dtype::DType;
pub use error::Error;
pub use split::{Share, Split};
pub use timed::Timed;

/// The result of the calls that can fail because of memory or a device.
pub type Result<T> = std::result::Result<T, Error>;
