//! Tokens that are found in text as a whole, before any merging.

use super::{Kind, Pieces};

/// A stretch of text, or a token found in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'t> {
    /// Ordinary text, not empty.
    Text(&'t str),
    /// A special token.
    Token(u32),
}

/// The special tokens by their first byte, the longest first.
#[derive(Debug)]
pub(super) struct Specials {
    by_byte: Vec<Vec<Special>>,
}

#[derive(Debug)]
struct Special {
    text: String,
    id: u32,
    /// Found only where the text may name control tokens.
    control: bool,
}

impl Specials {
    pub(super) fn new(pieces: &Pieces) -> Self {
        let mut by_byte: Vec<Vec<Special>> = (0..256).map(|_| Vec::new()).collect();
        for ((id, text), kind) in (0..).zip(&pieces.tokens).zip(&pieces.kinds) {
            let control = match kind {
                Kind::Control | Kind::Unknown => true,
                Kind::UserDefined => false,
                _ => continue,
            };
            if let Some(&first) = text.as_bytes().first() {
                by_byte[usize::from(first)].push(Special { text: text.clone(), id, control });
            }
        }
        for list in &mut by_byte {
            list.sort_by_key(|s| std::cmp::Reverse(s.text.len()));
        }
        Self { by_byte }
    }

    /// Cuts `text` at its tokens: leftmost first, longest where several begin together.
    pub(super) fn split<'t>(&self, text: &'t str, control: bool) -> Vec<Part<'t>> {
        let mut parts = Vec::new();
        let (mut done, mut at) = (0, 0);
        let bytes = text.as_bytes();
        while at < bytes.len() {
            let here = self.by_byte[usize::from(bytes[at])].iter().filter(|s| control || !s.control);
            let Some(found) = here.into_iter().find(|s| bytes[at..].starts_with(s.text.as_bytes())) else {
                at += 1;
                continue;
            };
            if done < at {
                parts.push(Part::Text(&text[done..at]));
            }
            parts.push(Part::Token(found.id));
            at += found.text.len();
            done = at;
        }
        if done < text.len() {
            parts.push(Part::Text(&text[done..]));
        }
        parts
    }
}
