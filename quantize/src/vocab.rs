//! The vocabulary of a checkpoint, read from its tokenizer files and written as GGUF's `tokenizer.ggml.*` keys.
//!
//! Three kinds of file hold one: SentencePiece's protobuf (`tokenizer.model`), Hugging Face's `tokenizer.json` made
//! from it, and the byte-level BPE of Llama 3's `tokenizer.json`. The first two become GGUF's "llama" model, the third
//! its "gpt2" model. Tokens added later (`<image>`, `[PAD]`, `<im_start>` …) stand in up to four files beside.

mod added;
mod json;
mod sentencepiece;

use std::path::{Path, PathBuf};

use pumice_models::gguf::{Array, Value};

pub use added::Added;

use crate::{Error, Result};

/// What a token is; the numbers are SentencePiece's and GGUF's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum TokenType {
    /// Text.
    Normal = 1,
    /// Stands for what has no token.
    Unknown = 2,
    /// Never appears in text: begin and end of a sequence.
    Control = 3,
    /// Added by hand, matched before all else.
    UserDefined = 4,
    /// A row of the embeddings without meaning.
    Unused = 5,
    /// One byte of UTF-8, `<0x0A>`.
    Byte = 6,
}

/// One token.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// Its text, with U+2581 for spaces (or GPT-2's letters for bytes).
    pub text: String,
    /// SentencePiece's merge priority, higher first.
    pub score: f32,
    /// What it is.
    pub kind: TokenType,
}

/// How text becomes tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Algorithm {
    /// SentencePiece BPE with byte fallback: GGUF's "llama".
    SentencePiece,
    /// Byte-level BPE: GGUF's "gpt2", with its merges ("left right") and the name of its splitting rule.
    ByteLevel {
        /// Pairs in the order in which they merge.
        merges: Vec<String>,
        /// llama.cpp's name of the splitting rule (`tokenizer.ggml.pre`).
        pre: &'static str,
    },
}

/// Ids of the tokens with a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Roles {
    /// Begins a sequence.
    pub bos: Option<u32>,
    /// Ends a sequence.
    pub eos: Option<u32>,
    /// Stands for the unknown.
    pub unk: Option<u32>,
    /// Fills a batch.
    pub pad: Option<u32>,
}

/// A vocabulary.
#[derive(Debug, Clone, PartialEq)]
pub struct Vocab {
    /// The file it came from.
    pub path: PathBuf,
    /// Tokens by id.
    pub pieces: Vec<Piece>,
    /// Tokens of the tokenizer's own, before any that were added later.
    pub base: usize,
    /// How text becomes tokens.
    pub algorithm: Algorithm,
    /// Tokens with a role.
    pub roles: Roles,
    /// Whether a text is given a begin-of-sequence token.
    pub add_bos: bool,
    /// Whether a text is given an end-of-sequence token.
    pub add_eos: bool,
    /// Whether a space is put before a text.
    pub add_space_prefix: bool,
    /// The conversation template in Jinja that lies beside the tokenizer.
    pub chat_template: Option<String>,
}

/// Merge priority of tokens that were added or that only fill: below every real one (llama.cpp's converter).
const ADDED_SCORE: f32 = -1000.0;
/// Merge priority of tokens that pad the embeddings' rows (llama.cpp's converter).
const UNUSED_SCORE: f32 = -10000.0;

impl Vocab {
    /// Reads the vocabulary of the checkpoint in `folder`: `tokenizer.model`, else `tokenizer.json`, with what the
    /// files beside add and name.
    ///
    /// # Errors
    /// No tokenizer, or one that is damaged or of an unknown kind.
    pub fn open(folder: &Path) -> Result<Self> {
        let (model, json) = (folder.join("tokenizer.model"), folder.join("tokenizer.json"));
        let mut vocab = if model.is_file() {
            sentencepiece::parse(&model, &read(&model)?)?
        } else if json.is_file() {
            json::parse(&json, &read_json(&json)?)?
        } else {
            return Err(Error::Tokenizer {
                path: folder.into(),
                problem: "holds neither tokenizer.model nor tokenizer.json; copy the base model's here"
                    .into(),
            });
        };
        let added = Added::open(folder)?;
        vocab.add(&added)?;
        vocab.chat_template = added.chat_template;
        Ok(vocab)
    }

