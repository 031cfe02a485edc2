//! From what happened at each scored position to figures with their uncertainties.
//!
//! The quantities and their names are those of llama.cpp's `llama-perplexity` (tools/perplexity/perplexity.cpp, read at
//! 050fc7f), so that tables compare: means over positions; uncertainties are standard errors, as if positions were
//! independent, carried through exp, ratio and root to first order; percentiles interpolate between neighbours. Two
//! things differ: the reference's probabilities are not rounded to 16 bits on their way, and unlikely tokens (ln p < −16)
//! are not left out of the divergence.

use serde::Serialize;

/// What happened at a scored position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Position {
    /// −ln p of the token that stands there, in nats.
    pub nll: f64,
    /// The reference's view of the same position, where there is a reference.
    pub reference: Option<Against>,
}

/// A position beside the reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Against {
    /// −ln p of the token by the reference, in nats.
    pub nll: f64,
    /// KL(reference‖model), in nats.
    pub kl: f64,
    /// Whether both find the same token likeliest.
    pub same_top: bool,
}

/// A figure and its standard error (0 where fewer than two positions tell of it).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// One standard error.
    pub uncertainty: f64,
}

/// What a run says about a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Scored positions.
    pub positions: usize,
    /// Mean −ln p, in nats: what training calls the loss.
    pub nll: Estimate,
    /// exp of it.
    pub perplexity: Estimate,
    /// Beside the reference, where there is one.
    #[serde(flatten)]
    pub comparison: Option<Comparison>,
}

/// A model beside its reference.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The reference's perplexity.
    pub reference_perplexity: Estimate,
    /// Perplexity over the reference's.
    pub perplexity_ratio: Estimate,
    /// ln of it: the mean difference of −ln p.
    pub ln_perplexity_ratio: Estimate,
    /// Correlation of −ln p between the two, −1 to 1; 0 where one of them never varies.
    pub correlation: f64,
    /// Mean KL(reference‖model), in nats.
    pub kl: Estimate,
    /// How it is spread.
    pub kl_spread: Spread,
    /// Share of positions at which both find the same token likeliest.
    pub same_top: Estimate,
    /// Mean change of the token's probability, model − reference.
    pub delta_p: Estimate,
    /// Root of its mean square.
    pub delta_p_rms: Estimate,
    /// How it is spread.
    pub delta_p_spread: Spread,
}

/// Percentiles.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The smallest.
    pub min: f64,
    /// 1 % are below.
    pub p01: f64,
    /// 5 % are below.
    pub p05: f64,
    /// Half are below.
    pub median: f64,
    /// 95 % are below.
    pub p95: f64,
    /// 99 % are below.
    pub p99: f64,
    /// 99.9 % are below.
    pub p999: f64,
    /// The largest.
    pub max: f64,
}

impl Report {
    /// Of `positions`; nothing where there are none. The reference counts where every position has it.
    pub fn of(positions: &[Position]) -> Option<Self> {
        let nll: Vec<f64> = positions.iter().map(|p| p.nll).collect();
        let mean = Estimate::mean(&nll)?;
        let against: Option<Vec<Against>> = positions.iter().map(|p| p.reference).collect();
        Some(Self {
            positions: positions.len(),
            nll: mean,
            perplexity: mean.exp(),
            comparison: against.and_then(|against| Comparison::of(&nll, &against)),
        })
    }
}

impl Comparison {
    fn of(nll: &[f64], against: &[Against]) -> Option<Self> {
        let reference: Vec<f64> = against.iter().map(|a| a.nll).collect();
        let pairs = || nll.iter().zip(&reference);
        let ln_ratio = Estimate::mean(&pairs().map(|(q, p)| q - p).collect::<Vec<_>>())?;
        let kl: Vec<f64> = against.iter().map(|a| a.kl).collect();
        let delta: Vec<f64> = pairs().map(|(q, p)| (-q).exp() - (-p).exp()).collect();
        let same: Vec<f64> = against.iter().map(|a| f64::from(u8::from(a.same_top))).collect();
        Some(Self {
            reference_perplexity: Estimate::mean(&reference)?.exp(),
            perplexity_ratio: ln_ratio.exp(),
            ln_perplexity_ratio: ln_ratio,
            correlation: correlation(nll, &reference),
            kl: Estimate::mean(&kl)?,
            kl_spread: Spread::of(kl)?,
            same_top: Estimate::mean(&same)?,
            delta_p: Estimate::mean(&delta)?,
            delta_p_rms: Estimate::mean(&delta.iter().map(|d| d * d).collect::<Vec<_>>())?.sqrt(),
            delta_p_spread: Spread::of(delta)?,
        })
    }
}

impl Estimate {
    /// The mean of `x` and √(Σ(x − mean)² / n / (n − 1)); nothing where there are none.
    fn mean(x: &[f64]) -> Option<Self> {
        let n = x.len() as f64;
        let value = x.iter().sum::<f64>() / n;
        let squares: f64 = x.iter().map(|x| (x - value).powi(2)).sum();
        let uncertainty = if x.len() < 2 { 0.0 } else { (squares / n / (n - 1.0)).sqrt() };
        (!x.is_empty()).then_some(Self { value, uncertainty })
    }

