//! The f32 product of AVX-512: fused multiply-adds over a converted tile, and the dot of one token.
//!
//! 32 rows × 12 tokens: 24 sums, 2 weights and a broadcast in 32 registers.

use std::arch::x86_64::*;

use super::gemv::prefetch;
use crate::{
    DType,
    cpu::matmul::{F32, FloatTile, PANEL, Plain, SPAN, Weights},
};

/// Tokens that the kernel takes at once.
pub(super) const TOKENS: usize = 12;

/// Up to 16 weights as f32, the first `cols` of them from `p`, then zeros.
///
/// # Safety
/// `cols` weights are readable at `p`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn load<F: Plain>(p: *const u8, cols: usize) -> __m512 {
    let mask = if cols < 16 { (1 << cols) - 1 } else { u16::MAX };
    // SAFETY: masked loads touch only what the mask names.
    unsafe {
        match F::DTYPE {
            DType::F16 => _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p.cast())),
            DType::BF16 => {
                let bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
            }
            _ => _mm512_maskz_loadu_ps(mask, p.cast()),
        }
    }
}

/// Fetches `part` into the second cache.
pub(super) fn fetch(part: &[u8]) {
    for line in (0..part.len() + 63).step_by(64) {
        // SAFETY: SSE is part of x86-64, and a prefetch of any address is harmless.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(part.as_ptr().wrapping_add(line).cast()) };
    }
}

/// Converts a span of the rows from `first` on, 16 × 16 weights at a time.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn convert<F: Plain>(tile: &mut FloatTile, w: Weights<'_>, first: usize, col: usize) {
    let size = size_of::<F::Bytes>();
    let cols = w.part(0, col * size, SPAN * size).len() / size;
    for lane in [0, 16] {
        for at in (0..cols).step_by(16) {
            let mut rows = [_mm512_setzero_ps(); 16];
            for (r, row) in rows.iter_mut().enumerate().take(w.rows().saturating_sub(first + lane)) {
                let part = w.part(first + lane + r, (col + at) * size, 16 * size);
                // SAFETY: the slice holds them.
                *row = unsafe { load::<F>(part.as_ptr(), part.len() / size) };
            }
            for (out, column) in tile.0[at..].iter_mut().zip(transpose(&rows)) {
                // SAFETY: 16 of 32 floats, from 0 or 16 on.
                unsafe { _mm512_storeu_ps(out.as_mut_ptr().add(lane), column) };
            }
        }
    }
}

/// [`crate::cpu::matmul::float_pack`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn pack(x: &[f32], k: usize, cols: usize, tokens: usize, to: &mut [f32]) {
    for at in (0..cols).step_by(16) {
        let mut rows = [_mm512_setzero_ps(); 16];
        for (token, row) in rows.iter_mut().enumerate().take(tokens) {
            let x = &x[token * k + at..][..16.min(cols - at)];
            // SAFETY: the slice holds them.
            *row = unsafe { load::<F32>(x.as_ptr().cast(), x.len()) };
        }
        store_steps(&rows, &mut to[at * tokens..cols * tokens], tokens);
    }
}

/// Writes up to 16 columns of `rows` to `to`, `[columns][tokens]`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn store_steps(rows: &[__m512; 16], to: &mut [f32], tokens: usize) {
    for (j, column) in transpose(rows).into_iter().enumerate().take(to.len() / tokens) {
        let to = &mut to[j * tokens..];
        // What is written too much belongs to the next column, which comes later.
        let mask = if to.len() < 16 { (1 << to.len()) - 1 } else { u16::MAX };
        // SAFETY: masked stores touch only what the mask names.
        unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), mask, column) };
    }
}

