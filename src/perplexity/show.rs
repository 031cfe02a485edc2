//! What a person and a program see of a measurement: a running estimate, a table, one JSON object.

use std::{
    io::{self, Write},
    path::Path,
};

use indicatif::{ProgressBar, ProgressStyle};
use pumice_runtime::perplexity::{Comparison, Estimate, Position, Progress, Report};
use serde_json::{Value, json};

use crate::terminal;

/// A bar on stderr with the estimate so far; indicatif hides it where stderr is no terminal.
pub struct Running {
    bar: ProgressBar,
    what: &'static str,
    of: usize,
    /// Passages that the message tells of.
    told: usize,
}

impl Running {
    /// For `of` passages, which `what` names.
    pub fn new(what: &'static str, of: usize) -> Self {
        let style = ProgressStyle::with_template("{bar:20} {eta} left, {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(1).with_style(style).with_message(format!("0 of {of} {what}"));
        Self { bar, what, of, told: 0 }
    }

    /// Shows how far it is.
    pub fn show(&mut self, progress: &Progress<'_>) {
        self.bar.set_length(progress.of_rows as u64);
        self.bar.set_position(progress.rows as u64);
        if progress.passages > self.told && !self.bar.is_hidden() {
            self.told = progress.passages;
            let so_far = Report::of(progress.positions).map_or_else(String::new, |report| {
                let kl = report.comparison.map(|c| format!(", KL {}", fine(c.kl.value))).unwrap_or_default();
                format!(": perplexity {}{kl}", plain(report.perplexity, 4))
            });
            self.bar.set_message(format!("{} of {} {}{so_far}", self.told, self.of, self.what));
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// What was measured of what.
pub struct Outcome<'a> {
    pub model: &'a Path,
    pub reference: Option<&'a Path>,
    pub file: &'a Path,
    /// Of what passages were made: "windows" or "conversations".
    pub what: &'static str,
    /// Tokens of a window, or of a conversation at most.
    pub ctx: usize,
    /// Passages measured.
    pub measured: usize,
    /// Passages there were to measure.
    pub of: usize,
    pub seconds: f64,
}

impl Outcome<'_> {
    /// The figures on stdout; where there are none, nothing.
    pub fn show(&self, positions: &[Position], json: bool) -> anyhow::Result<()> {
        if self.measured < self.of {
            terminal::note(&format!("(stopped after {} of {} {})", self.measured, self.of, self.what));
        }
        let Some(report) = Report::of(positions) else { return Ok(()) };
        let mut out = io::stdout().lock();
        if json {
            writeln!(out, "{}", self.json(&report)?)?;
            return Ok(());
        }
        let size = if self.what == "windows" { format!(" of {}", self.ctx) } else { String::new() };
        writeln!(
            out,
            "perplexity      {}  ({} tokens in {} {}{size})",
            plain(report.perplexity, 4),
            report.positions,
            self.measured,
            self.what
        )?;
        if let Some(comparison) = &report.comparison {
            compare(&mut out, comparison)?;
        }
        drop(out);
        terminal::note(&format!(
            "± is one standard error; nats; {} in {}",
            if self.what == "windows" { "second halves of windows" } else { "answers" },
            terminal::seconds(self.seconds)
        ));
        Ok(())
    }

    fn json(&self, report: &Report) -> anyhow::Result<Value> {
        let mut object = json!({
            "model": self.model.display().to_string(),
            "reference": self.reference.map(|path| path.display().to_string()),
            "file": self.file.display().to_string(),
            "context": self.ctx,
            "measured": self.what,
            "chunks": self.measured,
            "chunks_in_all": self.of,
            "seconds": self.seconds,
        });
        if let (Value::Object(all), Value::Object(figures)) = (&mut object, serde_json::to_value(report)?) {
            all.extend(figures);
        }
        Ok(object)
    }
}

fn compare(out: &mut impl Write, c: &Comparison) -> io::Result<()> {
    writeln!(out, "reference       {}", plain(c.reference_perplexity, 4))?;
    writeln!(
        out,
        "ratio           {}  (ln {}, correlation {:.2} %)",
        plain(c.perplexity_ratio, 5),
        fine_estimate(c.ln_perplexity_ratio),
        100.0 * c.correlation
    )?;
    let kl = &c.kl_spread;
    writeln!(
        out,
        "KL divergence   {}  (median {}, 99 % {}, 99.9 % {}, largest {})",
        fine_estimate(c.kl),
        fine(kl.median),
        fine(kl.p99),
        fine(kl.p999),
        fine(kl.max)
    )?;
    writeln!(out, "same top token  {} %", plain(percent(c.same_top), 3))?;
    writeln!(
        out,
        "Δp              {} % mean, {} % RMS  (1 % {:.2}, 99 % {:.2})",
        plain(percent(c.delta_p), 3),
        plain(percent(c.delta_p_rms), 3),
        100.0 * c.delta_p_spread.p01,
        100.0 * c.delta_p_spread.p99
    )
}

fn percent(e: Estimate) -> Estimate {
    Estimate { value: 100.0 * e.value, uncertainty: 100.0 * e.uncertainty }
}

/// A figure that may be tiny: `0.02103`, `1.81e-4`, `0`.
fn fine(x: f64) -> String {
    match x {
        0.0 => "0".into(),
        x if x.abs() >= 1e-3 => format!("{x:.5}"),
        x => format!("{x:.2e}"),
    }
}

/// `1.81e-4 ± 1.20e-5`
fn fine_estimate(e: Estimate) -> String {
    format!("{} ± {}", fine(e.value), fine(e.uncertainty))
}

/// `6.8221 ± 0.0412`
fn plain(e: Estimate, digits: usize) -> String {
    format!("{:.digits$} ± {:.digits$}", e.value, e.uncertainty)
}
