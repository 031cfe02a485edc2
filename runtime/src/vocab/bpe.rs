//! Byte-level BPE (`gpt2`): Llama 3 and other `llama`-architecture models; run by the `tokenizers` crate.
//!
//! Text is cut into words by a regular expression that belongs to the model (`tokenizer.ggml.pre`), the bytes of each
//! word are spelled with 256 printable characters, and these are merged in the order of the file's list.

use super::Pieces;
use crate::{Error, Result};
use std::collections::HashMap;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer};

/// GPT-2's words.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Llama 3's words: contractions in any case, numbers in threes.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2's words: Llama 3's with single digits.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Mistral's Tekken: words break where the case rises.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What a name of `tokenizer.ggml.pre` stands for.
struct Pre {
    /// Applied one after the other, each to the pieces of the one before.
    words: &'static [&'static str],
    /// A word that is a piece is taken whole, whatever the merges.
    whole_words: bool,
    bos: bool,
}

/// By llama.cpp's names. A file without one is taken for GPT-2's, the rule that byte-level BPE began with.
fn pre(name: &str) -> Option<Pre> {
    Some(match name {
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "pixtral" => {
            Pre { words: &[LLAMA3], whole_words: true, bos: true }
        }
        "smaug-bpe" | "dbrx" => Pre { words: &[LLAMA3], whole_words: false, bos: false },
        "tekken" => Pre { words: &[TEKKEN], whole_words: true, bos: true },
        "qwen2" | "stablelm2" | "deepseek-r1-qwen" => Pre { words: &[QWEN2], whole_words: false, bos: false },
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" => {
            Pre { words: &[r"\p{N}", GPT2], whole_words: false, bos: false }
        }
        "" | "default" | "gpt-2" | "phi-2" | "olmo" | "mpt" => {
            Pre { words: &[GPT2], whole_words: false, bos: false }
        }
        _ => return None,
    })
}

#[derive(Debug)]
pub(super) struct Bpe {
    tokenizer: Tokenizer,
    /// The byte that each of the 256 printable characters spells.
    byte_of: HashMap<char, u8>,
    bos: bool,
}

impl Bpe {
    pub(super) fn new(pieces: &Pieces) -> Result<Self> {
        let wrong = |what: String| Error::Vocabulary { name: pieces.name.clone(), what };
        let pre = pre(&pieces.pre).ok_or_else(|| {
            wrong(format!(
                "cuts words by the rule {:?} (tokenizer.ggml.pre), which Pumice does not know; it knows llama-bpe, gpt-2, qwen2, tekken, smollm and their like",
                pieces.pre
            ))
        })?;
        let mut merges = Vec::with_capacity(pieces.merges.len());
        for merge in &pieces.merges {
            let (left, right) = merge.split_once(' ').ok_or_else(|| {
                wrong(format!("the merge {merge:?} is not two pieces with a space between"))
            })?;
            merges.push((left.to_owned(), right.to_owned()));
        }
        let mut vocab = Vocab::default();
        for (id, token) in (0..).zip(&pieces.tokens) {
            vocab.entry(token.clone()).or_insert(id);
        }
        let bpe = BPE::builder().vocab_and_merges(vocab, merges).ignore_merges(pre.whole_words).build();
        let mut tokenizer = Tokenizer::new(bpe.map_err(|e| wrong(format!("merges: {e}")))?);
        let mut steps = Vec::new();
        for words in pre.words {
            let pattern = SplitPattern::Regex((*words).to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
            steps.push(PreTokenizerWrapper::Split(split.map_err(|e| wrong(format!("words: {e}")))?));
        }
        steps.push(PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, false, false)));
        tokenizer.with_pre_tokenizer(Some(Sequence::new(steps)));
        Ok(Self { tokenizer, byte_of: spelled_bytes(), bos: pre.bos })
    }

    pub(super) fn begins_with_bos(&self) -> bool {
        self.bos
    }

    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        // Fails only where a byte has no piece and there is no unknown; the crate then drops it without an error.
        if let Ok(encoding) = self.tokenizer.encode_fast(text, false) {
            ids.extend_from_slice(encoding.get_ids());
        }
    }

    /// The bytes that a piece spells; a character outside the 256 stands for itself.
    pub(super) fn bytes(&self, piece: &str) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(piece.len());
        for c in piece.chars() {
            match self.byte_of.get(&c) {
                Some(&b) => bytes.push(b),
                None => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        bytes
    }
}

/// GPT-2's spelling: printable Latin-1 stands for itself, the other bytes for U+0100 and up, in order.
fn spelled_bytes() -> HashMap<char, u8> {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let others = (0..=255u8).filter(|&b| !printable(b)).zip('\u{100}'..).map(|(b, c)| (c, b));
    (0..=255u8).filter(|&b| printable(b)).map(|b| (char::from(b), b)).chain(others).collect()
}
