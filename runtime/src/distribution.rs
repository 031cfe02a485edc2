//! A row of logits as a distribution over the next token: ln p, the likeliest token, KL divergence.
//!
//! Sums are in f64: what is judged here are differences between files and between instruction sets, some of which are
//! smaller than f32's own rounding.

use crate::{Error, Result};

/// softmax of a row of logits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Distribution<'a> {
    /// `[vocab]`
    logits: &'a [f32],
    /// ln Σ exp(logit): ln p of an id is its logit less this.
    ln_sum: f64,
}

impl<'a> Distribution<'a> {
    /// Of `logits`, `[vocab]`.
    ///
    /// # Errors
    /// A logit is no number or +∞, or all are −∞.
    pub(crate) fn new(logits: &'a [f32]) -> Result<Self> {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = logits.iter().map(|l| (f64::from(*l) - f64::from(largest)).exp()).sum();
        let ln_sum = f64::from(largest) + total.ln();
        if !ln_sum.is_finite() {
            let bad = logits.iter().position(|l| l.is_nan() || *l == f32::INFINITY).unwrap_or(0);
            let value = logits.get(bad).copied().ok_or(Error::NoLogits)?;
            return Err(Error::BadLogits { id: bad as u32, value });
        }
        Ok(Self { logits, ln_sum })
    }

    /// ln p(id), in nats; −∞ for an id that has no logit.
    pub(crate) fn ln(&self, id: u32) -> f64 {
        self.logits.get(id as usize).map_or(f64::NEG_INFINITY, |l| f64::from(*l) - self.ln_sum)
    }

    /// The likeliest id, the lowest among equals.
    pub(crate) fn top(&self) -> usize {
        top(self.logits)
    }

    /// KL(self‖other) = Σ p·(ln p − ln q), in nats; over the ids that both have.
    pub(crate) fn divergence(&self, other: &Self) -> f64 {
        let pairs = self.logits.iter().zip(other.logits);
        let term = |(p, q): (&f32, &f32)| {
            let ln_p = f64::from(*p) - self.ln_sum;
            let p = ln_p.exp();
            // 0·ln 0 = 0
            if p == 0.0 { 0.0 } else { p * (ln_p - (f64::from(*q) - other.ln_sum)) }
        };
        pairs.map(term).sum::<f64>().max(0.0)
    }
}

/// The id of the largest logit, the lowest among equals.
pub(crate) fn top(logits: &[f32]) -> usize {
    logits.iter().enumerate().fold(0, |best, (i, l)| if *l > logits[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_by_hand() {
        // p = (1/2, 1/2), q = (3/4, 1/4): ½·ln(2/3) + ½·ln 2 = ½·ln(4/3); the other way ¾·ln(3/2) + ¼·ln(1/2).
        let (p, q) = ([0.0, 0.0], [3f32.ln(), 0.0]);
        let (p, q) = (Distribution::new(&p).unwrap(), Distribution::new(&q).unwrap());
        assert!((p.divergence(&q) - (4.0f64 / 3.0).ln() / 2.0).abs() < 1e-7);
        assert!((q.divergence(&p) - (0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln())).abs() < 1e-7);
        assert!((q.ln(0) - 0.75f64.ln()).abs() < 1e-7 && (q.ln(1) - 0.25f64.ln()).abs() < 1e-7);
        assert_eq!(p.divergence(&p), 0.0);
        assert_eq!((p.top(), q.top(), top(&[1.0, 3.0, 3.0])), (0, 0, 1));
        // An impossible token weighs nothing, and large logits do not overflow.
        let sure = Distribution::new(&[1e4, f32::NEG_INFINITY]).unwrap();
        assert_eq!(sure.ln(0), 0.0);
        assert!((sure.divergence(&p) - 2f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn logits_that_are_no_numbers_are_told() {
        let told = |logits: &[f32]| Distribution::new(logits).unwrap_err().to_string();
        assert!(told(&[0.0, f32::NAN]).contains("token 1 is NaN"));
        assert!(told(&[f32::INFINITY, 0.0]).contains("token 0 is inf"));
        assert!(told(&[f32::NEG_INFINITY; 2]).contains("token 0 is -inf"));
        assert!(told(&[]).contains("empty"));
    }
}
