//! From a row to token ids and labels: which of a conversation's tokens are learned.
//!
//! LLaVA's scripts tokenise the whole conversation, tokenise its parts again, and mask by differences of lengths; where these do not
//! add up, the sample silently becomes a loss of zero. Here ids and labels are built from the same stretches of text, by the
//! runtime's own templates, and the runtime checks that the whole text has the same ids. What is learned, by template:
//! `plain` the caption with its newline (the question is dropped); `v1`, `llava_llama_2` each answer with its `</s>`; `v0` the answers with
//! `### Assistant:`, and every `###` (the form with lines that the first release trained on).
//!
//! Pictures: `front` sets them before the question, as LLaVA does since v1; `random` before or after it in the first
//! turn, by a coin for each row, as the paper says and the first release's data were.

use super::{
    report::{Fault, Reason},
    rows::{IMAGE_MARK, Row},
};
use crate::{Error, Result};
use pumice_runtime::{Chunk, Format, ImagePlace, Turn, Vocabulary};
use std::sync::Arc;

/// Stands in the ids where a picture goes: LLaVA's `IMAGE_TOKEN_INDEX`.
pub const IMAGE: i64 = -200;
/// The label of what is not learned.
pub const IGNORED: i64 = -100;

/// Where the pictures of the first turn stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImagePosition {
    /// Before or after the question, by a coin for each row.
    Random,
    /// Before the question.
    #[default]
    Front,
}

impl ImagePosition {
    /// Where row `row` has its pictures in a run of `seed`.
    pub fn place(self, seed: u64, row: usize) -> ImagePlace {
        // A coin of its own, so that it does not hang on the order of the rows.
        let heads = super::order::hash(seed ^ 0x696d_6167_6573, row as u64) & 1 == 1;
        if self == Self::Random && heads { ImagePlace::After } else { ImagePlace::Before }
    }
}

/// A conversation in tokens; `t` positions, a picture counting as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// `[t]` token ids, [`IMAGE`] for a picture.
    pub ids: Vec<i64>,
    /// `[t]` the id where it is learned, else [`IGNORED`].
    pub labels: Vec<i64>,
    /// Pictures in their order, relative to the folder of images.
    pub images: Vec<String>,
    /// The row, for messages.
    pub name: String,
}

/// A sample with a position for each patch; `t` positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expanded {
    /// `[t]` token ids, 0 in slots of pictures.
    pub ids: Vec<i64>,
    /// `[t]` labels, not shifted.
    pub labels: Vec<i64>,
    /// First slot of each picture.
    pub places: Vec<usize>,
}

/// How conversations are written for training.
#[derive(Clone, Debug)]
pub struct Template {
    format: Format,
    vocabulary: Arc<Vocabulary>,
}

impl Template {
    /// A template by its name in LLaVA: `plain`, `v0`, `v1`, `llava_llama_2`, or another of the runtime's. `im_start_end`
    /// puts `<im_start>` and `<im_end>` around pictures (`mm_use_im_start_end`).
    ///
    /// # Errors
    /// There is no such template, answers have no end of their own in it, or the vocabulary lacks tokens that it needs.
    pub fn new(name: &str, vocabulary: Arc<Vocabulary>, im_start_end: bool) -> Result<Self> {
        let name = match name {
            "v0" | "default" | "llava_v0" => "v0_lines",
            name => name,
        };
        let format = Format::named(name)?.with_im_start_end(im_start_end);
        let trial = Turn { text: "", images: &[0], place: ImagePlace::Before };
        format.conversation(&vocabulary, &[(trial, "b")])?;
        if vocabulary.bos().is_none() || !vocabulary.add_bos() {
            return Err(Error::Config(format!(
                "the vocabulary begins texts without a token; LLaVA's {name} needs one, since its first token is never learned"
            )));
        }
        Ok(Self { format, vocabulary })
    }

