//! The world's own vocabulary: byte-pair encoding in SentencePiece's manner, trained on what the world says.
//!
//! A small model should spend its steps on seeing and counting, not on spelling; the text of this world has few words, so
//! a vocabulary of its own gives nearly every word one piece. The result is an ordinary LLaMA `tokenizer.model`:
//!
//! ```text
//! 0 <unk>   1 <s>   2 </s>   3..=258 <0x00> … <0xFF>   then merges, best first   then single characters
//! score of the n-th piece after the bytes = −n          ▁ (U+2581) stands for a space, one in front of each fresh text
//! ```
//! Training joins the most frequent neighbouring pair within words, again and again (Sennrich, Haddow, Birch 2016). A word
//! is `▁` and letters with hyphens; marks such as `.` `,` `?` `:` are words of their own, so that "fox" and "fox." share a
//! piece; a line end is no piece and falls to its byte, as LLaMA's. Joining by scores then never crosses a word, because
//! no piece does.

mod proto;

use super::kinds::{KINDS, Kind};
use super::rows::BRIEFLY;
use super::scene::Split;
use super::{World, describe};
use crate::{Error, Result};
use pumice_runtime::vocab::{self, Pieces, Vocabulary};
use std::collections::BTreeMap;
use std::path::Path;

/// Pieces by default: room for every word that the world says, see the test.
pub const PIECES: usize = 2048;
/// `<unk>`, `<s>`, `</s>` and the bytes.
const FIXED: usize = 3 + 256;
/// What SentencePiece writes for a space.
const SPACE: char = '\u{2581}';
/// Scenes whose text is counted: the rarest question has then been asked dozens of times.
const SCENES: u64 = 4000;
/// LLaVA's conversations around the turns, v1 and v0; counted so often that each word becomes a piece.
const TEMPLATES: [&str; 2] = [
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives \
                        helpful, detailed, and polite answers to the user's questions. USER: ASSISTANT:",
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, \
     and polite answers to the human's questions.\n### Human: ### Assistant:",
];

/// A trained vocabulary.
#[derive(Clone, Debug)]
pub struct Model {
    /// Piece, score, kind; a piece's id is its place.
    pieces: Vec<(String, f32, vocab::Kind)>,
}

/// Trains a vocabulary of `size` pieces on the world's text; of fewer, if all words are whole before.
///
/// # Errors
/// `size` leaves no room for the bytes and characters.
pub fn train(size: usize) -> Result<Model> {
    train_on(&world_words(), size)
}

/// Counts the words of the world's text.
fn world_words() -> BTreeMap<String, u64> {
    let mut words = BTreeMap::new();
    let world = World::new(0, Split::Train);
    for index in 0..SCENES {
        let scene = world.scene(index);
        let row = world.text_row(index, &scene, 8);
        for turn in &row.conversations {
            count_words(&turn.value, 1, &mut words);
        }
        for caption in describe::captions(&scene) {
            count_words(&caption, 1, &mut words);
        }
    }
    for kind in 0..KINDS.len() as Kind {
        for turn in world.general_row(0, kind).conversations {
            count_words(&turn.value, 20, &mut words);
        }
    }
    // Said rarely or never above, but by every prompt: as often as a common word.
    for text in BRIEFLY.iter().chain(&TEMPLATES) {
        count_words(text, 1000, &mut words);
        count_words(&format!("\n{text}"), 1000, &mut words);
    }
    let teacher = world.teacher();
    for rule in teacher.phrases().all().into_iter().map(|r| r.1).chain(teacher.talk().rules()) {
        for text in rule.fragments() {
            count_words(text, 20, &mut words);
        }
    }
    words
}

/// Cuts `text` into words and counts each `times` times.
fn count_words(text: &str, times: u64, words: &mut BTreeMap<String, u64>) {
    let mut word = String::from(SPACE);
    let mut end = |word: &mut String| {
        if word.chars().any(|c| c != SPACE) {
            *words.entry(std::mem::take(word)).or_default() += times;
        }
        word.clear();
    };
    for c in text.chars() {
        match c {
            ' ' => {
                end(&mut word);
                word.push(SPACE);
            }
            '\n' => end(&mut word),
            c if c.is_alphanumeric() || c == '-' => word.push(c),
            mark => {
                end(&mut word);
                word.push(mark);
                end(&mut word);
            }
        }
    }
    end(&mut word);
}

