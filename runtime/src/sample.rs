//! From a row of logits to a token: penalties, truncation, temperature, one draw; and where an answer ends.
//!
//! The order is llama.cpp's default: repeat penalty → top-k → top-p → min-p → temperature. Truncation looks at the
//! probabilities before the temperature, so that `--top-p` means the same at every temperature.

mod rng;
mod stop;

use crate::{Error, Result};
pub use rng::Rng;
pub use stop::Stop;

/// How a token is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplerOptions {
    /// Logits are divided by it; 0 takes the likeliest token always (greedy).
    pub temperature: f32,
    /// Only the k likeliest tokens are drawn; 0: all.
    pub top_k: usize,
    /// Only the likeliest tokens that make up this probability; 1: all.
    pub top_p: f32,
    /// Only tokens at least this much as likely as the likeliest; 0: all.
    pub min_p: f32,
    /// Divides positive logits of recent tokens and multiplies negative ones (arXiv 1909.05858); 1: nothing.
    pub repeat_penalty: f32,
    /// How many tokens back the penalty looks.
    pub repeat_last_n: usize,
    /// Seed of the draw: same seed, same model, same machine, same answer.
    pub seed: u64,
}

impl Default for SamplerOptions {
    /// LLaVA's own command line: temperature 0.2, nothing else; the seed is fixed, a program draws one.
    fn default() -> Self {
        Self {
            temperature: 0.2,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            seed: 0,
        }
    }
}

impl SamplerOptions {
    /// The likeliest token always, as LLaVA's benchmarks do.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// How many of the likeliest tokens a draw looks at; `None`: it may look at any.
    pub fn needs(&self) -> Option<usize> {
        match self {
            s if s.repeat_penalty != 1.0 => None,
            s if s.temperature == 0.0 => Some(1),
            s => Some(s.top_k).filter(|k| *k > 0),
        }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// A number outside what it can mean.
    pub fn check(&self) -> Result<()> {
        let wrong = |what: &'static str, value: f32, range: &'static str| {
            Err(Error::SamplerOption { what, value, range })
        };
        match self {
            s if !(s.temperature >= 0.0 && s.temperature.is_finite()) => {
                wrong("temperature", s.temperature, "0 or more")
            }
            s if !(s.top_p > 0.0 && s.top_p <= 1.0) => wrong("top-p", s.top_p, "above 0, at most 1"),
            s if !(0.0..=1.0).contains(&s.min_p) => wrong("min-p", s.min_p, "0 to 1"),
            s if !(s.repeat_penalty > 0.0 && s.repeat_penalty.is_finite()) => {
                wrong("repeat penalty", s.repeat_penalty, "above 0")
            }
            _ => Ok(()),
        }
    }
}

/// Draws tokens; holds the random state and its buffers.
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplerOptions,
    rng: Rng,
    /// (logit or weight, id), reused from token to token.
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// A sampler at the beginning of its random sequence.
    pub fn new(options: SamplerOptions) -> Self {
        Self { options, rng: Rng::new(options.seed), candidates: Vec::new() }
    }

    /// Draws the token that follows. `logits` [vocabulary rows of the model]; ids from `vocabulary` on are padding rows
    /// of the checkpoint and are never drawn. `recent` are the tokens so far, newest last.
    ///
    /// # Errors
    /// Logits that are no numbers, or all −∞: the weights are damaged, or the computation overflowed.
    pub fn draw(&mut self, logits: &[f32], vocabulary: usize, recent: &[u32]) -> Result<u32> {
        let logits = &logits[..vocabulary.min(logits.len())];
        if let Some(id) = logits.iter().position(|l| l.is_nan() || *l == f32::INFINITY) {
            return Err(Error::BadLogits { id: id as u32, value: logits[id] });
        }
        if !logits.is_empty() && logits.iter().all(|l| *l == f32::NEG_INFINITY) {
            // Some −∞ forbid tokens; where all are, nothing is left to draw, and −∞ − −∞ would be no number.
            return Err(Error::BadLogits { id: 0, value: f32::NEG_INFINITY });
        }
        self.candidates.clear();
        self.candidates.extend(logits.iter().zip(0..).map(|(&l, id)| (l, id)));
        self.penalize(recent);
        if self.options.temperature == 0.0 {
            return self.likeliest();
        }
        self.truncate();
        self.draw_weighted()
    }

    /// Draws as [`Sampler::draw`] does, told only the (logit, id) of the tokens that it looks at ([`SamplerOptions::needs`]),
    /// largest first. The first logit must be a finite number; otherwise `draw` says what is wrong.
    ///
    /// # Errors
    /// There are none.
    pub fn draw_likeliest(&mut self, likeliest: &[(f32, u32)]) -> Result<u32> {
        self.candidates.clear();
        self.candidates.extend_from_slice(likeliest);
        if self.options.temperature == 0.0 {
            return self.likeliest();
        }
        self.truncate();
        self.draw_weighted()
    }

    /// Lowers the logits of the last tokens, each once.
    fn penalize(&mut self, recent: &[u32]) {
        let penalty = self.options.repeat_penalty;
        if penalty == 1.0 {
            return;
        }
        let window = &recent[recent.len().saturating_sub(self.options.repeat_last_n)..];
        for (i, &id) in window.iter().enumerate() {
            if window[..i].contains(&id) {
                continue;
            }
            if let Some((logit, _)) = self.candidates.get_mut(id as usize) {
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }

    /// The largest logit; the lowest id among equals, as PyTorch's argmax on the CPU takes.
    fn likeliest(&self) -> Result<u32> {
        let first = *self.candidates.first().ok_or(Error::NoLogits)?;
        Ok(self.candidates.iter().fold(first, |best, &c| if c.0 > best.0 { c } else { best }).1)
    }

    /// Leaves the candidates that top-k, top-p and min-p allow, likeliest first; at least one.
    fn truncate(&mut self) {
        let SamplerOptions { top_k, top_p, min_p, .. } = self.options;
        let c = &mut self.candidates;
        let by_logit = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if top_k > 0 && top_k < c.len() {
            c.select_nth_unstable_by(top_k - 1, by_logit);
            c.truncate(top_k);
        }
        c.sort_unstable_by(by_logit);
        let Some(&(largest, _)) = c.first() else { return };
        if top_p < 1.0 {
            let total: f32 = c.iter().map(|(l, _)| (l - largest).exp()).sum();
            let mut sum = 0.0;
            let enough = c.iter().position(|(l, _)| {
                sum += (l - largest).exp() / total;
                sum >= top_p
            });
            c.truncate(enough.map_or(c.len(), |last| last + 1));
        }
        if min_p > 0.0 {
            let least = largest + min_p.ln();
            c.truncate(c.partition_point(|(l, _)| *l >= least).max(1));
        }
    }

    /// One draw among the candidates, weighted by softmax(logit / temperature).
    fn draw_weighted(&mut self) -> Result<u32> {
        let &(largest, _) = self.candidates.first().ok_or(Error::NoLogits)?;
        let mut total = 0.0f64;
        for (logit, _) in &mut self.candidates {
            *logit = ((*logit - largest) / self.options.temperature).exp();
            total += f64::from(*logit);
        }
        let mut point = self.rng.unit() * total;
        for &(weight, id) in &self.candidates {
            point -= f64::from(weight);
            if point < 0.0 {
                return Ok(id);
            }
        }
        // Rounding left the point at the very end: the likeliest is a candidate in any case.
        Ok(self.candidates[0].1)
    }
}

#[cfg(test)]
mod tests;
