//! A JSON object of a `config.json`, with the file to name in messages.

use std::path::Path;

use pumice_models::Error;
use serde_json::Value;

/// Largest count believed: products of three cannot overflow.
const MAX: i64 = 1 << 20;

/// An object and where it stands.
#[derive(Clone, Copy)]
pub(super) struct Json<'a> {
    pub path: &'a Path,
    pub value: &'a Value,
}

impl<'a> Json<'a> {
    /// The value of `key`; null counts as absent.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.value.get(key).filter(|v| !v.is_null())
    }

    /// The object under `key`.
    pub fn inner(&self, key: &str) -> Option<Self> {
        self.get(key).map(|value| Self { value, ..*self })
    }

    /// An error about `key`.
    pub fn error(&self, key: &str, what: impl Into<String>) -> Error {
        Error::key(self.path, key, what)
    }

    /// A count above zero, or `default`.
    pub fn count(&self, key: &str, default: i64) -> Result<i64, Error> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let count = value.as_i64().filter(|n| (1..=MAX).contains(n));
        count.ok_or_else(|| self.error(key, format!("is {value}, must be a count from 1 to {MAX}")))
    }

    /// A number above zero, or `default`.
    pub fn number(&self, key: &str, default: f64) -> Result<f64, Error> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let number = value.as_f64().filter(|n| n.is_finite() && *n > 0.0);
        number.ok_or_else(|| self.error(key, format!("is {value}, must be a number above 0")))
    }

    /// A text, or `default`.
    pub fn text(&self, key: &str, default: &'a str) -> Result<&'a str, Error> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_str().ok_or_else(|| self.error(key, format!("is {value}, must be a text")))
    }

    /// True or false, or `default`.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool, Error> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.error(key, format!("is {value}, must be true or false")))
    }

    /// An id: a number, or the first of a list of them.
    pub fn id(&self, key: &str) -> Option<i64> {
        let value = self.get(key)?;
        value.as_i64().or_else(|| value.as_array()?.first()?.as_i64())
    }

    /// Fails where `key` is there and not among `known`.
    pub fn one_of(&self, key: &str, known: &[&str]) -> Result<&'a str, Error> {
        let found = self.text(key, "")?;
        if found.is_empty() || known.contains(&found) {
            return Ok(found);
        }
        Err(self.error(key, format!("is {found:?}; Pumice trains models with {}", known.join(" or "))))
    }
}
