//! Two devices side by side: the first op on which they differ, by name.
//!
//! Every op runs on both, and the rows that it wrote are compared. Then the device gets the reference's values, so that each op is
//! judged by itself: what one did wrong is not blamed on the next, and what rounding adds up over a model is not seen at all. The
//! answers are the reference's.
//!
//! Reading after each op keeps a device from fusing ops, so there is a second grain, [`Checked::fused`]: values are compared only
//! when the model itself reads some, and with them all cache rows that were written meanwhile; the device computes as it would alone.
//!
//! The measure is the normalised mean square error Σ(a − b)²/Σa², with a the reference's values: 1e-7 where all is f32, 1e-6 where
//! something is of 16 bits, 5e-4 where weights or caches are quantized (activations then meet them rounded to 8 bits, which
//! alone costs 3e-5 to 5e-5: NUMERICS.md; where few activations outweigh the rest it costs more, and more is allowed). A number beside a NaN differs infinitely; two NaN, and two equal infinities, are equal.

mod report;

pub use report::{Difference, Line, Report};

use crate::{
    Backend, Bytes, DType, Error, Gelu, Result, Tensor,
    count::Op,
    quant,
    relay::{Call, relay_ops},
};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How many times the noise of rounding activations a product may be off: two roundings, and twice that for weights that favour it.
const NOISE: f64 = 4.0;
/// Columns that share a scale where activations are rounded the most coarsely (NUMERICS.md).
const SCALED: usize = 256;

/// How many times the tolerance of a single op that of a whole pass is: errors of independent roundings add up along the blocks.
/// Quantized, 30 products of 5e-5 in a row reach a third of it.
const PASS: f64 = 10.0;

/// Σ(got − want)²/Σwant², and where the two differ most; no place where they do not.
///
/// A NaN beside a number differs infinitely. Where `want` is all zeros, so does all that is not.
pub fn difference(want: &[f32], got: &[f32]) -> (f64, Option<usize>) {
    let (mut error, mut power, mut most, mut at) = (0.0, 0.0, 0.0, None);
    for (i, (&want, &got)) in want.iter().zip(got).enumerate() {
        if want == got || want.is_nan() && got.is_nan() {
            power += if want.is_finite() { f64::from(want).powi(2) } else { 0.0 };
            continue;
        }
        let off = (f64::from(got) - f64::from(want)).powi(2);
        let off = if off.is_nan() { f64::INFINITY } else { off };
        if off > most {
            (most, at) = (off, Some(i));
        }
        error += off;
        power += if want.is_finite() { f64::from(want).powi(2) } else { 0.0 };
    }
    match at {
        None => (0.0, None),
        // Differences too small for a square still differ.
        Some(_) if power == 0.0 => (f64::INFINITY, at),
        Some(_) => (error / power, at),
    }
}

/// What [`difference`] may be after one `op` on elements of `dtype` (of weight, cache or, in a copy, destination).
pub fn tolerance(op: Op, dtype: DType) -> f64 {
    match (op, dtype) {
        // Numbers that are there already: exactly.
        (Op::TopK | Op::Write | Op::Read, _) => 0.0,
        // A table's rows are widened to f32, without a rounding that counts.
        (Op::GetRows, _) | (_, DType::F32 | DType::I32) => 1e-7,
        (_, DType::F16 | DType::BF16) => 1e-6,
        _ => 5e-4,
    }
}

/// The mean square error that rounding `x` (rows of `cols`) to 8 bits costs, over its mean square: a step is a 127th of the largest of
/// some columns, and the error is even over a step. About 5e-5 for what looks Gaussian; 1e-3 and more where one element outweighs
/// the rest.
fn rounding_noise(x: &[f32], cols: usize) -> f64 {
    let (mut error, mut power) = (0.0, 0.0);
    for columns in x.chunks(cols.max(1)).flat_map(|row| row.chunks(SCALED)) {
        let largest = columns.iter().fold(0f32, |most, v| most.max(v.abs()));
        error += (f64::from(largest) / 127.0).powi(2) / 12.0 * columns.len() as f64;
        power += columns.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
    }
    if power > 0.0 && error.is_finite() { error / power } else { 0.0 }
}

