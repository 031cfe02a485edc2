//! The f32 product of AVX2: fused multiply-adds over a converted tile, and the dot of one token.
//!
//! 32 rows × 3 tokens: 12 sums, 3 broadcasts and a weight fill 16 registers.

use std::arch::x86_64::*;

use super::{super::gemv::prefetch, dots::reduce};
use crate::{
    DType,
    cpu::matmul::{FloatTile, PANEL, Plain, SPAN, Weights},
};

/// Tokens that the kernel takes at once.
pub(in super::super) const TOKENS: usize = 3;

/// Eight weights as f32.
///
/// # Safety
/// They are readable at `p`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn load<F: Plain>(p: *const u8) -> __m256 {
    // SAFETY: as this function's.
    unsafe {
        match F::DTYPE {
            DType::F16 => _mm256_cvtph_ps(_mm_loadu_si128(p.cast())),
            DType::BF16 => {
                let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
            }
            _ => _mm256_loadu_ps(p.cast()),
        }
    }
}

/// All weights of `part`, eight at most, then zeros.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_part<F: Plain>(part: &[u8]) -> __m256 {
    let mut padded = [0; 32];
    padded[..part.len()].copy_from_slice(part);
    // SAFETY: 32 bytes hold eight weights of any format.
    unsafe { load::<F>(padded.as_ptr()) }
}

/// Converts a span of the rows from `first` on, 8 × 8 weights at a time.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) fn convert<F: Plain>(tile: &mut FloatTile, w: Weights<'_>, first: usize, col: usize) {
    let size = size_of::<F::Bytes>();
    let cols = w.part(0, col * size, SPAN * size).len() / size;
    for lane in (0..PANEL).step_by(8) {
        for at in (0..cols).step_by(8) {
            let mut rows = [_mm256_setzero_ps(); 8];
            for (r, row) in rows.iter_mut().enumerate().take(w.rows().saturating_sub(first + lane)) {
                let part = w.part(first + lane + r, (col + at) * size, 8 * size);
                *row = match part.len() == 8 * size {
                    // SAFETY: the slice holds them.
                    true => unsafe { load::<F>(part.as_ptr()) },
                    false => load_part::<F>(part),
                };
            }
            for (out, column) in tile.0[at..].iter_mut().zip(transpose(rows)) {
                let out = &mut out[lane..lane + 8];
                // SAFETY: eight floats.
                unsafe { _mm256_storeu_ps(out.as_mut_ptr(), column) };
            }
        }
    }
}

/// Rows to columns.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn transpose(rows: [__m256; 8]) -> [__m256; 8] {
    // 4 × 4 within the halves of four rows: t[4i + j] holds columns j and 4 + j of rows 4i...
    let mut t = [_mm256_setzero_ps(); 8];
    for i in 0..2 {
        let [a, b, c, d] = [rows[4 * i], rows[4 * i + 1], rows[4 * i + 2], rows[4 * i + 3]];
        let pd = |v: __m256| _mm256_castps_pd(v);
        let (ab0, ab1) = (pd(_mm256_unpacklo_ps(a, b)), pd(_mm256_unpackhi_ps(a, b)));
        let (cd0, cd1) = (pd(_mm256_unpacklo_ps(c, d)), pd(_mm256_unpackhi_ps(c, d)));
        t[4 * i] = _mm256_castpd_ps(_mm256_unpacklo_pd(ab0, cd0));
        t[4 * i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(ab0, cd0));
        t[4 * i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(ab1, cd1));
        t[4 * i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(ab1, cd1));
    }
    // Then 2 × 2 of the halves.
    let mut columns = [_mm256_setzero_ps(); 8];
    for j in 0..4 {
        columns[j] = _mm256_permute2f128_ps::<0x20>(t[j], t[4 + j]);
        columns[4 + j] = _mm256_permute2f128_ps::<0x31>(t[j], t[4 + j]);
    }
    columns
}

/// `c[token][row]` += the sums of `cols` columns.
///
/// # Safety
/// `x` is valid for `tokens`·`cols` reads, `c` for `tokens`·[`PANEL`] reads and writes; `cols` is at most the tile's.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) unsafe fn multiply(
    tokens: usize,
    tile: &FloatTile,
    x: *const f32,
    c: *mut f32,
    cols: usize,
) {
    // SAFETY: as this function's.
    unsafe {
        match tokens {
            3 => kernel::<3>(tile, x, c, cols),
            2 => kernel::<2>(tile, x, c, cols),
            1 => kernel::<1>(tile, x, c, cols),
            _ => unreachable!("{tokens} tokens in a group of {TOKENS}"),
        }
    }
}

/// # Safety
/// As [`multiply`], with `T` tokens.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn kernel<const T: usize>(tile: &FloatTile, x: *const f32, c: *mut f32, cols: usize) {
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

/// `out[i]` = row `first` + i times x. Two rows at a time, half the rows apart: two streams of memory.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) fn dots<F: Plain>(w: Weights<'_>, first: usize, x: &[f32], out: &mut [f32]) {
    let far = out.len() / 2;
    let (near, rest) = out.split_at_mut(far);
    for (i, out) in near.iter_mut().enumerate() {
        [*out, rest[i]] = dot::<F, 2>([w.row(first + i), w.row(first + far + i)], x);
    }
    if let Some(out) = rest.get_mut(far) {
        [*out] = dot::<F, 1>([w.row(first + 2 * far)], x);
    }
}

/// Rows times x, in four sums of eight each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot<F: Plain, const R: usize>(rows: [&[u8]; R], x: &[f32]) -> [f32; R] {
    let size = size_of::<F::Bytes>();
    let mut sums = [[_mm256_setzero_ps(); 4]; R];
    let (xs, rest) = x.as_chunks::<32>();
    for (i, x) in xs.iter().enumerate() {
        for r in 0..R {
            let part = &rows[r][32 * i * size..32 * (i + 1) * size];
            prefetch(part.as_ptr(), part.len());
            for (j, sum) in sums[r].iter_mut().enumerate() {
                // SAFETY: eight of 32 of both from 8·j on.
                unsafe {
                    let w = load::<F>(part.as_ptr().add(8 * j * size));
                    *sum = _mm256_fmadd_ps(w, _mm256_loadu_ps(x.as_ptr().add(8 * j)), *sum);
                }
            }
        }
    }
    for (j, x) in rest.chunks(8).enumerate() {
        let at = 32 * xs.len() + 8 * j;
        let x = load_part::<crate::cpu::matmul::F32>(bytemuck::cast_slice(x));
        for r in 0..R {
            let w = load_part::<F>(&rows[r][at * size..rows[r].len().min((at + 8) * size)]);
            sums[r][0] = _mm256_fmadd_ps(w, x, sums[r][0]);
        }
    }
    sums.map(|[a, b, c, d]| reduce(_mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d))))
}
