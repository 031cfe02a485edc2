//! The product of F16 and BF16 weights on AVX2: whole numbers of 16 bits, as on AVX-512 ([`super::super::int16`]).
//!
//! `vpmaddwd` multiplies 16 columns where a multiply-add takes 8, on the same ports; the sum that it leaves to `vpaddd` runs on others. With
//! AVX-VNNI `vpdpwssd` does both. 32 rows × 3 tokens: 12 sums, 3 broadcasts and a weight fill 16 registers. Columns stand in the order in
//! which `vpackssdw` leaves them, 16 at a time.

use std::arch::x86_64::*;

use super::{
    super::int16::{WIDTH, WordTile, factor, power},
    plain,
};
use crate::cpu::matmul::{F32, PANEL, Plain, SPAN, Weights};

/// Up to [`WIDTH`] numbers of `part` as whole ones, in pairs, and their unit. Zeros fill up the rest.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn quantize<F: Plain>(part: &[u8]) -> ([__m256; SPAN / 8], f32) {
    let size = size_of::<F::Bytes>();
    let mut x = [_mm256_setzero_ps(); WIDTH / 8];
    let mut most = [_mm256_setzero_ps(); 2];
    for (i, (x, part)) in x.iter_mut().zip(part.chunks(8 * size)).enumerate() {
        *x = match part.len() == 8 * size {
            // SAFETY: the slice holds them.
            true => unsafe { plain::load::<F>(part.as_ptr()) },
            false => plain::load_part::<F>(part),
        };
        most[i % 2] = _mm256_max_ps(most[i % 2], _mm256_andnot_ps(_mm256_set1_ps(-0.0), *x));
    }
    let most = _mm256_max_ps(most[0], most[1]);
    let most = _mm_max_ps(_mm256_castps256_ps128(most), _mm256_extractf128_ps::<1>(most));
    let most = _mm_max_ps(most, _mm_movehl_ps(most, most));
    let largest = _mm_cvtss_f32(_mm_max_ss(most, _mm_movehdup_ps(most)));
    let (power, inverse) = power(largest);
    let mut squares = [_mm256_setzero_ps(); 4];
    for (i, x) in x.iter_mut().enumerate() {
        *x = _mm256_mul_ps(*x, _mm256_set1_ps(inverse));
        squares[i % 4] = _mm256_fmadd_ps(*x, *x, squares[i % 4]);
    }
    let [a, b, c, d] = squares;
    let squares = super::dots::reduce(_mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d)));
    let (factor, unit) = factor(squares, largest * inverse, power);
    let whole = |x| _mm256_cvtps_epi32(_mm256_mul_ps(x, _mm256_set1_ps(factor)));
    let mut words = [_mm256_setzero_ps(); SPAN / 8];
    for (words, x) in words.iter_mut().zip(x.as_chunks::<2>().0) {
        *words = _mm256_castsi256_ps(_mm256_packs_epi32(whole(x[0]), whole(x[1])));
    }
    (words, unit)
}

/// Converts a span of the rows from `first` on, eight rows at a time.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) fn convert<F: Plain>(tile: &mut WordTile, w: Weights<'_>, first: usize, col: usize) {
    let size = size_of::<F::Bytes>();
    for lane in (0..PANEL).step_by(8) {
        let mut blocks = [[_mm256_setzero_ps(); 8]; SPAN / 8];
        tile.unit[lane..lane + 8].fill(0.0);
        for r in 0..8.min(w.rows().saturating_sub(first + lane)) {
            let (words, unit) = quantize::<F>(w.part(first + lane + r, col * size, WIDTH * size));
            tile.unit[lane + r] = unit;
            for (block, words) in blocks.iter_mut().zip(words) {
                block[r] = words;
            }
        }
        for (block, steps) in blocks.iter().zip(tile.w.as_chunks_mut::<8>().0) {
            for (to, step) in steps.iter_mut().zip(plain::transpose(*block)) {
                // SAFETY: 8 of 32 pairs, from a multiple of 8 on.
                unsafe { _mm256_storeu_ps(to.as_mut_ptr().add(lane).cast(), step) };
            }
        }
    }
}

