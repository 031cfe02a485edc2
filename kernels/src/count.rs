//! A backend that counts the work it passes on: calls, operations and bytes, per op.
//!
//! The counts come from shapes alone, so they hold for every device. Over the seconds of [`crate::Timed`] they give the place
//! on the roofline: a token is bound by bytes, a prompt by operations.

use crate::{Backend, Bytes, DType, Gelu, Result, Tensor};
use std::{fmt, ops::AddAssign, time::Duration};

/// The calls of [`Backend`] that do work on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the method of that name")]
pub enum Op {
    Write,
    Read,
    Matmul,
    GetRows,
    RmsNorm,
    LayerNorm,
    Rope,
    Attention,
    SwiGlu,
    Gelu,
    Add,
    Copy,
    TopK,
}

impl Op {
    /// All of them, in the order of the trait.
    pub const ALL: [Op; 13] = [
        Op::Write,
        Op::Read,
        Op::Matmul,
        Op::GetRows,
        Op::RmsNorm,
        Op::LayerNorm,
        Op::Rope,
        Op::Attention,
        Op::SwiGlu,
        Op::Gelu,
        Op::Add,
        Op::Copy,
        Op::TopK,
    ];

    /// The method's name.
    pub fn name(self) -> &'static str {
        match self {
            Op::Write => "write",
            Op::Read => "read",
            Op::Matmul => "matmul",
            Op::GetRows => "get_rows",
            Op::RmsNorm => "rms_norm",
            Op::LayerNorm => "layer_norm",
            Op::Rope => "rope",
            Op::Attention => "attention",
            Op::SwiGlu => "swiglu",
            Op::Gelu => "gelu",
            Op::Add => "add",
            Op::Copy => "copy",
            Op::TopK => "top_k",
        }
    }
}

/// How often an op was called and what it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Calls.
    pub calls: u64,
    /// Arithmetic operations; a multiplication and an addition are two. A transcendental function counts as one.
    pub flops: u64,
    /// Bytes that the operands take, each once: what must be moved if none is in a cache.
    pub bytes: u64,
}

impl Work {
    /// One call that does `flops` on `operands`.
    fn call(flops: usize, operands: &[Tensor]) -> Self {
        Self { calls: 1, flops: flops as u64, bytes: operands.iter().map(|t| bytes(*t)).sum() }
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.flops += other.flops;
        self.bytes += other.bytes;
    }
}

/// Bytes of `t`'s rows.
fn bytes(t: Tensor) -> u64 {
    (t.rows * t.dtype.row_bytes(t.cols).unwrap_or(0)) as u64
}

/// One call of `op` on `operands`, in the order of the method's arguments (those that are there), with heads of `head_dim`.
///
/// Attention with a mask counts the keys that the last rows of a sequence see: query i of n sees len − n + 1 + i.
pub(crate) fn work(op: Op, operands: &[Tensor], head_dim: usize) -> Work {
    let elements = operands.first().map_or(0, |t| t.rows * t.cols);
    match op {
        Op::Write | Op::Read => Work::call(0, operands),
        Op::Matmul => {
            let (w, bias) = (operands[2], operands.len() > 3);
            Work::call(elements * (2 * w.cols + usize::from(bias)), operands)
        }
        Op::GetRows => {
            // Of the table only the rows that are looked up.
            let (dst, table, ids) = (operands[0], operands[1], operands[2]);
            Work::call(0, &[dst, Tensor { rows: dst.rows, ..table }, ids])
        }
        // A square and a sum, a root per row, two products.
        Op::RmsNorm => Work::call(4 * elements, operands),
        // A sum, a difference, a square and a sum, then a difference, two products and a sum.
        Op::LayerNorm => Work::call(8 * elements, operands),
        // Four products and two sums for two elements.
        Op::Rope => Work::call(
            3 * (operands[0].rows * (operands[0].cols / head_dim.max(1)) * 2 * operands[2].cols),
            operands,
        ),
        Op::Attention => {
            let (q, k, masked) = (operands[1], operands[2], operands.len() > 4);
            let hidden = if masked { q.rows * q.rows.saturating_sub(1) / 2 } else { 0 };
            let scores = (q.rows * k.rows).saturating_sub(hidden);
            // For each score and each of the d elements a product and a sum, twice; and the softmax's e^, sum and maximum.
            Work::call(scores * (4 * q.cols + 3 * (q.cols / head_dim.max(1))), operands)
        }
        Op::SwiGlu => Work::call(5 * elements, operands),
        Op::Gelu => Work::call(6 * elements, operands),
        Op::Add => Work::call(elements, operands),
        Op::Copy => Work::call(0, operands),
        // A comparison each.
        Op::TopK => Work::call(operands[1].rows * operands[1].cols, operands),
    }
}

