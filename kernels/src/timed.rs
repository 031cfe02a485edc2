//! A backend that times the ops it passes on: a table of where the seconds go.
//!
//! The seconds are those of the call. The CPU computes within it, so they are the op's; a device that records and submits
//! shows its work in the `read` that waits for it.

use crate::{
    Backend, Bytes, DType, Gelu, Result, Tensor,
    count::{Op, Work, decorate, work},
};
use std::{
    fmt,
    time::{Duration, Instant},
};

/// Times what passes through to `inner`. Its `Display` is a table, the slowest op first.
pub struct Timed<B> {
    inner: B,
    spent: [(Duration, Work); Op::ALL.len()],
}

impl<B: Backend> Timed<B> {
    /// Times from zero.
    pub fn new(inner: B) -> Self {
        Self { inner, spent: Default::default() }
    }

    /// The time that `op` took so far, and what it did.
    pub fn of(&self, op: Op) -> (Duration, Work) {
        self.spent[op as usize]
    }

    /// The time of all ops so far.
    pub fn total(&self) -> Duration {
        self.spent.iter().map(|(time, _)| *time).sum()
    }

    /// What all ops did so far.
    pub fn work(&self) -> Work {
        self.spent.iter().fold(Work::default(), |mut sum, (_, work)| {
            sum += *work;
            sum
        })
    }

    /// Times from zero again.
    pub fn reset(&mut self) {
        self.spent = Default::default();
    }

    /// The backend itself, for work that is not to be timed by the op.
    pub fn inner_mut(&mut self) -> &mut B {
        &mut self.inner
    }

    /// The backend itself.
    pub fn into_inner(self) -> B {
        self.inner
    }

    fn watch(&mut self, op: Op, operands: &[Tensor], head_dim: usize, call: impl FnOnce(&mut B)) {
        let start = Instant::now();
        call(&mut self.inner);
        let (time, done) = &mut self.spent[op as usize];
        *time += start.elapsed();
        *done += work(op, operands, head_dim);
    }
}

decorate!(Timed);

impl<B: Backend> fmt::Display for Timed<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines: Vec<_> = Op::ALL.map(|op| (op.name(), self.of(op))).into();
        lines.retain(|(_, (_, work))| work.calls > 0);
        lines.sort_by_key(|(_, (time, _))| std::cmp::Reverse(*time));
        let total = self.total().as_secs_f64();
        writeln!(
            f,
            "{:10} {:>8} {:>12} {:>7} {:>10} {:>8}",
            "op", "calls", "ms", "share", "GFLOP/s", "GB/s"
        )?;
        for (name, (time, work)) in lines {
            // An op quicker than the clock's step has no rate to speak of.
            let s = time.as_secs_f64().max(1e-9);
            let (share, flops, bytes) =
                (100.0 * s / total.max(1e-9), work.flops as f64 / s / 1e9, work.bytes as f64 / s / 1e9);
            writeln!(f, "{name:10} {:8} {:12.3} {share:6.1}% {flops:10.1} {bytes:8.1}", work.calls, s * 1e3)?;
        }
        writeln!(f, "{:10} {:8} {:12.3}", "all", "", total * 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cpu, CpuOptions};

    #[test]
    fn the_slowest_op_comes_first() {
        let mut b = Timed::new(Cpu::new(CpuOptions { threads: 1, isa: None }));
        let (x, y) = (b.alloc(256, 256, DType::F32).unwrap(), b.alloc(256, 256, DType::F32).unwrap());
        let w = b.alloc(256, 256, DType::F32).unwrap();
        (0..3).for_each(|_| b.matmul(y, x, w, None));
        b.add(y.rows(0, 1), x.rows(0, 1));
        let (time, work) = b.of(Op::Matmul);
        assert_eq!((b.work().calls, b.work().flops), (4, work.flops + 256));
        assert!(work.calls == 3 && time > b.of(Op::Add).0 && b.total() >= time);
        let table = b.to_string();
        let ops: Vec<_> = table.lines().map(|line| line.split(' ').next().unwrap_or_default()).collect();
        assert_eq!(ops, ["op", "matmul", "add", "all"], "{table}");
        b.reset();
        assert_eq!(b.total(), Duration::ZERO);
    }
}
