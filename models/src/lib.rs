//! What CLIP, the projector and Vicuna compute, and how a model is stored.
//!
//! Two halves. Files: [`gguf`] reads and writes the one file that Pumice runs from, and [`checkpoint`] takes in
//! what training frameworks leave behind; both hand out [`pumice_kernels::Bytes`], ranges of a memory map, and trust
//! nothing they read. Arithmetic: forward passes, written once against [`pumice_kernels::Backend`], that turn those
//! bytes into image features and next-token logits.

#![deny(unsafe_code)]

pub mod checkpoint;
pub mod clip;
pub mod config;
pub mod error;
pub mod gguf;
pub mod llama;
mod map;
pub mod names;
pub mod plan;
pub mod projector;
pub mod vision;
mod weights;

pub use error::Error;

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;