/// Packs the first `cols` columns of `tokens` rows of `x`, which are `k` apart.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) fn pack(x: &[f32], k: usize, cols: usize, tokens: usize, record: &mut [f32]) {
    let (units, steps) = record.split_at_mut(tokens);
    for (token, to) in units.iter_mut().enumerate() {
        let (words, unit) = quantize::<F32>(bytemuck::cast_slice(&x[token * k..][..cols]));
        *to = unit;
        let mut pairs = [0.0f32; SPAN];
        for (pairs, words) in pairs.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            // SAFETY: eight floats.
            unsafe { _mm256_storeu_ps(pairs.as_mut_ptr(), words) };
        }
        // As integers: not every pair is a float that a move leaves alone.
        let steps = bytemuck::cast_slice_mut::<f32, u32>(steps);
        for (to, pair) in steps[token..].iter_mut().step_by(tokens).zip(pairs) {
            *to = pair.to_bits();
        }
    }
}

/// A kernel and its choice by the number of tokens, with some instructions.
macro_rules! product {
    ($multiply:ident, $kernel:ident, $features:literal, $add:expr) => {
        /// `c[token][row]` += the sums of `steps` steps.
        ///
        /// # Safety
        /// `record` is valid for `tokens`·(1 + `steps`) reads, `c` for `tokens`·[`PANEL`] reads and writes; `steps` is at most [`SPAN`].
        #[target_feature(enable = $features)]
        pub(in super::super) unsafe fn $multiply(
            tokens: usize,
            tile: &WordTile,
            record: *const f32,
            c: *mut f32,
            steps: usize,
        ) {
            // SAFETY: as this function's.
            unsafe {
                match tokens {
                    3 => $kernel::<3>(tile, record, c, steps),
                    2 => $kernel::<2>(tile, record, c, steps),
                    1 => $kernel::<1>(tile, record, c, steps),
                    _ => unreachable!("{tokens} tokens in a group of {}", super::FLOAT_TOKENS),
                }
            }
        }

        /// # Safety
        /// As the choice, with `T` tokens.
        #[inline(never)]
        #[target_feature(enable = $features)]
        unsafe fn $kernel<const T: usize>(tile: &WordTile, record: *const f32, c: *mut f32, steps: usize) {
            // SAFETY: `steps` rows of the tile, (1 + steps)·T dwords of the record, T·PANEL floats of c.
            unsafe {
                let (w, x) = (tile.w.as_ptr().cast::<i32>(), record.add(T).cast::<i32>());
                let mut sums = [[_mm256_setzero_si256(); 4]; T];
                for step in 0..steps {
                    for q in 0..4 {
                        let w = _mm256_load_si256(w.add(step * PANEL + 8 * q).cast());
                        for (i, sum) in sums.iter_mut().enumerate() {
                            let x = _mm256_set1_epi32(*x.add(step * T + i));
                            sum[q] = $add(sum[q], w, x);
                        }
                    }
                }
                for q in 0..4 {
                    let unit = _mm256_load_ps(tile.unit.as_ptr().add(8 * q));
                    for (i, sum) in sums.iter().enumerate() {
                        let c = c.add(i * PANEL + 8 * q);
                        let sum = _mm256_mul_ps(_mm256_cvtepi32_ps(sum[q]), unit);
                        let sum = _mm256_fmadd_ps(sum, _mm256_set1_ps(*record.add(i)), _mm256_loadu_ps(c));
                        _mm256_storeu_ps(c, sum);
                    }
                }
            }
        }
    };
}

product!(multiply, kernel, "avx2,fma,f16c", |sum, w, x| _mm256_add_epi32(sum, _mm256_madd_epi16(w, x)));
product!(multiply_vnni, kernel_vnni, "avx2,fma,f16c,avxvnni", |sum, w, x| _mm256_dpwssd_avx_epi32(sum, w, x));
