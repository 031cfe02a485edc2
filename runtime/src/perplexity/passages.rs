//! What is shown to a model at once and which of its tokens are scored: windows of a text, and conversations.
//!
//! ```text
//! window:        BOS t₁ t₂ … t(c/2) | t(c/2+1) … t(c−1)         scored: what is behind the bar
//! conversation:  … <image> question ASSISTANT: | answer </s> | USER: question ASSISTANT: | answer </s> |
//! ```
//! Windows are `llama-perplexity`'s (tools/perplexity/perplexity.cpp without `--ppl-stride`, read at 050fc7f): the text without
//! its last line's end is tokenised whole, `bos` in front where the vocabulary wants it; it is cut into windows of `c` tokens that do
//! not overlap, what is left over is dropped; the first token of each window gives way to `bos`; and the tokens at places
//! c/2 + 1 … c − 1, counted from 0, are scored, so that each has at least half a window before it. A text of one window
//! is taken, where that program wants two.
//!
//! Of a conversation those tokens are scored that training learns ([`Format::conversation`]): each answer with what ends it.
//! Where the format does not tell its ends in tokens (v0's `###`, a model's own Jinja), the answers alone.

use super::rows::{IMAGE_MARK, Row};
use crate::{Chunk, Error, Format, Result, Turn, Vocabulary};
use pumice_models::llama::Input;
use std::{ops::Range, path::PathBuf};

/// What is shown to a model at once, from position 0 on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// In order, each with whether its tokens are scored; a row each for tokens, several for a picture.
    chunks: Vec<(Chunk, bool)>,
    /// Pictures; [`Chunk::Image`] counts them from 0.
    pub(super) pictures: Vec<PathBuf>,
}

/// The windows of `text`, `ctx` tokens each.
///
/// # Errors
/// The text is shorter than a window, or a window too short for a second half.
pub fn windows(vocabulary: &Vocabulary, text: &str, ctx: usize) -> Result<Vec<Passage>> {
    if ctx < 3 {
        return Err(Error::WindowTooShort { ctx });
    }
    let bos = vocabulary.bos().filter(|_| vocabulary.add_bos());
    let mut ids: Vec<u32> = bos.into_iter().collect();
    ids.extend(vocabulary.encode(text.strip_suffix('\n').unwrap_or(text), false));
    if ids.len() < ctx {
        return Err(Error::TextTooShort { tokens: ids.len(), ctx });
    }
    let window = |ids: &[u32]| {
        let (before, scored) = ids.split_at(ctx / 2 + 1);
        let mut before = before.to_vec();
        before[0] = bos.unwrap_or(before[0]);
        let chunks = vec![(Chunk::Tokens(before), false), (Chunk::Tokens(scored.to_vec()), true)];
        Passage { chunks, pictures: Vec::new() }
    };
    Ok(ids.chunks_exact(ctx).map(window).collect())
}