    /// d eˣ = eˣ dx.
    fn exp(self) -> Self {
        Self { value: self.value.exp(), uncertainty: self.value.exp() * self.uncertainty }
    }

    /// d √x = dx / 2√x.
    fn sqrt(self) -> Self {
        let value = self.value.sqrt();
        Self { value, uncertainty: if value > 0.0 { self.uncertainty / (2.0 * value) } else { 0.0 } }
    }
}

/// Pearson's, of two runs of equal length.
fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let (mut aa, mut bb, mut ab) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        aa += (a - mean_a).powi(2);
        bb += (b - mean_b).powi(2);
        ab += (a - mean_a) * (b - mean_b);
    }
    if aa * bb > 0.0 { ab / (aa * bb).sqrt() } else { 0.0 }
}

impl Spread {
    /// Of `x`; nothing where it is empty.
    fn of(mut x: Vec<f64>) -> Option<Self> {
        x.sort_by(f64::total_cmp);
        let (&min, &max) = (x.first()?, x.last()?);
        let at = |share: f64| {
            let place = share * (x.len() - 1) as f64;
            let below = place.floor() as usize;
            let above = (below + 1).min(x.len() - 1);
            x[below] + (place - below as f64) * (x[above] - x[below])
        };
        let [p01, p05, median, p95, p99, p999] = [0.01, 0.05, 0.5, 0.95, 0.99, 0.999].map(at);
        Some(Self { min, p01, p05, median, p95, p99, p999, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found} and not {expected}");
    }

    #[test]
    fn nobody_measures_nothing() {
        assert_eq!(Report::of(&[]), None);
    }

    #[test]
    fn perplexity_of_a_few_tokens_by_hand() {
        // p = ½, ¼, ⅛: mean −ln p = 2·ln 2, so the perplexity is 4; deviations −ln 2, 0, ln 2; √(2/3/2)·ln 2.
        let positions: Vec<_> =
            [0.5f64, 0.25, 0.125].iter().map(|p| Position { nll: -p.ln(), reference: None }).collect();
        let report = Report::of(&positions).expect("positions");
        near(report.nll.value, 2.0 * 2f64.ln());
        near(report.nll.uncertainty, 2f64.ln() / 3f64.sqrt());
        near(report.perplexity.value, 4.0);
        near(report.perplexity.uncertainty, 4.0 * 2f64.ln() / 3f64.sqrt());
        assert!(report.comparison.is_none() && report.positions == 3);
        let one = Report::of(&positions[..1]).expect("a position");
        assert_eq!((one.nll.uncertainty, one.perplexity.uncertainty), (0.0, 0.0));
    }

    #[test]
    fn comparison_of_two_positions_by_hand() {
        // Probabilities of the token: model ½ and ¼, reference ¼ and ¾.
        let position = |q: f64, p: f64, kl, same_top| Position {
            nll: -q.ln(),
            reference: Some(Against { nll: -p.ln(), kl, same_top }),
        };
        let report = Report::of(&[position(0.5, 0.25, 0.1, true), position(0.25, 0.75, 0.3, false)]);
        let c = report.and_then(|r| r.comparison).expect("a comparison");
        near(c.reference_perplexity.value, (16.0f64 / 3.0).sqrt());
        // PPL(model) = √8; differences of −ln p: −ln 2 and ln 3.
        near(c.perplexity_ratio.value, (8.0f64 / (16.0 / 3.0)).sqrt());
        near(c.ln_perplexity_ratio.value, 1.5f64.ln() / 2.0);
        near(c.ln_perplexity_ratio.uncertainty, 6f64.ln() / 2.0);
        near(c.perplexity_ratio.uncertainty, 1.5f64.sqrt() * 6f64.ln() / 2.0);
        near(c.correlation, -1.0);
        near(c.kl.value, 0.2);
        near(c.kl.uncertainty, 0.1);
        near(c.same_top.value, 0.5);
        near(c.same_top.uncertainty, 0.5);
        // Δp = ¼ and −½.
        near(c.delta_p.value, -0.125);
        near(c.delta_p.uncertainty, 0.375);
        near(c.delta_p_rms.value, (5.0f64 / 32.0).sqrt());
        near(c.delta_p_rms.uncertainty, 3.0 / 32.0 / (2.0 * (5.0f64 / 32.0).sqrt()));
        near(c.kl_spread.median, 0.2);
        near(c.kl_spread.p99, 0.298);
        near(c.delta_p_spread.min, -0.5);
        near(c.delta_p_spread.max, 0.25);
    }

    #[test]
    fn a_model_beside_itself_does_not_differ() {
        let same = |nll| Position { nll, reference: Some(Against { nll, kl: 0.0, same_top: true }) };
        let c = Report::of(&[same(0.3), same(2.0), same(0.7)]).and_then(|r| r.comparison).expect("one");
        assert_eq!((c.perplexity_ratio.value, c.perplexity_ratio.uncertainty), (1.0, 0.0));
        assert_eq!((c.same_top.value, c.same_top.uncertainty), (1.0, 0.0));
        assert_eq!((c.delta_p_rms.value, c.delta_p_rms.uncertainty), (0.0, 0.0));
        near(c.correlation, 1.0);
    }
}
