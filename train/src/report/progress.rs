//! Progress for a person: a bar where there is a terminal, a plain line now and then where there is none.

use std::{
    collections::VecDeque,
    io::Write,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Observer, StepReport};
use crate::Result;

/// Steps that the rate and the time left are means of.
const WINDOW: usize = 20;
/// A plain line at most this often.
const PAUSE: Duration = Duration::from_secs(10);

/// The bar, or the lines.
pub struct Progress {
    to: To,
    peak: Option<f64>,
    recent: VecDeque<(f64, u64)>,
}

enum To {
    Bar(ProgressBar),
    Lines { out: Box<dyn Write>, last: Option<Instant> },
}

impl Progress {
    /// A bar on stderr; for a terminal. `peak` is the FLOP/s of all devices, for the MFU.
    pub fn bar(peak: Option<f64>) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(5));
        let style = ProgressStyle::with_template("{wide_bar:.cyan/blue} {pos}/{len}\n{msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { to: To::Bar(bar), peak, recent: VecDeque::new() }
    }

    /// Lines to `out`: the first step, the last, and one in ten seconds between.
    pub fn lines(out: Box<dyn Write>, peak: Option<f64>) -> Self {
        Self { to: To::Lines { out, last: None }, peak, recent: VecDeque::new() }
    }

    /// `loss 1.2345 · lr 2.0e-5 · 1234 tok/s · MFU 41 % · 12.3 GB · 3 h 04 min left`.
    fn status(&self, report: &StepReport) -> String {
        let seconds: f64 = self.recent.iter().map(|(s, _)| s).sum();
        let tokens: u64 = self.recent.iter().map(|(_, t)| t).sum();
        let left = (report.of.saturating_sub(report.step)) as f64 * seconds / self.recent.len().max(1) as f64;
        let mut parts = vec![
            format!("loss {:.4}", report.loss),
            format!("lr {:.1e}", report.lr),
            format!("{:.0} tok/s", tokens as f64 / seconds.max(1e-9)),
        ];
        parts.extend(report.grad_norm.map(|norm| format!("|g| {norm:.2}")));
        parts.extend(report.mfu(self.peak).map(|mfu| format!("MFU {:.0} %", 100.0 * mfu)));
        parts.push(format!("{:.1} GB", report.memory as f64 / 1e9));
        if report.skipped_rows > 0 {
            parts.push(format!("{} rows skipped", report.skipped_rows));
        }
        parts.push(format!("{} left", span(left)));
        parts.join(" · ")
    }
}

impl Observer for Progress {
    fn step(&mut self, report: &StepReport) -> Result<()> {
        self.recent.push_back((report.seconds, report.tokens));
        if self.recent.len() > WINDOW {
            self.recent.pop_front();
        }
        let status = self.status(report);
        match &mut self.to {
            To::Bar(bar) => {
                bar.set_length(report.of);
                bar.set_position(report.step);
                bar.set_message(status);
                if report.step >= report.of {
                    bar.finish();
                }
            }
            To::Lines { out, last } => {
                if report.step >= report.of || last.is_none_or(|at| at.elapsed() >= PAUSE) {
                    *last = Some(Instant::now());
                    // Nobody listening is no reason to stop training.
                    let _ = writeln!(out, "step {}/{} · {status}", report.step, report.of);
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, text: &str) {
        match &mut self.to {
            To::Bar(bar) => bar.println(text),
            To::Lines { out, .. } => {
                let _ = writeln!(out, "{text}");
            }
        }
    }
}

/// `45 s`, `3 min 20 s`, `2 h 05 min`, `3 d 4 h`.
pub(super) fn span(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}
