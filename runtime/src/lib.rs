//! Words and pictures in, words out: pixels, vocabulary, prompts, sampling.
//!
//! Each part is useful alone and is the same code for the program, for the calibration of a quantization and for
//! training, so that a model is run with exactly the inputs that it was trained with.

#![forbid(unsafe_code)]

pub mod chat;
pub mod error;
pub mod pixels;
pub mod prompt;
pub mod sample;
pub mod vocab;

pub use error::{Error, Result};
pub use pixels::{Picture, Preprocess};
pub use prompt::{Chunk, Conversation, Format, ImagePlace, Turn};
pub use sample::{Sampler, SamplerOptions, Stop};
pub use vocab::{Detokenizer, Vocabulary};