/// Byte-pair encoding of counted words.
fn train_on(words: &BTreeMap<String, u64>, size: usize) -> Result<Model> {
    // All of ASCII that prints, so that what a person types has pieces too; then what the text has besides.
    let mut characters: Vec<char> = std::iter::once(SPACE).chain('!'..='~').collect();
    let mut others: Vec<char> =
        words.keys().flat_map(|w| w.chars()).filter(|c| !characters.contains(c)).collect();
    others.sort_unstable();
    others.dedup();
    characters.extend(others);
    let room = size.checked_sub(FIXED + characters.len()).ok_or_else(|| {
        Error::Config(format!(
            "a vocabulary of {size} pieces: {} are taken by bytes and characters; ask for more",
            FIXED + characters.len()
        ))
    })?;
    let mut texts: Vec<(Vec<String>, u64)> =
        words.iter().map(|(w, n)| (w.chars().map(String::from).collect(), *n)).collect();
    let mut merges: Vec<String> = Vec::with_capacity(room);
    while merges.len() < room {
        let Some((left, right)) = best_pair(&texts) else { break };
        let joined = format!("{left}{right}");
        for (symbols, _) in &mut texts {
            join(symbols, &left, &right);
        }
        if !merges.contains(&joined) {
            merges.push(joined);
        }
    }
    Ok(Model::new(merges.into_iter().chain(characters.into_iter().map(String::from))))
}

/// The most frequent neighbours; the first in the order of their text on a tie.
fn best_pair(texts: &[(Vec<String>, u64)]) -> Option<(String, String)> {
    let mut pairs: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for (symbols, n) in texts {
        for pair in symbols.windows(2) {
            *pairs.entry((&pair[0], &pair[1])).or_default() += n;
        }
    }
    let best = pairs.into_iter().max_by(|a, b| a.1.cmp(&b.1).then(b.0.cmp(&a.0)))?;
    Some((best.0.0.into(), best.0.1.into()))
}

fn join(symbols: &mut Vec<String>, left: &str, right: &str) {
    let mut i = 0;
    while i + 1 < symbols.len() {
        if symbols[i] == left && symbols[i + 1] == right {
            let right = symbols.remove(i + 1);
            symbols[i].push_str(&right);
        }
        i += 1;
    }
}

impl Model {
    fn new(pieces: impl Iterator<Item = String>) -> Self {
        let special =
            [("<unk>", vocab::Kind::Unknown), ("<s>", vocab::Kind::Control), ("</s>", vocab::Kind::Control)];
        let special = special.into_iter().map(|(s, kind)| (s.to_owned(), 0.0, kind));
        let bytes = (0..=255u8).map(|b| (format!("<0x{b:02X}>"), 0.0, vocab::Kind::Byte));
        let text = pieces.enumerate().map(|(i, s)| (s, -(i as f32), vocab::Kind::Normal));
        Self { pieces: special.chain(bytes).chain(text).collect() }
    }

    /// Number of pieces.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Whether there are none: never.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The vocabulary as the runtime reads it.
    ///
    /// # Errors
    /// The pieces do not make a vocabulary: our own mistake.
    pub fn vocabulary(&self) -> Result<Vocabulary> {
        Ok(Vocabulary::new(Pieces {
            name: "the world's vocabulary".into(),
            model: "llama".into(),
            tokens: self.pieces.iter().map(|p| p.0.clone()).collect(),
            scores: self.pieces.iter().map(|p| p.1).collect(),
            kinds: self.pieces.iter().map(|p| p.2).collect(),
            bos: Some(1),
            eos: Some(2),
            unknown: Some(0),
            ..Pieces::default()
        })?)
    }

    /// The bytes of `tokenizer.model`.
    pub fn to_bytes(&self) -> Vec<u8> {
        proto::model(&self.pieces)
    }

    /// Writes `tokenizer.model` and `tokenizer_config.json` into `dir`.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let config = serde_json::json!({
            "tokenizer_class": "LlamaTokenizer",
            "add_bos_token": true,
            "add_eos_token": false,
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "pad_token": "<unk>",
            "clean_up_tokenization_spaces": false,
            "legacy": true,
            "model_max_length": 2048,
        });
        let config = format!("{config:#}\n");
        for (name, bytes) in
            [("tokenizer.model", self.to_bytes()), ("tokenizer_config.json", config.into_bytes())]
        {
            let path = dir.join(name);
            std::fs::write(&path, bytes).map_err(Error::io(path))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
