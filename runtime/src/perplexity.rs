//! How well a model foresees a text, or the answers of conversations about pictures; and how far its predictions are from
//! those of a better file.
//!
//! This is the judge of everything that rounds: quantization types, cache types, instruction sets. What is measured is a list of
//! [`Passage`]s, windows of a text or conversations. Each is shown whole to the model, and to the reference beside it where
//! there is one; of the logits only pieces are held, and the two are compared piece by piece, so that nothing is written to
//! disk and nothing rounded in between. What comes out is a [`Position`] for each scored token, and a [`Report`] of them.

mod passages;
mod report;
mod rows;

use std::ops::Range;

use pumice_kernels::{Backend, DType};
use pumice_models::{
    gguf::File,
    llama::{Llama, LlamaOptions, Logits},
    plan::Plan,
    vision::Vision,
};

use crate::{
    Error, Result,
    distribution::Distribution,
    pixels::{Picture, Preprocess},
    vocab::Vocabulary,
};
pub use passages::{Passage, conversation, windows};
pub use report::{Against, Comparison, Estimate, Position, Report, Spread};
pub use rows::{IMAGE_MARK, Row, read_rows};

/// Logits that a model holds at once, in bytes: 500 rows of LLaMA's 32000, 130 of Llama 3's 128256.
const LOGIT_BYTES: usize = 64 << 20;

/// How a model is opened to be measured.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Rows of the longest passage.
    pub ctx: usize,
    /// Type of the KV cache: F16, F32 or Q8_0.
    pub cache_type: DType,
    /// Bytes that the model may take, by its own estimate; `None`: no limit.
    pub memory: Option<u64>,
}

/// A model to be measured, or to be measured against.
pub struct Subject {
    backend: Box<dyn Backend>,
    llama: Llama,
    eyes: Option<(Vision, Preprocess)>,
    vocabulary: Vocabulary,
    /// Bytes by the estimate.
    memory: u64,
    /// Of each picture of the passage at hand, [image tokens, hidden].
    features: Vec<Vec<f32>>,
    /// Of the piece at hand, [rows, vocab].
    logits: Vec<f32>,
}

/// How far a measurement is.
#[derive(Debug)]
pub struct Progress<'a> {
    /// Passages measured.
    pub passages: usize,
    /// Rows computed, by one model or by both, the passage at hand counted.
    pub rows: usize,
    /// Rows in all.
    pub of_rows: usize,
    /// Positions of the passages measured.
    pub positions: &'a [Position],
}

/// What a measurement came to.
#[derive(Debug)]
pub struct Measured {
    /// Passages measured: fewer than were given where it was stopped.
    pub passages: usize,
    /// Their positions.
    pub positions: Vec<Position>,
}

impl Subject {
    /// Opens the model in `text`, and in `vision` (which may be the same file) what it needs to see, on `backend`.
    ///
    /// # Errors
    /// A file is damaged or of another architecture, the two do not fit, or memory is short.
    pub fn open(
        text: &File,
        vision: Option<&File>,
        mut backend: Box<dyn Backend>,
        options: &Options,
    ) -> Result<Self> {
        let vocabulary = Vocabulary::from_gguf(text)?;
        let batch = LlamaOptions::default().batch;
        let logit_rows = (LOGIT_BYTES / size_of::<f32>() / vocabulary.len().max(1)).clamp(1, batch);
        let options_of_text =
            LlamaOptions { ctx: options.ctx, cache_type: options.cache_type, batch, logit_rows };
        let plan = Plan::new(text, vision, &options_of_text)?;
        if let Some(free) = options.memory {
            plan.check(free)?;
        }
        let llama = Llama::load(text, &mut *backend, &options_of_text)?;
        let eyes = match vision {
            Some(file) => Some((Vision::load(file, &mut *backend)?, Preprocess::from_gguf(file)?)),
            None => None,
        };
        let memory = plan.total();
        Ok(Self { backend, llama, eyes, vocabulary, memory, features: Vec::new(), logits: Vec::new() })
    }

    /// Bytes that it takes, by the estimate.
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// Its vocabulary.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Rows that a picture takes; 0 where it does not see.
    pub fn image_tokens(&self) -> usize {
        self.eyes.as_ref().map_or(0, |(vision, _)| vision.config().image_tokens())
    }

    /// Checks that the same passage means the same to `reference`.
    ///
    /// # Errors
    /// Vocabularies or pictures differ.
    pub fn check_comparable(&self, reference: &Self) -> Result<()> {
        let differ = |what: String| Err(Error::NotComparable { what });
        let (own, other) = (&self.vocabulary, &reference.vocabulary);
        if own.len() != other.len() {
            return differ(format!("one has {} tokens, the reference {}", own.len(), other.len()));
        }
        if let Some(id) = (0..own.len() as u32).find(|&id| own.piece(id) != other.piece(id)) {
            let (a, b) = (own.piece(id), other.piece(id));
            return differ(format!("token {id} is {a:?} in one and {b:?} in the reference"));
        }
        let (a, b) = (self.image_tokens(), reference.image_tokens());
        if a != b {
            return differ(format!("a picture takes {a} tokens in one and {b} in the reference"));
        }
        Ok(())
    }

