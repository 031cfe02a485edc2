//! A source: any of the forms in which a LLaVA or a LLaMA comes, as one list of tensors under GGUF names and two lists
//! of metadata.
//!
//! The forms differ in names, in where the vision tower lies and in what has to be merged; after [`Source::open`] no
//! difference is left. Everything is mapped and nothing is read but headers, configurations and the vocabulary, so that
//! opening is quick and errors come before the first hour of work.

mod builder;
mod config;
mod folder;
mod gguf;
mod keys;
mod lora;
mod metadata;
mod tensor;
mod tower;

use std::path::{Path, PathBuf};

use pumice_models::gguf::Value;

pub(crate) use config::{Llava, Scaling, Text, Vision};
pub(crate) use metadata::{text_keys, vision_keys};
pub use tensor::SourceTensor;
pub(crate) use tensor::{Random, Reader};

use crate::{Error, ModelFacts, Result};

/// What to know about a source beyond its path.
#[derive(Debug, Clone, Default)]
pub struct SourceOptions {
    /// The vision tower's folder, where the checkpoint does not hold it.
    pub vision_tower: Option<PathBuf>,
    /// The text model's folder, where the path is a LoRA adapter or only a projector.
    pub base: Option<PathBuf>,
    /// A projector (`mm_projector.bin` or its folder), where the path is a text model.
    pub projector: Option<PathBuf>,
    /// The vision half of a GGUF pair.
    pub mmproj: Option<PathBuf>,
    /// A folder with the tokenizer, where the checkpoint has none.
    pub tokenizer: Option<PathBuf>,
    /// Keeps rows of the vocabulary that only pad or stand for `<image>`.
    pub keep_original_vocab_rows: bool,
    /// The conversation template's name, where the checkpoint's own name tells the wrong one.
    pub template: Option<String>,
    /// "pad" or "square", where the checkpoint does not say or says wrongly.
    pub image_aspect_ratio: Option<String>,
}

/// A model to be quantized.
#[derive(Debug)]
pub struct Source {
    pub(crate) name: String,
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) notes: Vec<String>,
    /// `llama.*` and `tokenizer.*` keys; empty where there is no text model.
    pub(crate) text: Vec<(String, Value)>,
    /// `clip.*` and `pumice.*` keys; empty where there is no vision tower.
    pub(crate) vision: Vec<(String, Value)>,
    /// All tensors, the text model's first.
    pub(crate) tensors: Vec<SourceTensor>,
    pub(crate) facts: ModelFacts,
}

/// The conversation templates that a file can name: those that the runtime writes, in its order.
pub const TEMPLATES: [&str; 12] = [
    "llava_v1",
    "v1",
    "llava_v0",
    "v0_lines",
    "v0",
    "v0_mmtag",
    "v1_mmtag",
    "llava_llama_2",
    "mistral_instruct",
    "mpt",
    "chatml_direct",
    "plain",
];

impl Source {
    /// Opens the model at `path`: a checkpoint's folder, a GGUF file, a LoRA adapter's folder or a projector's file.
    ///
    /// # Errors
    /// Something is missing, damaged, contradictory or of another architecture; the message says what and what to give.
    pub fn open(path: &Path, options: &SourceOptions) -> Result<Self> {
        one_of("template", options.template.as_deref(), &TEMPLATES)?;
        one_of("image aspect ratio", options.image_aspect_ratio.as_deref(), &["pad", "square"])?;
        if !path.exists() {
            let problem = "does not exist; give a checkpoint's folder or a GGUF file".into();
            return Err(Error::NotASource { path: path.into(), problem });
        }
        let mut source =
            if is_gguf(path)? { gguf::open(path, options)? } else { folder::open(path, options)? };
        metadata::override_choices(&mut source, options);
        Ok(source)
    }

    /// The model's name, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives the model another name than its folder's or file's.
    pub fn rename(&mut self, name: &str) {
        self.name = name.into();
    }

    /// What was guessed, dropped or found, a sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// All tensors, the text model's first.
    pub fn tensors(&self) -> &[SourceTensor] {
        &self.tensors
    }

    /// Whether there is a text model.
    pub fn has_text(&self) -> bool {
        !self.text.is_empty()
    }

    /// Whether there is a vision tower.
    pub fn has_vision(&self) -> bool {
        !self.vision.is_empty()
    }

    /// The metadata value under `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.text.iter().chain(&self.vision).find(|(k, _)| k == key).map(|(_, v)| v)
    }
}

/// Checks that a name is one of the known.
pub(crate) fn one_of(what: &'static str, given: Option<&str>, known: &[&str]) -> Result<()> {
    match given {
        Some(name) if !known.contains(&name) => {
            Err(Error::Unknown { what, name: name.into(), known: known.join(" ") })
        }
        _ => Ok(()),
    }
}

/// Whether `path` is a file that begins with GGUF's magic.
fn is_gguf(path: &Path) -> Result<bool> {
    use std::io::Read;
    if path.is_dir() {
        return Ok(false);
    }
    let io = |source| Error::Io { path: path.into(), doing: "opening it", source };
    let mut magic = Vec::new();
    std::fs::File::open(path).map_err(io)?.take(4).read_to_end(&mut magic).map_err(io)?;
    Ok(magic == b"GGUF" || path.extension().is_some_and(|e| e == "gguf"))
}

/// The last part of a path, as text.
fn file_name(path: &Path) -> String {
    let whole = path.canonicalize().unwrap_or_else(|_| path.into());
    whole.file_name().map_or_else(|| "model".into(), |n| n.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests;
