//! What comparing two devices found: how far each op went at most, and the first that went too far.

use crate::{DType, Tensor, count::Op};
use std::fmt;

/// An op on which the devices differ.
#[derive(Debug, Clone)]
pub struct Difference {
    /// The op; where values were compared only when the model read them, `read`, or `copy` for the rows of a cache.
    pub op: Op,
    /// What it wrote, then what it read.
    pub operands: Vec<Tensor>,
    /// Σ(a − b)²/Σa².
    pub nmse: f64,
    /// What that may be.
    pub tolerance: f64,
    /// Row, in what was written, of the first element that differs most.
    pub row: usize,
    /// Its column.
    pub col: usize,
    /// The reference's value of it.
    pub reference: f32,
    /// The device's.
    pub device: f32,
}

/// What is known of an op with weights, caches or a destination of one type.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// The op.
    pub op: Op,
    /// The type.
    pub dtype: DType,
    /// Comparisons.
    pub calls: u64,
    /// Those that were further apart than they may be.
    pub differ: u64,
    /// The worst Σ(a − b)²/Σa².
    pub worst: f64,
    /// What it may be (where that changes from pass to pass, the largest so far).
    pub tolerance: f64,
}

/// All that was compared. Its `Display` is a table, a line for each op and type, and a sentence on the first that differs.
#[derive(Debug, Default)]
pub struct Report {
    lines: Vec<Line>,
    first: Option<Difference>,
}

impl Report {
    /// The first op that differed by more than it may.
    pub fn first(&self) -> Option<&Difference> {
        self.first.as_ref()
    }

    /// A line for each op and type, in the order in which they first came.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Comparisons of all ops.
    pub fn calls(&self) -> u64 {
        self.lines.iter().map(|line| line.calls).sum()
    }

    /// Notes a comparison, with the element that differs most where any does.
    pub(super) fn note(&mut self, op: Op, dtype: DType, nmse: f64, tolerance: f64, most: Option<Difference>) {
        let at = self.lines.iter().position(|line| (line.op, line.dtype) == (op, dtype));
        let at = at.unwrap_or_else(|| {
            self.lines.push(Line { op, dtype, calls: 0, differ: 0, worst: 0.0, tolerance });
            self.lines.len() - 1
        });
        let (line, differs) = (&mut self.lines[at], nmse > tolerance);
        line.calls += 1;
        line.differ += u64::from(differs);
        line.worst = line.worst.max(nmse);
        line.tolerance = line.tolerance.max(tolerance);
        if differs && self.first.is_none() {
            self.first = most;
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shapes: Vec<_> =
            self.operands.iter().map(|t| format!("{}×{} {}", t.rows, t.cols, t.dtype)).collect();
        let Self { op, nmse, tolerance, row, col, reference, device, .. } = self;
        write!(
            f,
            "{} ({}) differs: error {nmse:.1e}, at most {tolerance:.0e} is allowed; row {row}, column {col} is {device:e}, not {reference:e}",
            op.name(),
            shapes.join(", ")
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:10} {:6} {:>9} {:>8} {:>11} {:>8}",
            "op", "type", "compared", "differ", "worst error", "allowed"
        )?;
        for Line { op, dtype, calls, differ, worst, tolerance } in &self.lines {
            let name = op.name();
            writeln!(f, "{name:10} {dtype:6} {calls:9} {differ:8} {worst:11.1e} {tolerance:8.0e}")?;
        }
        match &self.first {
            Some(first) => writeln!(f, "first: {first}"),
            None => writeln!(f, "no op differs"),
        }
    }
}
