//! The learning rate over the steps: linear warm-up, then constant or a cosine.
//!
//! Written so that each step's rate equals transformers' `get_cosine_schedule_with_warmup`, which the published runs used.

/// What follows the warm-up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// The peak rate to the end.
    Constant,
    /// Half a cosine from the peak down to `floor` times the peak at the last step (0 in the published runs).
    Cosine {
        /// Lowest rate as a share of the peak.
        floor: f64,
    },
}

/// Rates of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Highest rate.
    pub peak: f64,
    /// Steps of linear warm-up.
    pub warmup: u64,
    /// Steps of the whole run.
    pub total: u64,
    /// What follows the warm-up.
    pub shape: Shape,
}

impl Schedule {
    /// The published shape: a cosine to 0 after `ceil(ratio · total)` steps of warm-up, as transformers' Trainer rounds.
    pub fn cosine(peak: f64, ratio: f64, total: u64) -> Self {
        Self {
            peak,
            warmup: (ratio * total as f64).ceil() as u64,
            total,
            shape: Shape::Cosine { floor: 0.0 },
        }
    }

    /// The rate of step `i`, from 0 (whose rate is 0 where there is a warm-up):
    /// peak·i/warmup, then peak·(floor + (1−floor)·½(1 + cos(π·(i−warmup)/(total−warmup)))).
    pub fn rate(&self, i: u64) -> f64 {
        if i < self.warmup {
            return self.peak * (i as f64 / self.warmup as f64);
        }
        let Shape::Cosine { floor } = self.shape else { return self.peak };
        let done = (i - self.warmup) as f64 / self.total.saturating_sub(self.warmup).max(1) as f64;
        let wave = (0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos())).max(0.0);
        self.peak * (floor + (1.0 - floor) * wave)
    }
}