    /// Looks at the pictures of `passage`.
    fn look(&mut self, passage: &Passage) -> Result<()> {
        self.features.clear();
        for path in &passage.pictures {
            let (vision, preprocess) = self.eyes.as_ref().ok_or(Error::NoVision)?;
            let pixels = preprocess.apply(&Picture::open(path)?);
            self.features.push(vision.encode(&mut *self.backend, &pixels)?);
        }
        Ok(())
    }

    /// Computes rows `range` of `passage`, those before being in the cache, and keeps their logits if `wanted`. False
    /// where `go_on`, told the rows done, said to stop.
    fn run(
        &mut self,
        passage: &Passage,
        range: Range<usize>,
        wanted: Logits,
        go_on: &mut dyn FnMut(usize) -> bool,
    ) -> Result<bool> {
        let input = passage.inputs(range.clone(), &self.features, self.llama.config().hidden);
        let mut progress = |done: usize, _: usize| go_on(done);
        let done = self.llama.forward(&mut *self.backend, &input, range.start, wanted, &mut progress)?;
        if done < range.len() {
            return Ok(false);
        }
        if wanted == Logits::All {
            self.logits.resize(range.len() * self.llama.config().vocab, 0.0);
            self.llama.logits(&mut *self.backend, &mut self.logits)?;
        }
        Ok(true)
    }

    /// The distribution after row `row` of the piece at hand. Rows of the table behind the vocabulary are no words.
    fn distribution(&self, row: usize) -> Result<Distribution<'_>> {
        let width = self.llama.config().vocab;
        Distribution::new(&self.logits[row * width..][..width.min(self.vocabulary.len())])
    }
}

/// Measures `subject`, against `reference` where there is one, on `passages`. `go_on` is told how far it is, after every
/// block of every batch, and says whether to go on; a passage that was not finished does not count.
///
/// # Errors
/// The two cannot be compared, a picture cannot be seen, a passage is longer than was planned for, or logits are no numbers.
pub fn measure(
    subject: &mut Subject,
    reference: Option<&mut Subject>,
    passages: &[Passage],
    go_on: &mut dyn FnMut(&Progress<'_>) -> bool,
) -> Result<Measured> {
    if let Some(reference) = &reference {
        subject.check_comparable(reference)?;
    }
    let image_tokens = subject.image_tokens();
    let mut models: Vec<&mut Subject> = [subject].into_iter().chain(reference).collect();
    let rows_of = |passage: &Passage| models.len() * passage.rows(image_tokens);
    let ends: Vec<usize> = passages
        .iter()
        .scan(0, |end, passage| {
            *end += rows_of(passage);
            Some(*end)
        })
        .collect();
    let of_rows = ends.last().copied().unwrap_or(0);
    let mut measured = Measured { passages: 0, positions: Vec::new() };
    for (passage, end) in passages.iter().zip(&ends) {
        let (start, positions) = (end - passage.rows(image_tokens) * models.len(), &measured.positions);
        let mut report =
            |rows| go_on(&Progress { passages: measured.passages, rows: start + rows, of_rows, positions });
        let Some(new) = score(&mut models, passage, &mut report)? else { return Ok(measured) };
        measured.positions.extend(new);
        measured.passages += 1;
        let Measured { passages, positions } = &measured;
        if !go_on(&Progress { passages: *passages, rows: *end, of_rows, positions }) {
            break;
        }
    }
    Ok(measured)
}

/// The positions of a passage; nothing where `go_on`, told the rows that were computed by all `models`, said to stop.
fn score(
    models: &mut [&mut Subject],
    passage: &Passage,
    go_on: &mut dyn FnMut(usize) -> bool,
) -> Result<Option<Vec<Position>>> {
    let targets = passage.targets(models[0].image_tokens());
    let mut positions = Vec::with_capacity(targets.len());
    let (Some(first), Some(last)) = (targets.first(), targets.last()) else { return Ok(Some(positions)) };
    let (mut from, end) = (first.0, last.0 + 1);
    let mut done = 0;
    for model in models.iter_mut() {
        model.look(passage)?;
        if !model.run(passage, 0..from, Logits::None, &mut |rows| go_on(done + rows))? {
            return Ok(None);
        }
        done += from;
    }
    let piece = models.iter().map(|model| model.llama.options().logit_rows).min().unwrap_or(1);
    let mut targets = targets.as_slice();
    while from < end {
        let to = end.min(from + piece);
        let (here, later) = targets.split_at(targets.partition_point(|(row, _)| *row < to));
        let wanted = if here.is_empty() { Logits::None } else { Logits::All };
        for model in models.iter_mut() {
            if !model.run(passage, from..to, wanted, &mut |rows| go_on(done + rows))? {
                return Ok(None);
            }
            done += to - from;
        }
        for (row, id) in here {
            positions.push(position(models, row - from, *id)?);
        }
        (from, targets) = (to, later);
    }
    Ok(Some(positions))
}

/// What the models say of token `id` behind row `row` of the piece at hand: the first is measured, the second the reference.
fn position(models: &[&mut Subject], row: usize, id: u32) -> Result<Position> {
    let own = models[0].distribution(row)?;
    let reference = match models.get(1) {
        None => None,
        Some(reference) => {
            let theirs = reference.distribution(row)?;
            let same_top = theirs.top() == own.top();
            Some(Against { nll: -theirs.ln(id), kl: theirs.divergence(&own), same_top })
        }
    };
    Ok(Position { nll: -own.ln(id), reference })
}
