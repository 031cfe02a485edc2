//! Words and pictures in, words out: pixels, vocabulary, prompts, sampling, chat.
//!
//! ```no_run
//! use pumice_kernels::cpu::{Cpu, CpuOptions};
//! use pumice_runtime::chat::{Chat, Options};
//!
//! fn main() -> pumice_runtime::Result<()> {
//!     let cpu = Cpu::new(CpuOptions { threads: 0, isa: None });
//!     let mut chat = Chat::open("llava-1.5-7b-q4_k_m.gguf", Box::new(cpu), Options::default())?;
//!     let cat = chat.see("cat.jpg")?;
//!     for piece in chat.ask("What is the cat doing?", &[cat])? {
//!         print!("{}", piece?);
//!     }
//!     for piece in chat.ask("And why?", &[])? {
//!         print!("{}", piece?); // the picture is not computed again
//!     }
//!     Ok(())
//! }
//! ```
//!
//! Each part is useful alone and is the same code for the program, for the calibration of a quantization and for
//! training, so that a model is run with exactly the inputs that it was trained with.

#![forbid(unsafe_code)]

pub mod chat;
mod distribution;
pub mod error;
pub mod perplexity;
pub mod pixels;
pub mod prompt;
pub mod sample;
pub mod verify;
pub mod vocab;

pub use error::{Error, Result};
pub use pixels::{Picture, Preprocess};
pub use prompt::{Chunk, Format, ImagePlace, Turn};
pub use sample::{Sampler, SamplerOptions, Stop};
pub use vocab::{Detokenizer, Vocabulary};