    /// The runtime's name of the form, for `pumice.template` of a GGUF file.
    pub fn name(&self) -> &'static str {
        self.format.name()
    }

    /// Whether questions are left out: captions only, as in stage 1.
    pub fn is_plain(&self) -> bool {
        self.format.name() == "plain"
    }

    /// The ids and labels of `row`, with the pictures of the first turn at `place`.
    ///
    /// # Errors
    /// The row does not fit the template, or nothing in it is learned.
    pub fn sample(&self, row: Row, place: ImagePlace) -> std::result::Result<Sample, Fault> {
        let fault = |reason, what: String| Fault { reason, row: row.name.clone(), what };
        if self.is_plain() && (row.turns.len() != 1 || row.images.is_empty()) {
            let what = "stage 1 (template plain) takes rows of one picture and one answer";
            return Err(fault(Reason::Roles, what.into()));
        }
        let questions: Vec<Question> = self.questions(&row);
        let exchanges: Vec<(Turn<'_>, &str)> = questions
            .iter()
            .zip(&row.turns)
            .enumerate()
            .map(|(i, (question, [_, answer]))| {
                let place = if i == 0 { place } else { ImagePlace::Before };
                (Turn { text: &question.text, images: &question.images, place }, answer.as_str())
            })
            .collect();
        let chunks = self.format.conversation(&self.vocabulary, &exchanges);
        let chunks = chunks.map_err(|e| fault(Reason::Tokens, e.to_string()))?;
        let (mut ids, mut labels) = (Vec::new(), Vec::new());
        for (chunk, learned) in chunks {
            match chunk {
                Chunk::Tokens(tokens) => ids.extend(tokens.into_iter().map(i64::from)),
                Chunk::Image(_) => ids.push(IMAGE),
            }
            let new = ids[labels.len()..].iter().map(|&id| if learned { id } else { IGNORED });
            let new: Vec<i64> = new.collect();
            labels.extend(new);
        }
        if labels.iter().all(|&label| label == IGNORED) {
            return Err(fault(Reason::NothingLearned, "every label is masked".into()));
        }
        Ok(Sample { ids, labels, images: row.images, name: row.name })
    }

    /// The questions without their marks. As in LLaVA, a question that shows a picture loses the white space around its
    /// words; others are left as they are.
    fn questions(&self, row: &Row) -> Vec<Question> {
        let mut images = 0..row.images.len();
        let questions = row.turns.iter().map(|[question, _]| {
            let shown: Vec<usize> = images.by_ref().take(question.matches(IMAGE_MARK).count()).collect();
            let text = match (self.is_plain(), shown.is_empty()) {
                (true, _) => String::new(),
                (_, true) => question.clone(),
                _ => question.replace(IMAGE_MARK, "").trim().to_owned(),
            };
            Question { text, images: shown }
        });
        questions.collect()
    }
}

/// A question without its marks, and the numbers of its pictures.
struct Question {
    text: String,
    images: Vec<usize>,
}

impl Sample {
    /// Gives each picture its `patches` slots and cuts what is behind `max_length` positions.
    ///
    /// # Errors
    /// The cut goes through a picture or leaves nothing to learn.
    pub fn expand(&self, patches: usize, max_length: usize) -> std::result::Result<Expanded, Fault> {
        let mut out = Expanded { ids: Vec::new(), labels: Vec::new(), places: Vec::new() };
        for (&id, &label) in self.ids.iter().zip(&self.labels) {
            let slots = if id == IMAGE { patches } else { 1 };
            if id == IMAGE {
                out.places.push(out.ids.len());
            }
            out.ids.resize(out.ids.len() + slots, if id == IMAGE { 0 } else { id });
            out.labels.resize(out.ids.len(), label);
        }
        let whole = out.ids.len();
        let too_long = |what: &str| Fault {
            reason: Reason::TooLong,
            row: self.name.clone(),
            what: format!("{whole} positions, cut at {max_length}: {what}"),
        };
        if out.places.iter().any(|&place| place + patches > max_length) {
            return Err(too_long("a picture does not fit"));
        }
        out.ids.truncate(max_length);
        out.labels.truncate(max_length);
        if out.labels.iter().all(|&label| label == IGNORED) {
            return Err(too_long("no answer is left"));
        }
        Ok(out)
    }
}

#[cfg(test)]
pub(crate) mod tests;
