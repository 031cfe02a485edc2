//! A backend that times the ops it passes on: a table of where the seconds go.
//!
//! The CPU computes within the call, so the seconds of the call are the op's. A device that records and submits would show all its
//! work in the `read` that waits for it: where it measures by itself ([`Backend::device_times`]) only its own figures count.

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
    /// Whether the device measures by itself.
    measures: bool,
    spent: [(Duration, Work); Op::ALL.len()],
}

impl<B: Backend> Timed<B> {
    /// Times from zero.
    pub fn new(mut inner: B) -> Self {
        let measures = inner.device_times().is_some();
        Self { inner, measures, spent: Default::default() }
    }

    /// The time that `op` took so far, and what it did. Of a device that measures by itself the times are those up to the last
    /// `read`.
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
        self.collect();
        self.spent = Default::default();
    }

    /// Takes over what the device measured.
    fn collect(&mut self) {
        for (op, time) in self.inner.device_times().into_iter().flatten() {
            self.spent[op as usize].0 += time;
        }
    }

    /// The backend itself, for work that is not to be timed by the op.
    pub fn inner_mut(&mut self) -> &mut B {
        &mut self.inner
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
        let start = Instant::now();
        let result = call(&mut self.inner);
        let (time, done) = &mut self.spent[op as usize];
        if !self.measures {
            *time += start.elapsed();
        }
        *done += work(op, operands, head_dim);
        if self.measures && op == Op::Read {
            // All ops before it are done, so the question does not wait.
            self.collect();
        }
        result
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

    /// Computes on the CPU, and says of each product that it took a second.
    struct Measuring {
        cpu: Cpu,
        products: u64,
    }

    impl Backend for Measuring {
        fn name(&self) -> String {
            "measuring".into()
        }
        fn load(&mut self, bytes: Bytes, rows: usize, cols: usize, dtype: DType) -> Result<Tensor> {
            self.cpu.load(bytes, rows, cols, dtype)
        }
        fn alloc(&mut self, rows: usize, cols: usize, dtype: DType) -> Result<Tensor> {
            self.cpu.alloc(rows, cols, dtype)
        }
        fn read(&mut self, dst: &mut [f32], src: Tensor) -> Result<()> {
            self.cpu.read(dst, src)
        }
        fn device_times(&mut self) -> Option<Vec<(Op, Duration)>> {
            Some(vec![(Op::Matmul, Duration::from_secs(std::mem::take(&mut self.products)))])
        }
        fn matmul(&mut self, _: Tensor, _: Tensor, _: Tensor, _: Option<Tensor>) {
            self.products += 1;
        }
        fn write(&mut self, _: Tensor, _: &[u8]) {}
        fn get_rows(&mut self, _: Tensor, _: Tensor, _: Tensor) {}
        fn rms_norm(&mut self, _: Tensor, _: Tensor, _: Tensor, _: f32) {}
        fn layer_norm(&mut self, _: Tensor, _: Tensor, _: Tensor, _: Tensor, _: f32) {}
        fn rope(&mut self, _: Tensor, _: Tensor, _: Tensor, _: usize) {}
        fn attention(&mut self, _: Tensor, _: Tensor, _: Tensor, _: Tensor, _: Option<Tensor>, _: usize) {}
        fn swiglu(&mut self, _: Tensor, _: Tensor) {}
        fn gelu(&mut self, _: Tensor, _: Gelu) {}
        fn add(&mut self, _: Tensor, _: Tensor) {}
        fn copy(&mut self, _: Tensor, _: Tensor) {}
        fn top_k(&mut self, _: Tensor, _: Tensor, _: usize) {}
    }

    #[test]
    fn a_device_that_measures_is_believed() {
        let cpu = Cpu::new(CpuOptions { threads: 1, isa: None });
        let mut b = Timed::new(Measuring { cpu, products: 0 });
        let x = b.alloc(4, 4, DType::F32).unwrap();
        (0..3).for_each(|_| b.matmul(x, x, x, None));
        b.add(x, x);
        b.read(&mut [0.0; 16], x).unwrap();
        assert_eq!(b.total(), Duration::from_secs(3), "the host's clock does not count");
        assert_eq!((b.of(Op::Matmul).1.calls, b.of(Op::Add)), (3, (Duration::ZERO, b.of(Op::Add).1)));
        b.matmul(x, x, x, None);
        b.reset();
        b.read(&mut [0.0; 16], x).unwrap();
        assert_eq!(b.total(), Duration::ZERO, "what came before the reset is forgotten");
    }
}