/// The type that an op's tolerance is by.
fn deciding(op: Op, dst: Tensor, reads: &[Tensor]) -> DType {
    match op {
        Op::Matmul | Op::Attention => reads[1].dtype,
        Op::GetRows => reads[0].dtype,
        _ => dst.dtype,
    }
}

/// A backend that computes on a reference `A` and on a device `B`, and compares.
pub struct Checked<A, B> {
    reference: A,
    device: B,
    /// Each tensor's handles: the reference's, the device's.
    tensors: Vec<(Tensor, Tensor)>,
    /// Whether values are compared only where the model reads.
    fused: bool,
    /// Cache rows written since the last comparison, where `fused`.
    cached: Vec<Tensor>,
    /// Buffers whose rows hold the largest of others and then their columns, where `fused`.
    ranked: Vec<u32>,
    /// For each tensor the largest tolerance among the ops that its values went through, where `fused`.
    loosest: Vec<f64>,
    want: Vec<f32>,
    got: Vec<f32>,
    report: Arc<Mutex<Report>>,
    failure: Option<Error>,
}

impl<A: Backend, B: Backend> Checked<A, B> {
    /// Compares after every op.
    pub fn new(reference: A, device: B) -> Self {
        Self {
            reference,
            device,
            tensors: Vec::new(),
            fused: false,
            cached: Vec::new(),
            ranked: Vec::new(),
            loosest: Vec::new(),
            want: Vec::new(),
            got: Vec::new(),
            report: Arc::default(),
            failure: None,
        }
    }

    /// Compares when the model reads, with the caches' new rows; the device may fuse ops.
    pub fn fused(reference: A, device: B) -> Self {
        Self { fused: true, ..Self::new(reference, device) }
    }

    /// What was found so far; it stays readable when this backend is given away.
    pub fn report(&self) -> Arc<Mutex<Report>> {
        Arc::clone(&self.report)
    }