/// Rows to columns.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::cpu) fn transpose(rows: &[__m512; 16]) -> [__m512; 16] {
    // 4 × 4 within the quarters of four rows: t[4i + j] holds columns j, 4 + j, 8 + j, 12 + j of rows 4i...
    let mut t = [_mm512_setzero_ps(); 16];
    for i in 0..4 {
        let [a, b, c, d] = [rows[4 * i], rows[4 * i + 1], rows[4 * i + 2], rows[4 * i + 3]];
        let pd = |v: __m512| _mm512_castps_pd(v);
        let (ab0, ab1) = (pd(_mm512_unpacklo_ps(a, b)), pd(_mm512_unpackhi_ps(a, b)));
        let (cd0, cd1) = (pd(_mm512_unpacklo_ps(c, d)), pd(_mm512_unpackhi_ps(c, d)));
        t[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab0, cd0));
        t[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab0, cd0));
        t[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab1, cd1));
        t[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab1, cd1));
    }
    // Then 4 × 4 of the quarters.
    let mut columns = [_mm512_setzero_ps(); 16];
    for j in 0..4 {
        let [a, b, c, d] = [t[j], t[4 + j], t[8 + j], t[12 + j]];
        let (ab0, ab1) = (_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b));
        let (cd0, cd1) = (_mm512_shuffle_f32x4::<0x44>(c, d), _mm512_shuffle_f32x4::<0xee>(c, d));
        columns[j] = _mm512_shuffle_f32x4::<0x88>(ab0, cd0);
        columns[4 + j] = _mm512_shuffle_f32x4::<0xdd>(ab0, cd0);
        columns[8 + j] = _mm512_shuffle_f32x4::<0x88>(ab1, cd1);
        columns[12 + j] = _mm512_shuffle_f32x4::<0xdd>(ab1, cd1);
    }
    columns
}

/// `c[token][row]` += the sums of `cols` columns.
///
/// # Safety
/// `x` is valid for `tokens`·`cols` reads, `c` for `tokens`·[`PANEL`] reads and writes; `cols` is at most the tile's.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn multiply(tokens: usize, tile: &FloatTile, x: *const f32, c: *mut f32, cols: usize) {
    // SAFETY: as this function's.
    unsafe {
        match tokens {
            12 => kernel::<12>(tile, x, c, cols),
            11 => kernel::<11>(tile, x, c, cols),
            10 => kernel::<10>(tile, x, c, cols),
            9 => kernel::<9>(tile, x, c, cols),
            8 => kernel::<8>(tile, x, c, cols),
            7 => kernel::<7>(tile, x, c, cols),
            6 => kernel::<6>(tile, x, c, cols),
            5 => kernel::<5>(tile, x, c, cols),
            4 => kernel::<4>(tile, x, c, cols),
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
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn kernel<const T: usize>(tile: &FloatTile, x: *const f32, c: *mut f32, cols: usize) {
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

/// `out[i]` = row `first` + i times x. Two rows at a time, half the rows apart: two streams of memory.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn dots<F: Plain>(w: Weights<'_>, first: usize, x: &[f32], out: &mut [f32]) {
    let far = out.len() / 2;
    let (near, rest) = out.split_at_mut(far);
    for (i, out) in near.iter_mut().enumerate() {
        [*out, rest[i]] = dot::<F, 2>([w.row(first + i), w.row(first + far + i)], x);
    }
    if let Some(out) = rest.get_mut(far) {
        [*out] = dot::<F, 1>([w.row(first + 2 * far)], x);
    }
}

/// Rows times x, in four sums of 16 each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn dot<F: Plain, const R: usize>(rows: [&[u8]; R], x: &[f32]) -> [f32; R] {
    let size = size_of::<F::Bytes>();
    let mut sums = [[_mm512_setzero_ps(); 4]; R];
    for (i, x) in x.chunks(64).enumerate() {
        for r in 0..R {
            let part = &rows[r][64 * i * size..(64 * i + x.len()) * size];
            prefetch(part.as_ptr(), part.len());
            for (j, sum) in sums[r].iter_mut().enumerate() {
                let cols = x.len().saturating_sub(16 * j).min(16);
                let mask = if cols < 16 { (1 << cols) - 1 } else { u16::MAX };
                // SAFETY: `cols` of both from 16·j on; masked loads touch only what the mask names.
                unsafe {
                    let w = load::<F>(part.as_ptr().wrapping_add(16 * j * size), cols);
                    let x = _mm512_maskz_loadu_ps(mask, x.as_ptr().wrapping_add(16 * j));
                    *sum = _mm512_fmadd_ps(w, x, *sum);
                }
            }
        }
    }
    sums.map(|[a, b, c, d]| _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d))))
}
