//! A device that spoils one op is found by the op's name; two right ones pass.

use super::*;
use crate::{Cpu, CpuOptions, Isa};

/// A CPU that spoils one element of what `op` writes.
struct Spoiling {
    cpu: Cpu,
    op: Option<Op>,
    /// What the element becomes, of what it is.
    to: fn(f32) -> f32,
}

impl Spoiling {
    fn relay(&mut self, op: Op, dst: Tensor, _: &[Tensor], call: Call<'_>) {
        call(&mut self.cpu, &|t| t);
        if self.op == Some(op) {
            let mut values = vec![0.0; dst.rows * dst.cols];
            self.cpu.read(&mut values, dst).unwrap();
            values[3] = (self.to)(values[3]);
            let mut bytes = vec![0; dst.rows * dst.dtype.row_bytes(dst.cols).unwrap()];
            quant::quantize(dst.dtype, dst.cols, &values, &mut bytes, None);
            self.cpu.write(dst, &bytes);
        }
    }
}

impl Backend for Spoiling {
    fn name(&self) -> String {
        "spoiling".into()
    }
    fn load(&mut self, bytes: Bytes, rows: usize, cols: usize, dtype: DType) -> Result<Tensor> {
        self.cpu.load(bytes, rows, cols, dtype)
    }
    fn alloc(&mut self, rows: usize, cols: usize, dtype: DType) -> Result<Tensor> {
        self.cpu.alloc(rows, cols, dtype)
    }
    fn write(&mut self, dst: Tensor, src: &[u8]) {
        self.cpu.write(dst, src);
    }
    fn read(&mut self, dst: &mut [f32], src: Tensor) -> Result<()> {
        self.cpu.read(dst, src)
    }
    relay_ops!();
}

fn cpu(isa: Isa) -> Cpu {
    Cpu::new(CpuOptions { threads: 1, isa: Some(isa) })
}

fn noise(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1000.0 - 1.0).collect()
}

fn put(b: &mut dyn Backend, rows: usize, cols: usize, seed: usize) -> Tensor {
    let t = b.alloc(rows, cols, DType::F32).unwrap();
    b.write(t, bytemuck::cast_slice(&noise(rows * cols, seed)));
    t
}

fn weight(b: &mut dyn Backend, dtype: DType, rows: usize, cols: usize, seed: usize) -> Tensor {
    let mut bytes = vec![0; rows * dtype.row_bytes(cols).unwrap()];
    quant::quantize(dtype, cols, &noise(rows * cols, seed), &mut bytes, None);
    b.load(Bytes::new(bytes), rows, cols, dtype).unwrap()
}

fn integers(b: &mut dyn Backend, values: &[i32]) -> Tensor {
    let t = b.alloc(values.len(), 1, DType::I32).unwrap();
    b.write(t, bytemuck::cast_slice(values));
    t
}

/// Every op, twice, with a cache of `cache`; then what it comes to.
fn all_ops(b: &mut dyn Backend, cache: DType) -> Vec<f32> {
    let (x, y) = (put(b, 3, 256, 1), put(b, 3, 256, 2));
    let (norm, bias, freqs) = (put(b, 1, 256, 3), put(b, 1, 256, 4), put(b, 1, 16, 5));
    let (w, table) = (weight(b, DType::Q4_K, 256, 256, 6), weight(b, DType::F16, 9, 256, 7));
    let (ids, positions) = (integers(b, &[8, 0, 4]), integers(b, &[0, 1, 2]));
    let (k, v) = (b.alloc(6, 256, cache).unwrap(), b.alloc(6, 256, cache).unwrap());
    let best = b.alloc(3, 8, DType::F32).unwrap();
    for _ in 0..2 {
        b.get_rows(x, table, ids);
        b.rms_norm(y, x, norm, 1e-5);
        b.rope(y, positions, freqs, 64);
        b.copy(k.rows(0, 3), y);
        b.copy(v.rows(0, 3), x);
        b.attention(x, y, k.rows(0, 3), v.rows(0, 3), Some(positions), 64);
        b.layer_norm(y, x, norm, bias, 1e-5);
        b.matmul(x, y, w, Some(bias));
        b.gelu(x, Gelu::Erf);
        b.swiglu(x, y);
        b.add(x, norm);
        b.top_k(best, x, 200);
    }
    let mut out = vec![0.0; 768];
    b.read(&mut out, x).unwrap();
    out
}

#[test]
fn right_devices_pass() {
    for cache in [DType::F32, DType::F16, DType::Q8_0] {
        let alone = all_ops(&mut cpu(Isa::Scalar), cache);
        for fused in [false, true] {
            let (reference, device) = (cpu(Isa::Scalar), cpu(Isa::best()));
            let mut b =
                if fused { Checked::fused(reference, device) } else { Checked::new(reference, device) };
            let checked = all_ops(&mut b, cache);
            assert_eq!(checked, alone, "the reference's values");
            let report = b.report();
            let report = report.lock().unwrap();
            assert!(report.first().is_none(), "{cache}, fused: {fused}\n{report}");
            let ops: Vec<_> = report.lines().iter().map(|line| (line.op, line.calls)).collect();
            match fused {
                // The rows of both caches, twice; then what was read.
                true => assert_eq!(ops, [(Op::Copy, 4), (Op::Read, 1)]),
                false => assert_eq!((ops.len(), report.calls()), (12, 2 * 12 + 1), "{report}"),
            }
        }
    }
}

