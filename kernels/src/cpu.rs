//! The CPU.

pub mod isa;
pub mod pool;

pub use isa::Isa;
