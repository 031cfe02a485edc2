//! Training of LLaVA on libtorch: data, models, the two stages, and the small world in which the demo model learns to see.

pub mod contrast;
pub mod data;
pub mod engine;
pub mod error;
pub mod eval;
pub mod map;
pub mod model;
pub mod pretrain;
pub mod recipe;
pub mod report;
pub mod shim;
pub mod unit;
pub mod world;

pub use error::{Error, Result};