/// Bytes of the operands of `op` that no cache holds from the last time in a model larger than it: weights, looked-up rows, and
/// keys and values.
fn streamed(op: Op, operands: &[Tensor]) -> u64 {
    match op {
        Op::Matmul => bytes(operands[2]),
        Op::GetRows => bytes(Tensor { rows: operands[0].rows, ..operands[1] }),
        Op::Attention => bytes(operands[2]) + bytes(operands[3]),
        _ => 0,
    }
}

/// Implements [`Backend`] for a decorator whose `watch(op, operands, head_dim, call)` does the call.
macro_rules! decorate {
    ($decorator:ident) => {
        impl<B: Backend> Backend for $decorator<B> {
            fn name(&self) -> String {
                self.inner.name()
            }

            fn load(&mut self, bytes: Bytes, rows: usize, cols: usize, dtype: DType) -> Result<Tensor> {
                self.inner.load(bytes, rows, cols, dtype)
            }

            fn alloc(&mut self, rows: usize, cols: usize, dtype: DType) -> Result<Tensor> {
                self.inner.alloc(rows, cols, dtype)
            }

            fn write(&mut self, dst: Tensor, src: &[u8]) {
                self.watch(Op::Write, &[dst], 0, |b| b.write(dst, src));
            }

            fn read(&mut self, dst: &mut [f32], src: Tensor) -> Result<()> {
                self.watch(Op::Read, &[src], 0, |b| b.read(dst, src))
            }

            fn layer(&mut self, index: Option<usize>) {
                self.inner.layer(index);
            }

            fn device_times(&mut self) -> Option<Vec<(Op, Duration)>> {
                self.inner.device_times()
            }

            fn matmul(&mut self, dst: Tensor, x: Tensor, w: Tensor, bias: Option<Tensor>) {
                let operands = [dst, x, w, bias.unwrap_or(dst)];
                self.watch(Op::Matmul, &operands[..3 + usize::from(bias.is_some())], 0, |b| {
                    b.matmul(dst, x, w, bias)
                });
            }

            fn get_rows(&mut self, dst: Tensor, table: Tensor, ids: Tensor) {
                self.watch(Op::GetRows, &[dst, table, ids], 0, |b| b.get_rows(dst, table, ids));
            }

            fn rms_norm(&mut self, dst: Tensor, x: Tensor, weight: Tensor, eps: f32) {
                self.watch(Op::RmsNorm, &[dst, x, weight], 0, |b| b.rms_norm(dst, x, weight, eps));
            }

            fn layer_norm(&mut self, dst: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: f32) {
                self.watch(Op::LayerNorm, &[dst, x, weight, bias], 0, |b| {
                    b.layer_norm(dst, x, weight, bias, eps)
                });
            }

            fn rope(&mut self, x: Tensor, positions: Tensor, inv_freq: Tensor, head_dim: usize) {
                let operands = [x, positions, inv_freq];
                self.watch(Op::Rope, &operands, head_dim, |b| b.rope(x, positions, inv_freq, head_dim));
            }

            fn attention(
                &mut self,
                dst: Tensor,
                q: Tensor,
                k: Tensor,
                v: Tensor,
                positions: Option<Tensor>,
                head_dim: usize,
            ) {
                let operands = [dst, q, k, v, positions.unwrap_or(q)];
                let operands = &operands[..4 + usize::from(positions.is_some())];
                self.watch(Op::Attention, operands, head_dim, |b| {
                    b.attention(dst, q, k, v, positions, head_dim)
                });
            }

            fn swiglu(&mut self, gate: Tensor, up: Tensor) {
                self.watch(Op::SwiGlu, &[gate, up], 0, |b| b.swiglu(gate, up));
            }

            fn gelu(&mut self, x: Tensor, kind: Gelu) {
                self.watch(Op::Gelu, &[x], 0, |b| b.gelu(x, kind));
            }

            fn add(&mut self, dst: Tensor, x: Tensor) {
                self.watch(Op::Add, &[dst, x], 0, |b| b.add(dst, x));
            }

            fn copy(&mut self, dst: Tensor, x: Tensor) {
                self.watch(Op::Copy, &[dst, x], 0, |b| b.copy(dst, x));
            }

            fn top_k(&mut self, dst: Tensor, x: Tensor, among: usize) {
                self.watch(Op::TopK, &[dst, x], 0, |b| b.top_k(dst, x, among));
            }
        }
    };
}
pub(crate) use decorate;

/// Counts what passes through to `inner`. Its `Display` is a table, a line for each op that was called.
pub struct Count<B> {
    inner: B,
    work: [Work; Op::ALL.len()],
    /// Of the products, those with weights of each type, in the order of [`DType::ALL`].
    products: [Work; DType::ALL.len()],
    streamed: u64,
}

impl<B: Backend> Count<B> {
    /// Counts from zero.
    pub fn new(inner: B) -> Self {
        Self { inner, work: Default::default(), products: Default::default(), streamed: 0 }
    }

