//! Ids to text as they come, never half a character.
//!
//! A character may be spread over several byte tokens, so bytes wait until they are whole. Bytes that can never become a
//! character turn into U+FFFD, one for each; an unfinished character does so at the end.

use super::Vocabulary;

/// The text of one answer or document, token by token.
#[derive(Clone, Debug, Default)]
pub struct Detokenizer {
    /// The start of a character whose rest has not come.
    pending: Vec<u8>,
    started: bool,
}

impl Detokenizer {
    /// At the start of a text: the leading space that `llama` vocabularies put there is taken off again.
    pub fn new() -> Self {
        Self::default()
    }

    /// The text that `id` completes; often a word, sometimes nothing.
    pub fn push(&mut self, vocabulary: &Vocabulary, id: u32) -> String {
        let bytes = vocabulary.bytes(id);
        if bytes.is_empty() {
            return String::new(); // a control token is no text, and the text has not begun
        }
        let strip = !self.started && vocabulary.has_space_prefix() && bytes[0] == b' ';
        self.started = true;
        self.pending.extend_from_slice(&bytes[usize::from(strip)..]);
        self.take(false)
    }

    /// What is left at the end: U+FFFD for each byte of an unfinished character.
    pub fn finish(&mut self) -> String {
        self.take(true)
    }

    fn take(&mut self, end: bool) -> String {
        let mut text = String::new();
        let mut rest = &self.pending[..];
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(e) => {
                    let (valid, bad) = rest.split_at(e.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    if e.error_len().is_none() && !end {
                        rest = bad;
                        break;
                    }
                    // One for each byte, as SentencePiece has it.
                    let n = e.error_len().unwrap_or(bad.len());
                    text.extend(std::iter::repeat_n(char::REPLACEMENT_CHARACTER, n));
                    rest = &bad[n..];
                }
            }
        }
        self.pending = rest.to_vec();
        text
    }
}