/// The conversation of `row` as `format` writes it.
///
/// # Errors
/// The format does not fit the row or the vocabulary.
pub fn conversation(format: &Format, vocabulary: &Vocabulary, row: &Row) -> Result<Passage> {
    let questions = questions(row, format.name() == "plain");
    let exchanges: Vec<(Turn<'_>, &str)> = questions
        .iter()
        .zip(&row.turns)
        .map(|((text, images), [_, answer])| (Turn { text, images, ..Turn::default() }, answer.as_str()))
        .collect();
    let chunks = match format.conversation(vocabulary, &exchanges) {
        Err(Error::NotTrainable { .. }) => answers_alone(format, vocabulary, &exchanges),
        chunks => chunks,
    };
    let chunks = chunks.map_err(|e| Error::Row { row: row.name.clone(), what: e.to_string() })?;
    Ok(Passage { chunks, pictures: row.images.clone() })
}

/// The questions without their marks, and the numbers of their pictures. As in LLaVA's training, a question that shows a picture
/// loses the white space around its words; `plain` has no words.
fn questions(row: &Row, plain: bool) -> Vec<(String, Vec<usize>)> {
    let mut images = 0..row.images.len();
    let question = |[question, _]: &[String; 2]| {
        let shown: Vec<usize> = images.by_ref().take(question.matches(IMAGE_MARK).count()).collect();
        let text = match (plain, shown.is_empty()) {
            (true, _) => String::new(),
            (false, true) => question.clone(),
            (false, false) => question.replace(IMAGE_MARK, "").trim().to_owned(),
        };
        (text, shown)
    };
    row.turns.iter().map(question).collect()
}

/// The conversation turn by turn as the chat has it, scored without what ends the answers.
fn answers_alone(
    format: &Format,
    vocabulary: &Vocabulary,
    exchanges: &[(Turn<'_>, &str)],
) -> Result<Vec<(Chunk, bool)>> {
    let mut chunks = Vec::new();
    for (i, (turn, answer)) in exchanges.iter().enumerate() {
        let asked = match i {
            0 => format.first_turn(vocabulary, turn)?,
            _ => format.next_turn(vocabulary, turn)?,
        };
        chunks.extend(asked.into_iter().map(|chunk| (chunk, false)));
        chunks.push((Chunk::Tokens(format.answer(vocabulary, answer)?), true));
    }
    Ok(chunks)
}

impl Passage {
    /// Rows of all chunks, where a picture has `image_tokens`.
    pub fn rows(&self, image_tokens: usize) -> usize {
        self.chunks.iter().map(|(chunk, _)| rows(chunk, image_tokens)).sum()
    }

    /// The passage without what stands behind its first `ctx` rows, as training cuts; nothing where the cut goes through a
    /// picture or leaves no token to score.
    pub fn cut(mut self, ctx: usize, image_tokens: usize) -> Option<Self> {
        let mut left = ctx;
        for (chunk, _) in &mut self.chunks {
            match chunk {
                Chunk::Tokens(ids) => ids.truncate(left),
                Chunk::Image(_) if image_tokens > left => return None,
                Chunk::Image(_) => {}
            }
            left -= rows(chunk, image_tokens);
        }
        (!self.targets(image_tokens).is_empty()).then_some(self)
    }

    /// Each scored token with the row whose logits foresee it, in order.
    pub(super) fn targets(&self, image_tokens: usize) -> Vec<(usize, u32)> {
        let mut out = Vec::new();
        let mut row = 0usize;
        for (chunk, scored) in &self.chunks {
            if let (Chunk::Tokens(ids), true) = (chunk, scored) {
                // Nothing foresees the first row.
                let before = (row..).map(|row| row.checked_sub(1));
                out.extend(before.zip(ids).filter_map(|(before, &id)| Some((before?, id))));
            }
            row += rows(chunk, image_tokens);
        }
        out
    }

    /// The rows of `range` as a model takes them; `features` are the pictures, [image tokens, hidden] each.
    pub(super) fn inputs<'a>(
        &'a self,
        range: Range<usize>,
        features: &'a [Vec<f32>],
        hidden: usize,
    ) -> Vec<Input<'a>> {
        let mut out = Vec::new();
        let mut start = 0;
        for (chunk, _) in &self.chunks {
            let len = match chunk {
                Chunk::Tokens(ids) => ids.len(),
                Chunk::Image(i) => features[*i].len() / hidden,
            };
            let (from, to) = (range.start.max(start), range.end.min(start + len));
            if from < to {
                let part = from - start..to - start;
                out.push(match chunk {
                    Chunk::Tokens(ids) => Input::Tokens(&ids[part]),
                    Chunk::Image(i) => Input::Rows(&features[*i][part.start * hidden..part.end * hidden]),
                });
            }
            start += len;
        }
        out
    }
}

fn rows(chunk: &Chunk, image_tokens: usize) -> usize {
    match chunk {
        Chunk::Tokens(ids) => ids.len(),
        Chunk::Image(_) => image_tokens,
    }
}

#[cfg(test)]
mod tests;
