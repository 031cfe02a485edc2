//! A vocabulary from the keys `tokenizer.ggml.*` of a GGUF file.

use super::{Kind, Pieces, Vocabulary};
use crate::{Error, Result};
use pumice_models::{gguf, names::keys};

impl Vocabulary {
    /// Reads the vocabulary of a text model.
    ///
    /// # Errors
    /// A key is missing or of another type, or what it holds cannot be used: see [`Vocabulary::new`].
    pub fn from_gguf(file: &gguf::File) -> Result<Self> {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let id = |name: &str| file.u32(&key(name));
        let kinds = file.integers(&key("token_type"))?.unwrap_or_default();
        let kinds = kinds.into_iter().enumerate().map(|(i, n)| {
            kind(n).ok_or_else(|| Error::Key {
                path: file.path().into(),
                key: key("token_type"),
                what: format!("kind {n} of piece {i} is unknown; kinds are 1 to 6"),
            })
        });
        Self::new(Pieces {
            name: file.path().display().to_string(),
            model: file.need_str(&key("model"))?.to_owned(),
            pre: file.str(&key("pre"))?.unwrap_or_default().to_owned(),
            tokens: file.need_strings(keys::TOKENS)?.to_vec(),
            scores: file.floats(&key("scores"))?.unwrap_or_default(),
            kinds: kinds.collect::<Result<_>>()?,
            merges: file.strings(&key("merges"))?.unwrap_or_default().to_vec(),
            bos: id("bos_token_id")?,
            eos: id("eos_token_id")?,
            eot: id("eot_token_id")?,
            unknown: id("unknown_token_id")?,
            add_bos: file.bool(&key("add_bos_token"))?,
            add_space_prefix: file.bool(&key("add_space_prefix"))?,
        })
    }
}

fn kind(number: i64) -> Option<Kind> {
    Some(match number {
        1 => Kind::Normal,
        2 => Kind::Unknown,
        3 => Kind::Control,
        4 => Kind::UserDefined,
        5 => Kind::Unused,
        6 => Kind::Byte,
        _ => return None,
    })
}
