//! The f32 product of both instruction sets: fused multiply-adds over a converted tile, and the dot of one token.
//!
//! AVX-512 takes 32 rows × 12 tokens: 24 sums, 2 weights and a broadcast in 32 registers. AVX2 takes 32 rows × 3 tokens: 12 sums, 3
//! broadcasts and a weight fill its 16.

use std::arch::x86_64::*;

use super::gemv::prefetch;
use crate::cpu::matmul::{FloatTile, PANEL, Plain, Weights, convert};

/// Tokens that the kernel of AVX-512 takes at once.
pub(super) const TOKENS: usize = 12;
/// Tokens that the kernel of AVX2 takes at once.
pub(super) const TOKENS_AVX2: usize = 3;

/// Converts a span of the rows from `first` on.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn convert_avx512<F: Plain>(tile: &mut FloatTile, w: Weights<'_>, first: usize, col: usize) {
    convert::<F>(tile, w, first, col);
}

/// Converts a span of the rows from `first` on.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn convert_avx2<F: Plain>(tile: &mut FloatTile, w: Weights<'_>, first: usize, col: usize) {
    convert::<F>(tile, w, first, col);
}

/// c[token][row] += the sums of `cols` columns.
///
/// # Safety
/// `x` is valid for `tokens`·`cols` reads, `c` for `tokens`·[`PANEL`] reads and writes; `cols` is at most the tile's.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn multiply_avx512(
    tokens: usize,
    tile: &FloatTile,
    x: *const f32,
    c: *mut f32,
    cols: usize,
) {
    // SAFETY: as this function's.
    unsafe {
        match tokens {
            12 => kernel_avx512::<12>(tile, x, c, cols),
            11 => kernel_avx512::<11>(tile, x, c, cols),
            10 => kernel_avx512::<10>(tile, x, c, cols),
            9 => kernel_avx512::<9>(tile, x, c, cols),
            8 => kernel_avx512::<8>(tile, x, c, cols),
            7 => kernel_avx512::<7>(tile, x, c, cols),
            6 => kernel_avx512::<6>(tile, x, c, cols),
            5 => kernel_avx512::<5>(tile, x, c, cols),
            4 => kernel_avx512::<4>(tile, x, c, cols),
            3 => kernel_avx512::<3>(tile, x, c, cols),
            2 => kernel_avx512::<2>(tile, x, c, cols),
            1 => kernel_avx512::<1>(tile, x, c, cols),
            _ => unreachable!("{tokens} tokens in a group of {TOKENS}"),
        }
    }
}

/// # Safety
/// As [`multiply_avx512`], with `T` tokens.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn kernel_avx512<const T: usize>(tile: &FloatTile, x: *const f32, c: *mut f32, cols: usize) {
    // SAFETY: `cols` rows of the tile, cols·T floats of x, T·PANEL of c.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; T];
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = [_mm512_loadu_ps(c.add(i * PANEL)), _mm512_loadu_ps(c.add(i * PANEL + 16))];
        }
        let w = tile.0.as_ptr().cast::<f32>();
        for col in 0..cols {
            let w0 = _mm512_load_ps(w.add(col * PANEL));
            let w1 = _mm512_load_ps(w.add(col * PANEL + 16));
            for (i, sum) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*x.add(col * T + i));
                sum[0] = _mm512_fmadd_ps(w0, x, sum[0]);
                sum[1] = _mm512_fmadd_ps(w1, x, sum[1]);
            }
        }
        for (i, sum) in sums.iter().enumerate() {
            _mm512_storeu_ps(c.add(i * PANEL), sum[0]);
            _mm512_storeu_ps(c.add(i * PANEL + 16), sum[1]);
        }
    }
}

/// c[token][row] += the sums of `cols` columns.
///
/// # Safety
/// As [`multiply_avx512`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn multiply_avx2(tokens: usize, tile: &FloatTile, x: *const f32, c: *mut f32, cols: usize) {
    // SAFETY: as this function's.
    unsafe {
        match tokens {
            3 => kernel_avx2::<3>(tile, x, c, cols),
            2 => kernel_avx2::<2>(tile, x, c, cols),
            1 => kernel_avx2::<1>(tile, x, c, cols),
            _ => unreachable!("{tokens} tokens in a group of {TOKENS_AVX2}"),
        }
    }
}

/// # Safety
/// As [`multiply_avx512`], with `T` tokens.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn kernel_avx2<const T: usize>(tile: &FloatTile, x: *const f32, c: *mut f32, cols: usize) {
    // SAFETY: `cols` rows of the tile, cols·T floats of x, T·PANEL of c.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); 4]; T];
        for (i, sum) in sums.iter_mut().enumerate() {
            for (q, sum) in sum.iter_mut().enumerate() {
                *sum = _mm256_loadu_ps(c.add(i * PANEL + 8 * q));
            }
        }
        let w = tile.0.as_ptr().cast::<f32>();
        for col in 0..cols {
            for q in 0..4 {
                let w = _mm256_load_ps(w.add(col * PANEL + 8 * q));
                for (i, sum) in sums.iter_mut().enumerate() {
                    sum[q] = _mm256_fmadd_ps(w, _mm256_set1_ps(*x.add(col * T + i)), sum[q]);
                }
            }
        }
        for (i, sum) in sums.iter().enumerate() {
            for (q, sum) in sum.iter().enumerate() {
                _mm256_storeu_ps(c.add(i * PANEL + 8 * q), *sum);
            }
        }
    }
}

/// out[i] = row `first` + i times x.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn dots_avx512<F: Plain>(w: Weights<'_>, first: usize, x: &[f32], out: &mut [f32]) {
    for (i, out) in out.iter_mut().enumerate() {
        *out = dot::<F>(w.row(first + i), x);
    }
}

/// out[i] = row `first` + i times x.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dots_avx2<F: Plain>(w: Weights<'_>, first: usize, x: &[f32], out: &mut [f32]) {
    for (i, out) in out.iter_mut().enumerate() {
        *out = dot::<F>(w.row(first + i), x);
    }
}

/// Σ w·x in 32 interleaved sums, as plain Rust that becomes vectors where they are enabled.
#[inline(always)]
fn dot<F: Plain>(row: &[u8], x: &[f32]) -> f32 {
    let w = bytemuck::cast_slice::<u8, F::Bytes>(row);
    let (ws, w_rest) = w.as_chunks::<32>();
    let (xs, x_rest) = x.as_chunks::<32>();
    let mut sums = [0.0f32; 32];
    for (w, x) in ws.iter().zip(xs) {
        prefetch(bytemuck::cast_slice(w));
        for j in 0..32 {
            sums[j] = F::get(w[j]).mul_add(x[j], sums[j]);
        }
    }
    for (j, (w, x)) in w_rest.iter().zip(x_rest).enumerate() {
        sums[j] = F::get(*w).mul_add(*x, sums[j]);
    }
    sums.iter().sum()
}
