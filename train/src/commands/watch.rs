//! From the engine's reports to the observers of this crate: tokens of all ranks, FLOPs, memory; and Ctrl-C to the engine.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use anyhow::Context;
use pumice_train::{
    Error,
    engine::trainer::{self, Report},
    recipe::{
        Recipe,
        estimate::{Shape, step_flops},
    },
    report::{Observer, Observers, StepReport},
};

use super::{devices, terminal};

/// What the engine tells, to whom it concerns. On ranks other than the first `to` is empty.
pub struct Watch {
    /// FLOPs of a step of so many tokens in so many rows.
    flops: Box<dyn Fn(f64, f64) -> f64>,
    ranks: u64,
    to: Observers,
    stop: Arc<AtomicBool>,
    /// Rows left out so far; who reads the data keeps it up to date.
    pub skipped: Arc<AtomicU64>,
    /// Reports so far, for those who print a summary.
    pub steps: Vec<StepReport>,
}

impl Watch {
    /// For a stage of `recipe`.
    ///
    /// # Errors
    /// As [`Watch::new`].
    pub fn of_stage(recipe: &Recipe, shape: &Shape, ranks: u64, to: Observers) -> anyhow::Result<Self> {
        let (recipe, shape) = (recipe.clone(), *shape);
        // Rows of text alone are few, and their missing picture is a hundredth of a row's work.
        Self::new(Box::new(move |tokens, rows| step_flops(&recipe, &shape, tokens, rows, rows)), ranks, to)
    }

    /// Ctrl-C sets a flag that ends the run after the step, saved; a second one ends it at once.
    ///
    /// # Errors
    /// The system does not let it catch Ctrl-C.
    pub fn new(flops: Box<dyn Fn(f64, f64) -> f64>, ranks: u64, to: Observers) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        ctrlc::set_handler(move || {
            if flag.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
            terminal::note("stopping after this step; Ctrl-C again stops at once, without saving");
        })
        .context("Ctrl-C cannot be caught")?;
        Ok(Self { flops, ranks, to, stop, skipped: Arc::default(), steps: Vec::new() })
    }

    /// Whether a person stopped the run.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl trainer::Observer for Watch {
    fn step(&mut self, report: &Report) {
        let tokens = report.tokens as u64 * self.ranks;
        let rows = report.rows.len() as u64 * self.ranks;
        let step = StepReport {
            step: report.step,
            of: report.total,
            loss: report.loss,
            lr: report.rate,
            grad_norm: Some(report.norm),
            tokens,
            seconds: report.time.as_secs_f64(),
            memory: report.memory.unwrap_or_else(devices::resident),
            flops: (self.flops)(tokens as f64, rows as f64),
            skipped_rows: self.skipped.load(Ordering::Relaxed),
        };
        if let Err(error) = self.to.step(&step) {
            self.to.note(&format!("the log cannot be written: {error}"));
        }
        self.steps.push(step);
    }

    fn saved(&mut self, step: u64, path: &Path) {
        self.to.note(&format!("saved step {step}: {}", path.display()));
    }

    fn save_failed(&mut self, step: u64, error: &Error) {
        let text = format!("step {step} could not be saved, the last checkpoint stays: {error}");
        if self.to.0.is_empty() {
            // The first rank knows only that another failed: the reason is told by the one that has it.
            terminal::note(&text);
        } else {
            self.to.note(&text);
        }
    }

    fn stop(&mut self) -> bool {
        self.stopped()
    }
}
