//! The synthetic vocabulary: control tokens, bytes, ASCII characters, common words, then syllables by a formula.
//!
//! Byte-pair encoding reaches a piece only by merging two others, so every word comes with all its beginnings, and
//! longer syllable words are made of shorter ones.

use std::collections::HashSet;

use crate::vocab::{Piece, TokenType};

/// Words of prompts about pictures, so that a tiny model's tokens look like text.
const WORDS: &str = "the a an of and in on to is are it this that with for you what who where how image picture \
    photo question answer user assistant human curious chat between artificial intelligence gives helpful detailed \
    polite answers color red green blue white black cat dog person man woman sky water tree house car one two three";
/// Consonants and vowels of the syllables.
const CONSONANTS: &str = "bcdfghjklmnpqrstvwxyz";
const VOWELS: &str = "aeiou";
/// What stands for a space.
const SPACE: char = '\u{2581}';

/// The first `count` pieces: at least the 360 that every text needs.
pub(super) fn pieces(count: usize) -> Vec<Piece> {
    let control = [("<unk>", TokenType::Unknown), ("<s>", TokenType::Control), ("</s>", TokenType::Control)];
    let mut pieces: Vec<Piece> =
        control.into_iter().map(|(text, kind)| Piece { text: text.into(), score: 0.0, kind }).collect();
    pieces.extend((0..=255u8).map(|b| Piece {
        text: format!("<0x{b:02X}>"),
        score: 0.0,
        kind: TokenType::Byte,
    }));
    let mut seen = HashSet::new();
    let texts = texts().filter(|text| seen.insert(text.clone())).take(count.saturating_sub(pieces.len()));
    for (rank, text) in texts.enumerate() {
        pieces.push(Piece { text, score: -(rank as f32), kind: TokenType::Normal });
    }
    pieces
}

/// Texts in the order of their merge priority; some come twice. More than a million.
fn texts() -> impl Iterator<Item = String> {
    let characters = std::iter::once(SPACE).chain('!'..='~').map(String::from);
    let words = WORDS.split_whitespace().flat_map(|word| {
        let beginnings = (1..=word.len()).map(move |end| &word[..end]);
        beginnings.map(|beginning| format!("{SPACE}{beginning}"))
    });
    let syllables = || CONSONANTS.chars().flat_map(|c| VOWELS.chars().map(move |v| format!("{c}{v}")));
    let spaced = move || syllables().map(|s| format!("{SPACE}{s}"));
    let two = move || syllables().flat_map(move |a| syllables().map(move |b| format!("{a}{b}")));
    let spaced_two = move || two().map(|s| format!("{SPACE}{s}"));
    let spaced_three = spaced_two().flat_map(move |a| syllables().map(move |b| format!("{a}{b}")));
    characters
        .chain(words)
        .chain(syllables())
        .chain(spaced())
        .chain(two())
        .chain(spaced_two())
        .chain(spaced_three)
}
