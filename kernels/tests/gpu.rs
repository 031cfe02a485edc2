//! Every op on the GPU against the CPU's scalar specification.
//!
//! Whatever adapter there is will do; Mesa's lavapipe computes in software. Each op runs with all that the adapter has and
//! with what an old one lacks (subgroups, cooperative matrices, large bindings). The measure is the normalised mean square
//! error, Σ(a − b)² / Σb². Where there is no adapter, the tests say so and pass.

#![cfg(feature = "gpu")]

use pumice_kernels::{
    Backend, Bytes, Cpu, CpuOptions, DType, Isa, Tensor,
    gpu::{Allow, Gpu, GpuOptions},
    quant,
};

#[path = "gpu/attention.rs"]
mod attention;
#[path = "gpu/coop.rs"]
mod coop;
#[path = "gpu/fused.rs"]
mod fused;
#[path = "gpu/products.rs"]
mod products;
#[path = "gpu/rows.rs"]
mod rows;
#[path = "gpu/top_k.rs"]
mod top_k;

/// A GPU that may use what `allow` says; `None`, and a word on it, where there is none.
fn gpu(allow: Allow) -> Option<Gpu> {
    match Gpu::new(&GpuOptions { allow, ..GpuOptions::default() }) {
        Ok(gpu) => Some(gpu),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

/// What adapters may have, and what old ones lack. Matrix units, which round otherwise, have tests of their own.
fn allowances() -> [(&'static str, Allow); 3] {
    let plain = Allow { cooperative_matrix: false, ..Allow::default() };
    let old = Allow { subgroups: false, ..plain.clone() };
    // So small that the tests' tensors lie in several parts.
    let narrow = Allow { binding: Some(16 << 10), ..plain.clone() };
    [("all but matrix units", plain), ("no subgroups", old), ("bindings of 16 kB", narrow)]
}

/// Runs `f` on the CPU's scalar code and on GPUs of all allowances; what it returns may differ by `tolerance`.
#[track_caller]
fn agree(what: &str, tolerance: f64, f: impl Fn(&mut dyn Backend) -> Vec<f32>) {
    let want = f(&mut Cpu::new(CpuOptions { threads: 1, isa: Some(Isa::Scalar) }));
    for (name, allow) in allowances() {
        let Some(mut gpu) = gpu(allow) else { return };
        let got = f(&mut gpu);
        let error = nmse(&got, &want);
        assert!(error <= tolerance, "{what} with {name}: error {error:.2e}, at most {tolerance:.0e}");
    }
}

/// Σ(a − b)² / Σb².
fn nmse(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |x: f64| x * x;
    let off: f64 = got.iter().zip(want).map(|(g, w)| square(f64::from(*g) - f64::from(*w))).sum();
    let all: f64 = want.iter().map(|w| square(f64::from(*w))).sum();
    if off == 0.0 { 0.0 } else { off / all }
}

/// Numbers that look Gaussian (a sum of four uniform ones), from a seed.
fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = || {
        // splitmix64, Steele et al. 2014.
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..len).map(|_| (uniform() + uniform() + uniform() + uniform()) * 3f32.sqrt()).collect()
}

/// A weight of `data`, quantized.
fn load(b: &mut dyn Backend, dtype: DType, rows: usize, cols: usize, data: &[f32]) -> Tensor {
    let mut bytes = vec![0; rows * dtype.row_bytes(cols).unwrap()];
    quant::quantize(dtype, cols, data, &mut bytes, None);
    b.load(Bytes::new(bytes), rows, cols, dtype).unwrap()
}

/// An activation of `data`.
fn put(b: &mut dyn Backend, rows: usize, cols: usize, data: &[f32]) -> Tensor {
    let t = b.alloc(rows, cols, DType::F32).unwrap();
    b.write(t, bytemuck::cast_slice(data));
    t
}

/// Ids or positions.
fn put_ids(b: &mut dyn Backend, ids: &[i32]) -> Tensor {
    let t = b.alloc(ids.len(), 1, DType::I32).unwrap();
    b.write(t, bytemuck::cast_slice(ids));
    t
}

fn get(b: &mut dyn Backend, t: Tensor) -> Vec<f32> {
    let mut out = vec![f32::NAN; t.rows * t.cols];
    b.read(&mut out, t).unwrap();
    out
}