    /// What products did so far by type of the weights: together what [`Op::Matmul`] did.
    pub fn products(&self) -> impl Iterator<Item = (DType, Work)> {
        DType::ALL.into_iter().zip(self.products).filter(|(_, work)| work.calls > 0)
    }

    /// Of the bytes so far those that must come from memory where the model is larger than the caches: weights, each time they
    /// are used, looked-up rows, keys and values.
    pub fn streamed(&self) -> u64 {
        self.streamed
    }

    /// What `op` did so far.
    pub fn of(&self, op: Op) -> Work {
        self.work[op as usize]
    }

    /// What all ops did so far.
    pub fn total(&self) -> Work {
        self.work.iter().fold(Work::default(), |mut sum, work| {
            sum += *work;
            sum
        })
    }

    /// Counts from zero again.
    pub fn reset(&mut self) {
        self.work = Default::default();
        self.products = Default::default();
        self.streamed = 0;
    }

    /// The backend itself.
    pub fn into_inner(self) -> B {
        self.inner
    }

    fn watch<R>(
        &mut self,
        op: Op,
        operands: &[Tensor],
        head_dim: usize,
        call: impl FnOnce(&mut B) -> R,
    ) -> R {
        let result = call(&mut self.inner);
        let work = work(op, operands, head_dim);
        self.work[op as usize] += work;
        self.streamed += streamed(op, operands);
        if op == Op::Matmul
            && let Some(i) = DType::ALL.iter().position(|t| *t == operands[2].dtype)
        {
            self.products[i] += work;
        }
        result
    }
}

decorate!(Count);

impl<B: Backend> fmt::Display for Count<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:10} {:>8} {:>12} {:>12}", "op", "calls", "GFLOP", "GB")?;
        let lines = Op::ALL.map(|op| (op.name(), self.of(op)));
        for (name, work) in lines.into_iter().filter(|(_, w)| w.calls > 0).chain([("all", self.total())]) {
            let (flops, bytes) = (work.flops as f64 / 1e9, work.bytes as f64 / 1e9);
            writeln!(f, "{name:10} {:8} {flops:12.3} {bytes:12.3}", work.calls)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cpu, CpuOptions};

    #[test]
    fn counts_are_those_of_the_shapes() {
        let mut b = Count::new(Cpu::new(CpuOptions { threads: 1, isa: None }));
        let mut matrix = |rows, cols| b.alloc(rows, cols, DType::F32).unwrap();
        let (x, y, w, bias) = (matrix(3, 64), matrix(3, 32), matrix(32, 64), matrix(1, 32));
        let (k, v) = (matrix(8, 32), matrix(8, 32));
        let table = b.load(Bytes::new(vec![0; 10 * 34 * 2]), 10, 64, DType::Q8_0).unwrap();
        let ids = b.alloc(3, 1, DType::I32).unwrap();
        b.matmul(y, x, w, Some(bias));
        assert_eq!(
            b.of(Op::Matmul),
            Work { calls: 1, flops: 3 * 32 * 129, bytes: 4 * (3 * 32 + 3 * 64 + 32 * 64 + 32) }
        );
        assert_eq!(b.streamed(), 4 * 32 * 64);
        b.reset();
        let quantized = b.load(Bytes::new(vec![0; 32 * 68]), 32, 64, DType::Q8_0).unwrap();
        b.matmul(y, x, w, None);
        b.matmul(y, x, quantized, None);
        let products: Vec<_> = b.products().map(|(dtype, work)| (dtype, work.flops)).collect();
        assert_eq!(products, [(DType::F32, 3 * 32 * 128), (DType::Q8_0, 3 * 32 * 128)]);
        assert_eq!(b.streamed(), 4 * 32 * 64 + 32 * 68);
        b.reset();
        b.get_rows(x, table, ids);
        assert_eq!(b.streamed(), 3 * 68);
        assert_eq!(b.of(Op::GetRows), Work { calls: 1, flops: 0, bytes: 3 * 64 * 4 + 3 * 68 + 12 });
        let out = b.alloc(3, 32, DType::F32).unwrap();
        b.attention(out, y, k, v, None, 16);
        assert_eq!(b.of(Op::Attention).flops, 3 * 8 * (4 * 32 + 3 * 2));
        b.attention(out, y, k, v, Some(ids), 16);
        assert_eq!(b.streamed(), 3 * 68 + 2 * (2 * 8 * 32 * 4));
        // Three rows at the end of 8 see 6, 7 and 8 keys.
        assert_eq!(b.of(Op::Attention).flops, (3 * 8 + 21) * (4 * 32 + 3 * 2));
        assert_eq!(b.total().calls, 3);
        let table = b.to_string();
        assert!(
            table.lines().count() == 4 && table.contains("attention") && !table.contains("matmul"),
            "{table}"
        );
        b.reset();
        assert_eq!(b.total(), Work::default());
    }
}
