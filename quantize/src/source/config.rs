//! What `config.json` and its neighbours say of a checkpoint, with the defaults of `transformers` filled in.
//!
//! Published configurations are sparse: `save_pretrained` leaves out what equals the class's default, so LLaVA-1.5's
//! `text_config` names neither width nor depth. The defaults stand here beside the keys they complete.

mod llava;
mod text;
mod vision;

use std::path::{Path, PathBuf};

use serde_json::Value;

pub(crate) use llava::Llava;
pub(crate) use text::{Scaling, Text};
pub(crate) use vision::{Defaults, Vision};

use crate::{Error, Result};

/// A JSON object with the path to name in messages.
#[derive(Clone, Copy)]
pub(crate) struct Json<'a> {
    /// The file.
    pub path: &'a Path,
    /// The keys above, with a dot at the end: `text_config.`.
    pub at: &'a str,
    /// The object.
    pub value: &'a Value,
}

impl<'a> Json<'a> {
    /// The value of `key`; null counts as absent.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.value.get(key).filter(|v| !v.is_null())
    }

    /// An [`Error::Config`] about `key`.
    pub fn error(&self, key: &str, problem: impl Into<String>) -> Error {
        Error::Config { path: self.path.into(), key: format!("{}{key}", self.at), problem: problem.into() }
    }

    /// A count above zero, or `default` where absent. Bounded, so that products of three cannot overflow.
    pub fn count(&self, key: &str, default: usize) -> Result<usize> {
        /// 2²⁰: far beyond any width, depth or vocabulary of these models.
        const MAX: u64 = 1 << 20;
        let Some(value) = self.get(key) else { return Ok(default) };
        match value.as_u64() {
            Some(n) if (1..=MAX).contains(&n) => Ok(n as usize),
            _ => Err(self.error(key, format!("{value} is not a count from 1 to {MAX}"))),
        }
    }

    /// A finite positive number, or `default`.
    pub fn number(&self, key: &str, default: f64) -> Result<f64> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let number = value.as_f64().filter(|n| n.is_finite() && *n > 0.0);
        number.ok_or_else(|| self.error(key, format!("{value} is not a number above 0")))
    }

    /// A text; `None` where absent.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.error(key, format!("{value} is not a text")))
    }

    /// True or false, or `default`.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.error(key, format!("{value} is neither true nor false")))
    }
}

/// A JSON file that was read.
pub(crate) struct JsonFile {
    /// Where it lies.
    pub path: PathBuf,
    /// What it holds.
    pub value: Value,
}

impl JsonFile {
    /// Reads `folder/name`; `None` where there is no such file.
    ///
    /// # Errors
    /// It is unreadable or not JSON.
    pub fn open(folder: &Path, name: &str) -> Result<Option<Self>> {
        let path = folder.join(name);
        if !path.is_file() {
            return Ok(None);
        }
        Ok(Some(Self { value: pumice_models::checkpoint::json(&path)?, path }))
    }

    /// Its top.
    pub fn top(&self) -> Json<'_> {
        Json { path: &self.path, at: "", value: &self.value }
    }
}

#[cfg(test)]
mod tests;