#[test]
fn a_spoiled_op_is_found_by_name() {
    let ops = Op::ALL.into_iter().filter(|op| !matches!(op, Op::Write | Op::Read));
    for op in ops {
        for to in [|v| v + 300.0, |_| f32::NAN, |_| f32::INFINITY] as [fn(f32) -> f32; 3] {
            if op == Op::Copy && !to(0.0).is_finite() {
                continue; // a block of 8 bits has no such value
            }
            let device = Spoiling { cpu: cpu(Isa::Scalar), op: Some(op), to };
            let mut b = Checked::new(cpu(Isa::Scalar), device);
            all_ops(&mut b, DType::Q8_0);
            let report = b.report();
            let report = report.lock().unwrap();
            let first = report.first().unwrap_or_else(|| panic!("{} is not found:\n{report}", op.name()));
            assert_eq!((first.op, first.row, first.col), (op, 0, 3), "{report}");
            for line in report.lines() {
                let spoiled = line.op == op;
                assert_eq!(line.differ > 0, spoiled, "each op is judged by itself:\n{report}");
                assert!(!spoiled || line.differ == line.calls, "{report}");
            }
            assert!(report.to_string().contains(&format!("first: {} (", op.name())), "{report}");
        }
    }
}

#[test]
fn in_a_fused_pass_the_caches_and_what_is_read_tell() {
    for (op, found) in [(Op::Rope, Op::Copy), (Op::SwiGlu, Op::Read)] {
        let device = Spoiling { cpu: cpu(Isa::Scalar), op: Some(op), to: |v| v + 300.0 };
        let mut b = Checked::fused(cpu(Isa::Scalar), device);
        all_ops(&mut b, DType::F16);
        let report = b.report();
        let report = report.lock().unwrap();
        assert_eq!(report.first().map(|first| first.op), Some(found), "{report}");
    }
}

#[test]
fn of_the_largest_only_the_values_count_in_a_fused_pass() {
    for (k, differs) in [(2, false), (4, true)] {
        // The fourth number is a column of two, and a value of four.
        let device = Spoiling { cpu: cpu(Isa::Scalar), op: Some(Op::TopK), to: |x| x + 1.0 };
        let mut b = Checked::fused(cpu(Isa::Scalar), device);
        let (x, top) = (put(&mut b, 1, 50, 1), b.alloc(1, 2 * k, DType::F32).unwrap());
        b.top_k(top, x, 50);
        b.read(&mut vec![0.0; 2 * k], top).unwrap();
        assert_eq!(b.found().first().is_some(), differs, "{k}");
    }
}

#[test]
fn differences() {
    assert_eq!(difference(&[3.0, 4.0], &[3.0, 4.5]), (0.01, Some(1)));
    assert_eq!(difference(&[0.0, -0.0], &[-0.0, 0.0]), (0.0, None));
    assert_eq!(difference(&[0.0], &[1e-30]), (f64::INFINITY, Some(0)));
    assert_eq!(difference(&[f32::NAN, f32::INFINITY, 1.0], &[f32::NAN, f32::INFINITY, 1.0]), (0.0, None));
    assert_eq!(difference(&[1.0, 2.0], &[1.5, f32::NAN]), (f64::INFINITY, Some(1)));
    assert_eq!(difference(&[f32::INFINITY, 2.0], &[f32::NEG_INFINITY, 3.0]), (f64::INFINITY, Some(0)));
    assert_eq!(difference(&[1.0, 1.0, 1.0], &[2.0, 0.0, 1.0]), (2.0 / 3.0, Some(0)), "the first of equals");
}

#[test]
fn an_activation_that_outweighs_the_rest_is_no_difference() {
    // One element of a thousand among some of one, as LLaMA has them in the row of its first token.
    let product = |b: &mut dyn Backend| {
        let (w, x) = (weight(b, DType::Q4_K, 64, 4096, 6), b.alloc(1, 4096, DType::F32).unwrap());
        let mut values = noise(4096, 1);
        values[100] = 1000.0;
        b.write(x, bytemuck::cast_slice(&values));
        let y = b.alloc(1, 64, DType::F32).unwrap();
        b.matmul(y, x, w, None);
        b.read(&mut [0.0; 64], y).unwrap();
    };
    for fused in [false, true] {
        for isa in Isa::available() {
            let (reference, device) = (cpu(isa), cpu(Isa::Scalar));
            let mut b =
                if fused { Checked::fused(reference, device) } else { Checked::new(reference, device) };
            product(&mut b);
            let report = b.report();
            assert!(report.lock().unwrap().first().is_none(), "{isa}\n{}", report.lock().unwrap());
        }
        let device = Spoiling { cpu: cpu(Isa::Scalar), op: Some(Op::Matmul), to: |v| v * 9.0 };
        let mut b = if fused {
            Checked::fused(cpu(Isa::best()), device)
        } else {
            Checked::new(cpu(Isa::best()), device)
        };
        product(&mut b);
        assert!(b.report().lock().unwrap().first().is_some(), "an element nine times what it is does differ");
    }
}
