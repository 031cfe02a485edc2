//! Every op of the CPU backend, on every ISA that this machine has, against its formula in f64.
//!
//! Shapes lie below, at and above the tiles (16 and 32 lanes or queries, 64 keys, 8192 elements for a thread). Tolerances are
//! derived: a sum of k products in f32 errs by at most γ(k)·Σ|aᵢbᵢ| with γ(k) = k·ε/2 (Higham, section 3.1), whatever its
//! order; `EPS` = 2⁻²³ is twice the unit roundoff, which leaves room for the few roundings around the sum.

use pumice_kernels::{Backend, Cpu, CpuOptions, DType, Gelu, Isa, Tensor, quant};

#[path = "ops/attention.rs"]
mod attention;
#[path = "ops/rows.rs"]
mod rows;

/// Twice the unit roundoff of f32.
const EPS: f64 = f32::EPSILON as f64;

/// Calls `f` with a backend for each ISA, alone and with three threads.
fn each_cpu(f: impl Fn(&mut Cpu, &str)) {
    for isa in Isa::available() {
        for threads in [1, 3] {
            let mut cpu = Cpu::new(CpuOptions { threads, isa: Some(isa) });
            let name = cpu.name();
            f(&mut cpu, &name);
        }
    }
}

/// Numbers that look Gaussian (a sum of four uniform ones), from a fixed seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        // splitmix64, Steele et al. 2014.
        let mut uniform = || {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        (uniform() + uniform() + uniform() + uniform()) * 3f32.sqrt()
    }

    fn vec(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.next()).collect()
    }
}

fn put(cpu: &mut Cpu, rows: usize, cols: usize, data: &[f32]) -> Tensor {
    put_as(cpu, DType::F32, rows, cols, data)
}

/// A tensor of `data` converted to `dtype`.
fn put_as(cpu: &mut Cpu, dtype: DType, rows: usize, cols: usize, data: &[f32]) -> Tensor {
    let t = cpu.alloc(rows, cols, dtype).unwrap();
    cpu.write(t, &encode(dtype, cols, data));
    t
}

fn encode(dtype: DType, cols: usize, data: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; data.len() / cols * dtype.row_bytes(cols).unwrap()];
    quant::quantize(dtype, cols, data, &mut bytes, None);
    bytes
}

/// `data` as it is after a round trip through `dtype`.
fn rounded(dtype: DType, cols: usize, data: &[f32]) -> Vec<f32> {
    let mut back = vec![0.0; data.len()];
    quant::dequantize(dtype, &encode(dtype, cols, data), &mut back);
    back
}

fn put_ids(cpu: &mut Cpu, ids: &[i32]) -> Tensor {
    let t = cpu.alloc(1, ids.len(), DType::I32).unwrap();
    let bytes: Vec<u8> = ids.iter().flat_map(|i| i.to_le_bytes()).collect();
    cpu.write(t, &bytes);
    t
}

fn get(cpu: &mut Cpu, t: Tensor) -> Vec<f32> {
    let mut out = vec![f32::NAN; t.rows * t.cols];
    cpu.read(&mut out, t).unwrap();
    out
}

/// Panics with the first element of `got` that is not within `tolerance(i)` of `want(i)`.
#[track_caller]
fn close(what: &str, got: &[f32], want: impl Fn(usize) -> f64, tolerance: impl Fn(usize) -> f64) {
    for (i, &got) in got.iter().enumerate() {
        let (got, want, tolerance) = (f64::from(got), want(i), tolerance(i));
        assert!((got - want).abs() <= tolerance, "{what}: element {i} is {got}, not {want} ± {tolerance:e}");
    }
}
