//! The vocabulary of a model: text to token ids and back, from the metadata of its GGUF file.
//!
//! Two kinds occur among `llama` models. `llama` is SentencePiece BPE (LLaMA 1 and 2, Vicuna, so every LLaVA here): merges
//! in the order of scores, spaces as U+2581, one such space before each fresh text, bytes as a last resort; that is our
//! own loop (`spm`), because SentencePiece is the oracle and its rules on leading spaces, ties and unused pieces are
//! few, while the `tokenizers` crate needs a list of merges that the file does not hold. `gpt2` is byte-level BPE
//! (Llama 3 and others) with its merges in the file, and is run by the `tokenizers` crate (`bpe`).
//!
//! Control tokens such as `</s>` are never recognised in text unless the caller asks: a person who types them gets
//! ordinary pieces. Text after such a token is a fresh text and gets its leading space again, as the slow tokenizer
//! ("legacy") that LLaVA used and llama.cpp have it.

mod bpe;
mod detokenize;
mod read;
mod special;
mod spm;

pub use detokenize::Detokenizer;
pub use special::Part;

use crate::{Error, Result};
use std::collections::HashMap;

/// What a piece is: GGUF's numbers of `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Kind {
    /// Ordinary text (1).
    #[default]
    Normal,
    /// Stands for what has no piece (2).
    Unknown,
    /// Means something to the model and is no text: `<s>`, `</s>` (3).
    Control,
    /// Text that is always one token (4).
    UserDefined,
    /// Not given out, but may take part in merges (5).
    Unused,
    /// One byte, written `<0x0A>` (6).
    Byte,
}

/// A vocabulary's raw material, as the file has it.
#[derive(Clone, Debug, Default)]
pub struct Pieces {
    /// The file, for messages.
    pub name: String,
    /// "llama" or "gpt2".
    pub model: String,
    /// How `gpt2` text is cut into words before merging: "llama-bpe", "gpt-2" …; empty for `llama`.
    pub pre: String,
    /// The pieces; a token's id is its place.
    pub tokens: Vec<String>,
    /// `llama`: merge priority per piece.
    pub scores: Vec<f32>,
    /// Kind per piece; empty means all normal but the bytes and the ids below.
    pub kinds: Vec<Kind>,
    /// `gpt2`: "left right", best first.
    pub merges: Vec<String>,
    /// Begins a text.
    pub bos: Option<u32>,
    /// Ends a text.
    pub eos: Option<u32>,
    /// Ends a turn.
    pub eot: Option<u32>,
    /// Stands for what has no piece.
    pub unknown: Option<u32>,
    /// Whether a prompt begins with `bos`; the kind of model decides when absent.
    pub add_bos: Option<bool>,
    /// `llama`: whether a fresh text gets a leading space; absent means yes.
    pub add_space_prefix: Option<bool>,
}

/// Text to ids and ids to text.
#[derive(Debug)]
pub struct Vocabulary {
    pieces: Pieces,
    ids: HashMap<String, u32>,
    special: special::Specials,
    merger: Merger,
    stops: Vec<u32>,
}

/// How runs of ordinary text become ids.
#[derive(Debug)]
enum Merger {
    Spm(spm::Spm),
    Bpe(Box<bpe::Bpe>),
}

impl Vocabulary {
    /// Builds a vocabulary.
    ///
    /// # Errors
    /// The kind of model is unknown, lists differ in length, an id is out of range, or merges do not fit the pieces.
    pub fn new(mut pieces: Pieces) -> Result<Self> {
        let wrong = |what: String| Error::Vocabulary { name: pieces.name.clone(), what };
        let n = pieces.tokens.len();
        if n == 0 {
            return Err(wrong("holds no pieces; the file is damaged".into()));
        }
        if !pieces.kinds.is_empty() && pieces.kinds.len() != n {
            return Err(wrong(format!("{n} pieces but {} kinds; the file is damaged", pieces.kinds.len())));
        }
        let named = [pieces.bos, pieces.eos, pieces.eot, pieces.unknown];
        if let Some(id) = named.into_iter().flatten().find(|&id| id as usize >= n) {
            return Err(wrong(format!("names token {id} of {n}; the file is damaged")));
        }
        if pieces.kinds.is_empty() {
            pieces.kinds = guess_kinds(&pieces);
        }
        let mut ids = HashMap::with_capacity(n);
        for (id, token) in (0..).zip(&pieces.tokens) {
            ids.entry(token.clone()).or_insert(id);
        }
        let merger = match pieces.model.as_str() {
            "llama" => Merger::Spm(spm::Spm::new(&pieces)?),
            "gpt2" => Merger::Bpe(Box::new(bpe::Bpe::new(&pieces)?)),
            other => {
                return Err(wrong(format!(
                    "is of the kind {other:?}; Pumice reads \"llama\" (SentencePiece BPE) and \"gpt2\" (byte-level BPE)"
                )));
            }
        };
        let special = special::Specials::new(&pieces);
        let stops = stops(&pieces, &ids);
        Ok(Self { pieces, ids, special, merger, stops })
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.pieces.tokens.len()
    }

    /// Whether there are no tokens: never.
    pub fn is_empty(&self) -> bool {
        self.pieces.tokens.is_empty()
    }

