//! How far a model file is from the checkpoint that it was made of: the same inputs through both, step by step.
//!
//! Two pictures drawn by formula and a question without one go through each model. Compared are the rows that stand for a
//! picture (cosine, row by row) and the logits at every position of the question and of the answer that the *reference*
//! gives greedily, which both are fed: so one early difference does not spoil the rest. The models run one after
//! the other, so memory for both is never needed at once.

use pumice_kernels::{Backend, DType};
use pumice_models::{
    gguf::File,
    llama::{Input, Llama, LlamaOptions, Logits},
    vision::Vision,
};
use serde::Serialize;

use crate::{
    Error, Result,
    distribution::{Distribution, top},
    pixels::{Picture, Preprocess},
    prompt::{Chunk, Format, Turn},
    vocab::Vocabulary,
};

/// Tokens of an answer that are compared.
const ANSWER: usize = 32;
/// Positions that the longest input takes beside its picture: the system text, the question, the answer.
const WORDS: usize = 256;

/// What is asked, and about which of the drawn pictures.
const INPUTS: [(&str, Option<usize>); 3] = [
    ("What is in the picture?", Some(0)),
    ("Describe the image in detail.", Some(1)),
    ("Name three things that float on water, and say why they do.", None),
];

/// What a model computed from the inputs.
pub struct Trace {
    /// Of each picture, [image tokens, hidden].
    features: Vec<Vec<f32>>,
    /// Width of a row of `features`.
    hidden: usize,
    /// Prompts as ids; pictures by number.
    prompts: Vec<Vec<Chunk>>,
    /// Of each input, the answer that was fed.
    answers: Vec<Vec<u32>>,
    /// Of each input, logits row by row, question and answer.
    logits: Vec<Vec<Vec<f32>>>,
    /// Of each input, how many of its rows belong to the question.
    question_rows: Vec<usize>,
}

/// How near two traces are.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Agreement {
    /// Rows of pictures that were compared; 0 for models of text alone.
    pub image_tokens: usize,
    /// Mean cosine between the rows of a picture in both models.
    pub cosine_mean: f64,
    /// The smallest of them.
    pub cosine_min: f64,
    /// Positions whose logits were compared.
    pub positions: usize,
    /// Mean Kullback–Leibler divergence of the file's next-token distribution from the checkpoint's, in nats.
    pub kl_mean: f64,
    /// The largest of them.
    pub kl_max: f64,
    /// Positions at which both find the same token likeliest.
    pub same_top: usize,
    /// Tokens of the reference's greedy answers.
    pub answer_tokens: usize,
    /// Those that the file would have chosen as well, fed the same beginning.
    pub answer_same: usize,
}

