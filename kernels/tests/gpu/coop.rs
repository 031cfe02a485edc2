//! Products in matrix units, where the adapter has them: against exact products with what the weights stand for.
//!
//! Factors are rounded to 11 bits, where x in 8 bits would leave an error of 3e-5: the tolerance shows which kernel ran.

use super::*;
use pumice_kernels::gpu::adapters;

/// Whether the adapter multiplies square matrices of halves with sums in f32.
fn has_units() -> bool {
    let has = adapters().first().is_some_and(|a| {
        a.f16 && a.subgroup.is_some() && [8, 16].iter().any(|&s| a.cooperative_matrix.contains(&(s, s, s)))
    });
    if !has {
        // Where the run is for them, there must be some.
        assert!(std::env::var_os("PUMICE_EXPECTED_UNITS").is_none(), "no adapter with matrix units");
        eprintln!("skipped: no adapter with matrix units");
    }
    has
}

/// x·wᵀ for `n` rows, with a bias where `bias`, on a GPU with weights of `dtype` and on the CPU with the same numbers in F32;
/// `x` is scaled by rows.
#[track_caller]
fn check(dtype: DType, (n, k, m): (usize, usize, usize), bias: bool, scale: impl Fn(usize) -> f32) {
    let Some(mut gpu) = gpu(Allow::default()) else { return };
    let mut bytes = vec![0; m * dtype.row_bytes(k).unwrap()];
    quant::quantize(dtype, k, &random(1, m * k), &mut bytes, None);
    let mut exact = vec![0.0; m * k];
    quant::dequantize(dtype, &bytes, &mut exact);
    let mut x = random(2, n * k);
    x.chunks_exact_mut(k).enumerate().for_each(|(row, x)| x.iter_mut().for_each(|x| *x *= scale(row)));
    let run = |b: &mut dyn Backend, w: Tensor| {
        let bias = bias.then(|| load(b, DType::F32, 1, m, &random(3, m)));
        let (x, dst) = (put(b, n, k, &x), b.alloc(n + 1, m, DType::F32).unwrap());
        b.matmul(dst.rows(1, n), x, w, bias);
        // The same x again, which the device may have kept.
        b.matmul(dst.rows(1, n), x, w, bias);
        get(b, dst)
    };
    let w = gpu.load(Bytes::new(bytes), m, k, dtype).unwrap();
    let got = run(&mut gpu, w);
    let mut cpu = Cpu::new(CpuOptions { threads: 1, isa: Some(Isa::Scalar) });
    let w = load(&mut cpu, DType::F32, m, k, &exact);
    let want = run(&mut cpu, w);
    // A sum alone may be next to nothing.
    let m = if m == 1 { got.len() } else { m };
    for (row, (got, want)) in got.chunks_exact(m).zip(want.chunks_exact(m)).enumerate() {
        let error = nmse(got, want);
        assert!(error <= 1e-6, "{n}×{k} by {dtype}, {m} sums of row {row}: error {error:.2e}");
    }
}

#[test]
fn every_format() {
    if !has_units() {
        return;
    }
    for dtype in DType::ALL.into_iter().filter(|t| !matches!(t, DType::F32 | DType::I32)) {
        check(dtype, (64, 512, 67), true, |_| 1.0);
    }
}

/// Rows of x and of w that fill no tile, and columns of halves that fill no group.
#[test]
fn edges_of_tiles() {
    if !has_units() {
        return;
    }
    for (dtype, n, k, m) in [
        (DType::Q4_K, 65, 256, 1),
        (DType::Q8_0, 130, 96, 33),
        (DType::F16, 64, 33, 32),
        (DType::BF16, 70, 1030, 31),
        (DType::Q6_K, 129, 256, 65),
    ] {
        check(dtype, (n, k, m), false, |_| 1.0);
    }
}

/// Rows far above and below what a half holds, and one of zeros.
#[test]
fn rows_of_all_sizes() {
    if !has_units() {
        return;
    }
    check(DType::Q5_K, (64, 256, 40), false, |row| match row {
        3 => 1e9,
        4 => 1e-12,
        5 => 0.0,
        _ => 300.0,
    });
}

#[test]
fn nan_stays_seen() {
    if !has_units() {
        return;
    }
    let Some(mut gpu) = gpu(Allow::default()) else { return };
    let w = load(&mut gpu, DType::Q4_0, 40, 64, &random(1, 40 * 64));
    let mut x = random(2, 64 * 64);
    (x[64 * 7 + 3], x[64 * 9 + 5]) = (f32::NAN, f32::INFINITY);
    let (x, dst) = (put(&mut gpu, 64, 64, &x), gpu.alloc(64, 40, DType::F32).unwrap());
    gpu.matmul(dst, x, w, None);
    for (row, y) in get(&mut gpu, dst).chunks_exact(40).enumerate() {
        assert_eq!(y.iter().all(|y| y.is_nan()), row == 7 || row == 9, "row {row}");
        assert_eq!(y.iter().any(|y| !y.is_finite()), row == 7 || row == 9, "row {row}");
    }
}
