//! Tokens that were added to a tokenizer, and which token has which role.
//!
//! Four files may say so, by the age of the checkpoint: `added_tokens.json` (text → id), `special_tokens_map.json` and
//! `tokenizer_config.json` (roles; `added_tokens_decoder` by id) and `tokenizer.json` (`added_tokens`). All are read; they
//! agree where they overlap.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::read_json;
use crate::Result;

/// One added token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its text.
    pub text: String,
    /// Whether it never stands for text.
    pub special: bool,
    /// The file that names it.
    pub path: PathBuf,
}

/// What the files beside a tokenizer say.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Added {
    /// Tokens by id.
    pub tokens: BTreeMap<u32, Token>,
    /// Text of the token that begins a sequence.
    pub bos: Option<String>,
    /// Text of the token that ends one.
    pub eos: Option<String>,
    /// Text of the unknown token.
    pub unk: Option<String>,
    /// Text of the padding token.
    pub pad: Option<String>,
    /// Whether texts begin with `bos`.
    pub add_bos: Option<bool>,
    /// Whether texts end with `eos`.
    pub add_eos: Option<bool>,
    /// The conversation template in Jinja.
    pub chat_template: Option<String>,
}

impl Added {
    /// Reads the files in `folder`; none has to be there.
    ///
    /// # Errors
    /// A file is unreadable or not JSON.
    pub fn open(folder: &Path) -> Result<Self> {
        let mut added = Self::default();
        let mut read = |name: &str, take: fn(&mut Self, &Path, &Value)| -> Result<()> {
            let path = folder.join(name);
            if path.is_file() {
                take(&mut added, &path, &read_json(&path)?);
            }
            Ok(())
        };
        read("added_tokens.json", Self::take_map)?;
        read("special_tokens_map.json", |a, _, json| a.take_roles(json))?;
        read("tokenizer.json", |a, path, json| a.take_list(path, &json["added_tokens"]))?;
        read("tokenizer_config.json", Self::take_config)?;
        let jinja = folder.join("chat_template.jinja");
        if jinja.is_file() {
            added.chat_template = Some(String::from_utf8_lossy(&super::read(&jinja)?).into_owned());
        }
        Ok(added)
    }

    fn insert(&mut self, path: &Path, id: u64, text: &str, special: bool) {
        if let Ok(id) = u32::try_from(id) {
            let token = Token { text: text.into(), special, path: path.into() };
            self.tokens.insert(id, token);
        }
    }

    /// `{"<image>": 32000}`. That these are special is not said; all that LLaVA and Vicuna added are.
    fn take_map(&mut self, path: &Path, json: &Value) {
        for (text, id) in json.as_object().into_iter().flatten() {
            if let Some(id) = id.as_u64() {
                self.insert(path, id, text, true);
            }
        }
    }

    /// `[{"id": 32000, "content": "<image>", "special": true}]`.
    fn take_list(&mut self, path: &Path, list: &Value) {
        for token in list.as_array().into_iter().flatten() {
            if let (Some(id), Some(text)) = (token["id"].as_u64(), token["content"].as_str()) {
                self.insert(path, id, text, token["special"].as_bool().unwrap_or(false));
            }
        }
    }

    /// `{"bos_token": "<s>"}` or `{"bos_token": {"content": "<s>"}}`.
    fn take_roles(&mut self, json: &Value) {
        let text = |key: &str| {
            let value = &json[key];
            value.as_str().or(value["content"].as_str()).filter(|t| !t.is_empty()).map(str::to_owned)
        };
        self.bos = text("bos_token").or(self.bos.take());
        self.eos = text("eos_token").or(self.eos.take());
        self.unk = text("unk_token").or(self.unk.take());
        self.pad = text("pad_token").or(self.pad.take());
    }

    fn take_config(&mut self, path: &Path, json: &Value) {
        self.take_roles(json);
        for (id, token) in json["added_tokens_decoder"].as_object().into_iter().flatten() {
            if let (Ok(id), Some(text)) = (id.parse(), token["content"].as_str()) {
                self.insert(path, id, text, token["special"].as_bool().unwrap_or(false));
            }
        }
        self.add_bos = json["add_bos_token"].as_bool();
        self.add_eos = json["add_eos_token"].as_bool();
        // A list of templates by name, or one.
        let template = &json["chat_template"];
        let named =
            |name: &str| template.as_array()?.iter().find(|t| t["name"] == name)?["template"].as_str();
        self.chat_template = template.as_str().or_else(|| named("default")).map(str::to_owned);
    }
}