/// Runs the inputs through the model in `text` (and `vision`, which may be the same file) on `backend`. The reference answers
/// by itself; the model compared with it is given its trace as `reference`, whose answers it is fed.
/// `progress` hears of inputs done and inputs in all.
///
/// # Errors
/// The model cannot be opened, or builds other prompts than the reference.
pub fn trace(
    text: &File,
    vision: Option<&File>,
    backend: &mut dyn Backend,
    reference: Option<&Trace>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Trace> {
    let vocabulary = Vocabulary::from_gguf(text)?;
    let format = Format::from_gguf(text, vision)?;
    let inputs: Vec<_> = INPUTS.iter().filter(|(_, picture)| vision.is_some() || picture.is_none()).collect();
    let mut features = Vec::new();
    if let Some(file) = vision {
        let preprocess = Preprocess::from_gguf(file)?;
        let vision = Vision::load(file, backend)?;
        for picture in [drawn(151, 97)?, drawn(90, 160)?] {
            features.push(vision.encode(backend, &preprocess.apply(&picture))?);
        }
    }
    let mut trace = Trace {
        hidden: 0,
        prompts: Vec::new(),
        answers: Vec::new(),
        logits: Vec::new(),
        question_rows: Vec::new(),
        features,
    };
    for (question, picture) in &inputs {
        let images: Vec<usize> = picture.iter().copied().collect();
        let turn = Turn { text: question, images: &images, ..Turn::default() };
        trace.prompts.push(format.first_turn(&vocabulary, &turn)?);
    }
    if let Some(reference) = reference
        && reference.prompts != trace.prompts
    {
        return Err(Error::VerifyPrompts);
    }
    let options = LlamaOptions {
        ctx: image_tokens(text, &trace)? + WORDS,
        cache_type: DType::F32,
        logit_rows: WORDS,
        ..LlamaOptions::default()
    };
    let mut llama = Llama::load(text, backend, &options)?;
    trace.hidden = llama.config().hidden;
    for input in 0..inputs.len() {
        progress(input, inputs.len());
        let answer = reference.map(|r| r.answers[input].as_slice());
        run(&mut llama, backend, &mut trace, input, answer)?;
    }
    progress(inputs.len(), inputs.len());
    Ok(trace)
}

/// Rows of the longest picture.
fn image_tokens(text: &File, trace: &Trace) -> Result<usize> {
    let hidden = pumice_models::config::LlamaConfig::read(text)?.hidden;
    Ok(trace.features.iter().map(|f| f.len() / hidden).max().unwrap_or(0))
}

/// One input through the text model.
fn run(
    llama: &mut Llama,
    b: &mut dyn Backend,
    trace: &mut Trace,
    input: usize,
    answer: Option<&[u32]>,
) -> Result<()> {
    let mut go_on = |_: usize, _: usize| true;
    let chunks = &trace.prompts[input];
    let question_from = chunks.iter().rposition(|c| matches!(c, Chunk::Image(_))).map_or(0, |last| last + 1);
    let rows = |chunk: &Chunk| match chunk {
        Chunk::Tokens(ids) => ids.len(),
        Chunk::Image(i) => trace.features[*i].len() / trace.hidden,
    };
    let runs: Vec<Input<'_>> = chunks
        .iter()
        .map(|chunk| match chunk {
            Chunk::Tokens(ids) => Input::Tokens(ids),
            Chunk::Image(i) => Input::Rows(&trace.features[*i]),
        })
        .collect();
    let (before, question) = runs.split_at(question_from);
    let pos: usize = chunks[..question_from].iter().map(rows).sum();
    let question_rows: usize = chunks[question_from..].iter().map(rows).sum();
    if !before.is_empty() {
        llama.forward(b, before, 0, Logits::None, &mut go_on)?;
    }
    llama.forward(b, question, pos, Logits::All, &mut go_on)?;
    let vocab = llama.config().vocab;
    let mut all = vec![0.0; question_rows * vocab];
    llama.logits(b, &mut all)?;
    let mut logits: Vec<Vec<f32>> = all.chunks(vocab).map(<[f32]>::to_vec).collect();
    let mut fed = Vec::new();
    for step in 0..ANSWER {
        let id = answer.map_or_else(|| top(&logits[logits.len() - 1]) as u32, |a| a[step]);
        fed.push(id);
        if step + 1 < ANSWER {
            llama.forward(
                b,
                &[Input::Tokens(&[id])],
                pos + question_rows + step,
                Logits::Last,
                &mut go_on,
            )?;
            let mut row = vec![0.0; vocab];
            llama.logits(b, &mut row)?;
            logits.push(row);
        }
    }
    trace.answers.push(fed);
    trace.logits.push(logits);
    trace.question_rows.push(question_rows);
    Ok(())
}

impl Trace {
    /// How near `file`, traced with `self` as its reference, is.
    ///
    /// # Errors
    /// The pictures have other shapes: the files are of different models; or a logit is no number.
    pub fn compare(&self, file: &Trace) -> Result<Agreement> {
        let shapes = |t: &Trace| (t.hidden, t.features.iter().map(Vec::len).collect::<Vec<_>>());
        if shapes(self) != shapes(file) {
            return Err(Error::VerifyPrompts);
        }
        let cosines: Vec<f64> = self
            .features
            .iter()
            .zip(&file.features)
            .flat_map(|(a, b)| a.chunks(self.hidden).zip(b.chunks(self.hidden)))
            .map(|(a, b)| cosine(a, b))
            .collect();
        let pairs = || self.logits.iter().zip(&file.logits).flat_map(|(a, b)| a.iter().zip(b));
        let divergence = |p: &[f32], q: &[f32]| {
            let len = p.len().min(q.len());
            Ok(Distribution::new(&p[..len])?.divergence(&Distribution::new(&q[..len])?))
        };
        let kl = pairs().map(|(p, q)| divergence(p, q)).collect::<Result<Vec<f64>>>()?;
        // The last row of the question and all but the last of the answer choose the answer's tokens.
        let answers = self.logits.iter().zip(&file.logits).zip(&self.question_rows);
        let answer_same = answers
            .map(|((a, b), rows)| a.iter().zip(b).skip(rows - 1).filter(|(a, b)| top(a) == top(b)).count())
            .sum();
        Ok(Agreement {
            image_tokens: cosines.len(),
            cosine_mean: mean(&cosines),
            cosine_min: cosines.iter().copied().fold(1.0, f64::min),
            positions: kl.len(),
            kl_mean: mean(&kl),
            kl_max: kl.iter().copied().fold(0.0, f64::max),
            same_top: pairs().filter(|(a, b)| top(a) == top(b)).count(),
            answer_tokens: self.answers.iter().map(Vec::len).sum(),
            answer_same,
        })
    }
}

/// A picture with edges, gradients and fine texture in every channel, made of whole numbers.
fn drawn(width: u32, height: u32) -> Result<Picture> {
    let pixel = |x: u32, y: u32| {
        let disc = (x as i32 * 2 - width as i32).pow(2) + (y as i32 * 2 - height as i32).pow(2)
            < (width.min(height) as i32).pow(2) / 2;
        let grain = (x * 7 + y * 13 + x * y) % 31;
        [(x * 255 / width) as u8, (y * 255 / height) as u8, (if disc { 200 } else { 60 }) + grain as u8]
    };
    let rgb = (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(x, y))).collect();
    Picture::from_rgb("drawn picture", width, height, rgb)
}

fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 1.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// a·b / (‖a‖·‖b‖); 1 for two rows of zeros.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms == 0.0 { 1.0 } else { dot(a, b) / norms }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_by_hand() {
        assert!((cosine(&[1.0, 0.0], &[1.0, 1.0]) - 0.5f64.sqrt()).abs() < 1e-12);
    }
}