    /// The ids of `text` as a fresh text: with the leading space of `llama` vocabularies, without `bos`.
    /// Control tokens in `text` are recognised only if `special`; user-defined ones always.
    pub fn encode(&self, text: &str, special: bool) -> Vec<u32> {
        let mut ids = Vec::new();
        for part in self.special.split(text, special) {
            match part {
                Part::Text(text) => self.encode_plain(text, true, &mut ids),
                Part::Token(id) => ids.push(id),
            }
        }
        ids
    }

    /// The ids of `text` as the continuation of a text: as [`Vocabulary::encode`] without the leading space.
    pub fn encode_continued(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        for (i, part) in self.special.split(text, false).into_iter().enumerate() {
            match part {
                Part::Text(text) => self.encode_plain(text, i > 0, &mut ids),
                Part::Token(id) => ids.push(id),
            }
        }
        ids
    }

    /// Cuts `text` at its special tokens: user-defined ones, and with `control` control tokens too.
    pub fn split<'t>(&self, text: &'t str, control: bool) -> Vec<Part<'t>> {
        self.special.split(text, control)
    }

    fn encode_plain(&self, text: &str, fresh: bool, ids: &mut Vec<u32>) {
        match &self.merger {
            Merger::Spm(spm) => spm.encode(&self.ids, text, fresh, ids),
            Merger::Bpe(bpe) => bpe.encode(text, ids),
        }
    }

    /// The text of `ids`, read as a whole text: [`Detokenizer`] over all of them.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut detokenizer = Detokenizer::new();
        let mut text: String = ids.iter().map(|&id| detokenizer.push(self, id)).collect();
        text.push_str(&detokenizer.finish());
        text
    }

    /// The piece of `id` as the file writes it; empty for an id out of range.
    pub fn piece(&self, id: u32) -> &str {
        self.pieces.tokens.get(id as usize).map_or("", String::as_str)
    }

    /// The id of a piece as the file writes it.
    pub fn id(&self, piece: &str) -> Option<u32> {
        self.ids.get(piece).copied()
    }

    /// What `id` is; [`Kind::Unused`] for an id out of range.
    pub fn kind(&self, id: u32) -> Kind {
        self.pieces.kinds.get(id as usize).copied().unwrap_or(Kind::Unused)
    }

    /// The bytes that `id` stands for in a text; none for control tokens.
    pub fn bytes(&self, id: u32) -> Vec<u8> {
        match (self.kind(id), &self.merger) {
            (Kind::Control | Kind::Unused, _) => Vec::new(),
            (Kind::Byte, _) => byte_of(self.piece(id)).into_iter().collect(),
            (Kind::UserDefined, _) => self.piece(id).as_bytes().to_vec(),
            (Kind::Unknown, _) => " \u{2047} ".into(), // SentencePiece's surface of the unknown
            (Kind::Normal, Merger::Spm(_)) => self.piece(id).replace(spm::SPACE, " ").into_bytes(),
            (Kind::Normal, Merger::Bpe(bpe)) => bpe.bytes(self.piece(id)),
        }
    }

    /// Begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.pieces.bos
    }

    /// Ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.pieces.eos
    }

    /// Ends a turn, where that is another token than [`Vocabulary::eos`].
    pub fn eot(&self) -> Option<u32> {
        self.pieces.eot
    }

    /// All ids that end an answer, ascending: `eos`, `eot`, and the tokens known by name to do so.
    pub fn stops(&self) -> &[u32] {
        &self.stops
    }

    /// Whether a prompt begins with [`Vocabulary::bos`].
    pub fn add_bos(&self) -> bool {
        self.pieces.add_bos.unwrap_or(match &self.merger {
            Merger::Spm(_) => true,
            Merger::Bpe(bpe) => bpe.begins_with_bos(),
        })
    }

    /// Whether a fresh text gets a leading space, which a decoded text loses again.
    fn has_space_prefix(&self) -> bool {
        matches!(&self.merger, Merger::Spm(spm) if spm.space_prefix())
    }
}

/// The byte of a piece `<0xNN>`.
fn byte_of(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// Kinds for a file that has none: bytes by their spelling, the named ids, the rest text.
fn guess_kinds(pieces: &Pieces) -> Vec<Kind> {
    let is_spm = pieces.model == "llama";
    let byte_or_text = |t: &String| if is_spm && byte_of(t).is_some() { Kind::Byte } else { Kind::Normal };
    let mut kinds: Vec<Kind> = pieces.tokens.iter().map(byte_or_text).collect();
    for id in [pieces.bos, pieces.eos, pieces.eot].into_iter().flatten() {
        kinds[id as usize] = Kind::Control;
    }
    if let Some(id) = pieces.unknown {
        kinds[id as usize] = Kind::Unknown;
    }
    kinds
}

/// Tokens that end an answer whatever the file's keys say; many files name only one of theirs.
const STOP_NAMES: [&str; 10] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<EOT>",
    "<｜end▁of▁sentence｜>",
];

fn stops(pieces: &Pieces, ids: &HashMap<String, u32>) -> Vec<u32> {
    let named = STOP_NAMES.iter().filter_map(|name| ids.get(*name).copied());
    let named = named.filter(|&id| matches!(pieces.kinds[id as usize], Kind::Control | Kind::UserDefined));
    let mut stops: Vec<u32> = named.chain(pieces.eos).chain(pieces.eot).collect();
    stops.sort_unstable();
    stops.dedup();
    stops
}

#[cfg(test)]
pub(crate) mod tests;