    fn found(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The handles of `t` on the reference and on the device.
    fn both(&self, t: Tensor) -> (Tensor, Tensor) {
        let (a, b) = self.tensors[t.buffer as usize];
        let on = |whole: Tensor| Tensor { buffer: whole.buffer, first: whole.first + t.first, ..t };
        (on(a), on(b))
    }

    fn push(&mut self, tensors: (Tensor, Tensor)) -> Tensor {
        self.tensors.push(tensors);
        self.loosest.push(0.0);
        let buffer = u32::try_from(self.tensors.len() - 1).expect("fewer than 2^32 tensors");
        Tensor { buffer, first: 0, ..tensors.0 }
    }

    /// Compares the rows of `written`, which `op` made of `operands`, notes it, and gives the device the reference's values.
    fn compare(&mut self, op: Op, written: Tensor, operands: &[Tensor], allowed: f64) -> Result<()> {
        let (a, b) = self.both(written);
        let len = written.rows * written.cols;
        self.want.resize(len, 0.0);
        self.got.resize(len, 0.0);
        self.reference.read(&mut self.want, a)?;
        self.device.read(&mut self.got, b)?;
        if self.ranked.contains(&written.buffer) {
            // Of two that are nearly equal either may come first, so only the values count.
            for (got, want) in self.got.chunks_mut(written.cols).zip(self.want.chunks(written.cols)) {
                got[written.cols / 2..].copy_from_slice(&want[written.cols / 2..]);
            }
        }
        let (nmse, at) = difference(&self.want, &self.got);
        let dtype = deciding(op, written, operands.get(1..).unwrap_or_default());
        let most = at.map(|i| Difference {
            op,
            operands: operands.to_vec(),
            nmse,
            tolerance: allowed,
            row: i / written.cols,
            col: i % written.cols,
            reference: self.want[i],
            device: self.got[i],
        });
        self.found().note(op, dtype, nmse, allowed, most);
        if at.is_some() {
            let mut bytes = vec![0; written.rows * written.dtype.row_bytes(written.cols).unwrap_or(0)];
            quant::quantize(written.dtype, written.cols, &self.want, &mut bytes, None);
            self.device.write(b, &bytes);
        }
        Ok(())
    }

    /// What the values of `t` may be off after all that they went through since they were last compared.
    fn after_pass(&self, t: Tensor) -> f64 {
        PASS * self.loosest[t.buffer as usize]
    }

    /// The cache rows that were written since the last comparison.
    fn compare_caches(&mut self) -> Result<()> {
        for t in std::mem::take(&mut self.cached) {
            self.compare(Op::Copy, t, &[t], tolerance(Op::Copy, t.dtype).max(self.after_pass(t)))?;
        }
        Ok(())
    }

    /// What `op` may be off: more than [`tolerance`] where its activations are hard to round.
    fn allowed(&mut self, op: Op, dst: Tensor, reads: &[Tensor]) -> Result<f64> {
        let allowed = tolerance(op, deciding(op, dst, reads));
        match reads {
            [x, w, ..] if op == Op::Matmul && w.dtype.is_quantized() => {
                self.want.resize(x.rows * x.cols, 0.0);
                let (x_here, _) = self.both(*x);
                self.reference.read(&mut self.want, x_here)?;
                Ok(allowed.max(NOISE * rounding_noise(&self.want, x.cols)))
            }
            _ => Ok(allowed),
        }
    }

    fn relay(&mut self, op: Op, dst: Tensor, reads: &[Tensor], call: Call<'_>) {
        if self.failure.is_some() {
            return;
        }
        let tensors = &self.tensors;
        let on =
            |whole: Tensor, t: Tensor| Tensor { buffer: whole.buffer, first: whole.first + t.first, ..t };
        call(&mut self.reference, &|t| on(tensors[t.buffer as usize].0, t));
        call(&mut self.device, &|t| on(tensors[t.buffer as usize].1, t));
        let allowed = match self.allowed(op, dst, reads) {
            Ok(allowed) => allowed,
            Err(error) => {
                self.failure = Some(error);
                return;
            }
        };
        if self.fused {
            let loosest = |t: &Tensor| self.loosest[t.buffer as usize];
            let loosest = reads.iter().chain([&dst]).map(loosest).fold(allowed, f64::max);
            self.loosest[dst.buffer as usize] = loosest;
            if op == Op::Copy {
                self.cached.push(dst);
            }
            if op == Op::TopK && !self.ranked.contains(&dst.buffer) {
                self.ranked.push(dst.buffer);
            }
            return;
        }
        if dst.dtype == DType::I32 {
            return; // not to be read, and only ever a copy of what was written
        }
        let mut operands = vec![dst];
        operands.extend(reads);
        self.failure = self.compare(op, dst, &operands, allowed).err();
    }
}

impl<A: Backend, B: Backend> Backend for Checked<A, B> {
    fn name(&self) -> String {
        format!("{} checked against {}", self.device.name(), self.reference.name())
    }

    fn load(&mut self, bytes: Bytes, rows: usize, cols: usize, dtype: DType) -> Result<Tensor> {
        self.failure.take().map_or(Ok(()), Err)?;
        let reference = self.reference.load(bytes.clone(), rows, cols, dtype)?;
        let device = self.device.load(bytes, rows, cols, dtype)?;
        Ok(self.push((reference, device)))
    }

    fn alloc(&mut self, rows: usize, cols: usize, dtype: DType) -> Result<Tensor> {
        self.failure.take().map_or(Ok(()), Err)?;
        let tensors = (self.reference.alloc(rows, cols, dtype)?, self.device.alloc(rows, cols, dtype)?);
        Ok(self.push(tensors))
    }

    fn write(&mut self, dst: Tensor, src: &[u8]) {
        let (a, b) = self.both(dst);
        self.reference.write(a, src);
        self.device.write(b, src);
    }

    /// The reference's values. In the grain of ops they are compared once more, and must be equal: the device was given them.
    fn read(&mut self, dst: &mut [f32], src: Tensor) -> Result<()> {
        self.failure.take().map_or(Ok(()), Err)?;
        if self.fused {
            self.compare_caches()?;
        }
        self.compare(Op::Read, src, &[src], self.after_pass(src))?;
        dst.copy_from_slice(&self.want);
        Ok(())
    }

    fn layer(&mut self, index: Option<usize>) {
        self.reference.layer(index);
        self.device.layer(index);
    }

    fn device_times(&mut self) -> Option<Vec<(Op, Duration)>> {
        self.device.device_times()
    }

    relay_ops!();
}

#[cfg(test)]
mod tests;
