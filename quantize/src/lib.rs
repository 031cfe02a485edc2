//! Checkpoints made small: a [`Source`] of any form goes through a [`Recipe`] into one GGUF file, or llama.cpp's pair.
//!
//! ```no_run
//! use pumice_quantize::{FileType, Options, Recipe, Source, SourceOptions, run};
//!
//! let source = Source::open("llava-1.5-7b-hf".as_ref(), &SourceOptions::default())?;
//! let options = Options::new(Recipe::new(FileType::Q4_K_M));
//! let report = run(&source, "llava-1.5-7b-Q4_K_M.gguf".as_ref(), &options, &())?;
//! println!("{} bytes", report.bytes);
//! # Ok::<(), pumice_quantize::Error>(())
//! ```
//!
//! Tensors stream through, a few rows per thread at a time, from mapped files into a temporary file that is renamed when
//! it is whole; no intermediate file is written and memory does not grow with the model.

#![forbid(unsafe_code)]

mod error;
mod plan;
mod recipe;
mod run;
mod source;
pub mod synthetic;
pub mod vocab;

pub use error::{Error, Result};
pub use plan::{Layout, Plan, Planned, plan};
pub use recipe::{Choice, FileType, ModelFacts, Override, Recipe, weight_type};
pub use run::{Options, Progress, Report, TensorReport, run, run_in_memory};
pub use source::{Source, SourceOptions, SourceTensor, TEMPLATES};
pub use synthetic::synthetic;
