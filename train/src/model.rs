//! CLIP, the projector and LLaMA on libtorch, in pieces that a training step can run and free one by one, and their checkpoints.
//!
//! The same arithmetic stands in `pumice-models` without gradients; tests hold the two against each other.

pub mod checkpoint;
pub mod clip;
pub mod config;
pub mod llama;
pub mod llava;
pub mod lora;
pub mod nf4;
pub mod projector;

pub use config::{ClipConfig, LlamaConfig, LlavaConfig, Scaling, VisionConfig};
pub use llava::Llava;
pub use lora::{Lora, LoraConfig};
pub use projector::Projector;