    /// Puts tokens that files beside name at their ids and takes the roles that they give.
    fn add(&mut self, added: &Added) -> Result<()> {
        for (&id, token) in &added.tokens {
            let index = id as usize;
            match self.pieces.get(index) {
                // tokenizer_config.json repeats <unk>, <s> and </s>, which the tokenizer's own file knows better.
                Some(piece) if piece.text == token.text || index < self.base => {}
                Some(piece) if piece.kind != TokenType::Unused => {
                    let problem =
                        format!("gives id {id} to {:?}, which is {:?} already", token.text, piece.text);
                    return Err(Error::Tokenizer { path: token.path.clone(), problem });
                }
                Some(_) => self.pieces[index] = added_piece(token),
                // No vocabulary grows by more than a few thousand; a hostile id must not take the memory.
                None if index > self.base + MAX_ADDED => {
                    let problem = format!(
                        "gives id {id} to {:?}, far beyond the {} tokens there are",
                        token.text, self.base
                    );
                    return Err(Error::Tokenizer { path: token.path.clone(), problem });
                }
                None => {
                    self.resize(index);
                    self.pieces.push(added_piece(token));
                }
            }
        }
        let id_of = |text: &Option<String>| {
            let text = text.as_ref()?;
            self.pieces.iter().position(|p| p.text == *text).map(|id| id as u32)
        };
        self.roles = Roles {
            bos: id_of(&added.bos).or(self.roles.bos),
            eos: id_of(&added.eos).or(self.roles.eos),
            unk: id_of(&added.unk).or(self.roles.unk),
            pad: id_of(&added.pad).or(self.roles.pad),
        };
        if let Some(piece) = self.roles.unk.and_then(|id| self.pieces.get_mut(id as usize)) {
            piece.kind = TokenType::Unknown;
        }
        self.add_bos = added.add_bos.unwrap_or(self.add_bos);
        self.add_eos = added.add_eos.unwrap_or(self.add_eos);
        Ok(())
    }

    /// Takes the ids that `config.json` gives for roles that no tokenizer file names.
    pub(crate) fn add_roles_of(&mut self, config: &serde_json::Value) {
        // Llama 3 lists several tokens that end a text; the first ends all of it.
        let id = |key: &str| {
            let value = &config[key];
            let id = value.as_u64().or_else(|| value.as_array()?.first()?.as_u64())?;
            u32::try_from(id).ok().filter(|id| (*id as usize) < self.pieces.len())
        };
        self.roles.bos = self.roles.bos.or_else(|| id("bos_token_id"));
        self.roles.eos = self.roles.eos.or_else(|| id("eos_token_id"));
        self.roles.pad = self.roles.pad.or_else(|| id("pad_token_id"));
    }

    /// Cuts to `rows` tokens, or fills up to them with tokens that are never used. Roles past the end go; a padding
    /// token that goes is replaced by the unknown one, as LLaVA's own configuration has it.
    pub fn resize(&mut self, rows: usize) {
        self.pieces.truncate(rows);
        for id in self.pieces.len()..rows {
            self.pieces.push(Piece {
                text: format!("[PAD{id}]"),
                score: UNUSED_SCORE,
                kind: TokenType::Unused,
            });
        }
        let inside = |id: Option<u32>| id.filter(|id| (*id as usize) < rows);
        self.roles.bos = inside(self.roles.bos);
        self.roles.eos = inside(self.roles.eos);
        self.roles.unk = inside(self.roles.unk);
        self.roles.pad = inside(self.roles.pad).or(self.roles.pad.and(self.roles.unk));
    }

    /// The metadata, in the order in which llama.cpp's converter writes it.
    pub fn keys(&self) -> Vec<(String, Value)> {
        let mut keys: Vec<(String, Value)> = Vec::new();
        let mut set = |key: &str, value: Value| keys.push((format!("tokenizer.ggml.{key}"), value));
        let (model, pre) = match &self.algorithm {
            Algorithm::SentencePiece => ("llama", "default"),
            Algorithm::ByteLevel { pre, .. } => ("gpt2", *pre),
        };
        set("model", Value::String(model.into()));
        set("pre", Value::String(pre.into()));
        set("tokens", Value::Array(Array::String(self.pieces.iter().map(|p| p.text.clone()).collect())));
        if self.algorithm == Algorithm::SentencePiece {
            set("scores", Value::Array(Array::F32(self.pieces.iter().map(|p| p.score).collect())));
        }
        set("token_type", Value::Array(Array::I32(self.pieces.iter().map(|p| p.kind as i32).collect())));
        if let Algorithm::ByteLevel { merges, .. } = &self.algorithm {
            set("merges", Value::Array(Array::String(merges.clone())));
        }
        let roles = [
            ("bos", self.roles.bos),
            ("eos", self.roles.eos),
            ("unknown", self.roles.unk),
            ("padding", self.roles.pad),
        ];
        for (role, id) in roles {
            if let Some(id) = id {
                set(&format!("{role}_token_id"), Value::U32(id));
            }
        }
        set("add_bos_token", Value::Bool(self.add_bos));
        set("add_eos_token", Value::Bool(self.add_eos));
        if self.algorithm == Algorithm::SentencePiece && !self.add_space_prefix {
            set("add_space_prefix", Value::Bool(false));
        }
        keys
    }
}

/// How far past a vocabulary's end an added token's id may lie.
const MAX_ADDED: usize = 1 << 16;

fn added_piece(token: &added::Token) -> Piece {
    let kind = if token.special { TokenType::Control } else { TokenType::UserDefined };
    Piece { text: token.text.clone(), score: ADDED_SCORE, kind }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| Error::Io {
        path: path.into(),
        doing: "reading the tokenizer",
        source,
    })
}

fn read_json(path: &Path) -> Result<serde_json::Value> {
    serde_json::from_slice(&read(path)?).map_err(|e| Error::Tokenizer {
        path: path.into(),
        problem: format!("is not JSON: {e}; download it again"),
    })
}

#[cfg(test)]
mod tests;
