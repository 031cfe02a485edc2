//! The int8 kernel of AVX-512 with VNNI for four bits: a panel of 32 weight rows times up to seven tokens, a slab summed in integers.
//!
//! Where codes have four bits, q − 8 and 8-bit activations give sums of 32 products within ±32512, which is an i16. So the
//! scale and the minimum of a block can be i16 too, in units of d per row and slab, and one `vpdpwssd` multiplies the block's sum by the
//! scale, Σx by the minimum, and adds both to an integer that holds up to the slab's end:
//! w = a·(q − 8) + c′ with c′ = c + (8 − ZERO)·a;  S = a/d, M = c′/(8·d), rounded, of 4000 at most;  d = max(|a|, |c′|/8)/4000.
//! A sum starts at (8·Σx << 16) − 8·Σx: after 8 `vpdpbusd` (q unsigned) its low half is Σ(q − 8)·x and its high half 8·Σx (one less
//! where the low half is negative: an eighth of an activation's step). 4000 keeps Σ S·low + M·high of eight blocks below 2³¹.
//!
//! Of the vector operations 16 in 18 are products, where a float sum per block (`gemm`) has 16 in 22. The departure:
//! activations share a scale per 256 columns instead of 32, as llama.cpp's do for its K formats: in a prototype the error of a product was .0066
//! instead of .0054 (normal x; the weights' own four bits cost .08), and NUMERICS.md has the KL divergence measured here. 14 sums, 14 totals, 2 weights and a broadcast are 31 registers.

#![allow(clippy::needless_range_loop, reason = "an index runs over several arrays side by side")]

use std::arch::x86_64::*;

use crate::cpu::matmul::{PANEL, SLAB, Tile, Unpack};

/// Where things lie in a token's part of packed activations, in dwords, tokens side by side:
/// ```text
/// [8][t]   8·Σx·65535 per block of 32: −8·Σx in the low half and 8·Σx in the high half of a dword
/// [64][t]  x: codes of four columns per dword, i8
/// [t]      the scale, f32
/// ```
pub(super) struct SlabRecord;

impl SlabRecord {
    /// Dwords of starts, which come first; the codes follow, and the scale comes last.
    pub(super) const STARTS: usize = SLAB / 32;
    /// Dwords of all.
    pub(super) const LEN: usize = Self::STARTS + SLAB / 4 + 1;
}

/// Tokens that the kernel takes at once.
pub(super) const TOKENS: usize = 7;

/// The largest scale in units of d.
const STEPS: f32 = 4000.0;

/// Turns the scales of the `blocks` blocks of a widened tile into integers; what an earlier slab left behind them does not count.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn integer_scales<F: Unpack>(tile: &mut Tile, blocks: usize) {
    let shift = _mm512_set1_ps((8 - F::ZERO) as f32);
    let zero = _mm512_setzero_ps();
    for lane in [0, 16] {
        // SAFETY: 16 floats or dwords of arrays of 32.
        unsafe {
            let mut scales = [[zero; 2]; 8];
            let mut largest = zero;
            for (block, scales) in scales.iter_mut().enumerate().take(blocks) {
                let a = _mm512_load_ps(tile.a[block].as_ptr().add(lane));
                let c = if F::MIN { _mm512_load_ps(tile.c[block].as_ptr().add(lane)) } else { zero };
                let c = _mm512_mul_ps(_mm512_fmadd_ps(a, shift, c), _mm512_set1_ps(0.125));
                largest = _mm512_max_ps(largest, _mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(c)));
                *scales = [a, c];
            }
            let some = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(largest, zero);
            let inverse = _mm512_maskz_div_ps(some, _mm512_set1_ps(STEPS), largest);
            let d = _mm512_mul_ps(largest, _mm512_set1_ps(1.0 / STEPS));
            _mm512_store_ps(tile.d.as_mut_ptr().add(lane), d);
            for (block, [a, c]) in scales.into_iter().enumerate().take(blocks) {
                let low = _mm512_cvtps_epi32(_mm512_mul_ps(a, inverse));
                let high = _mm512_slli_epi32::<16>(_mm512_cvtps_epi32(_mm512_mul_ps(c, inverse)));
                let both = _mm512_mask_blend_epi16(0xaaaa_aaaa, low, high);
                _mm512_store_si512(tile.s[block].as_mut_ptr().add(lane).cast(), both);
            }
        }
    }
}

/// Packs the columns of a slab for a group of tokens; see [`SlabRecord`]. `x` starts at the first token's first column of the slab, `k`
/// is the distance of tokens, `cols` the columns of this slab, a multiple of 32.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn pack(x: &[f32], k: usize, cols: usize, tokens: usize, record: &mut [i32]) {
    let (starts, rest) = record.split_at_mut(SlabRecord::STARTS * tokens);
    let (codes, scales) = rest.split_at_mut(SLAB / 4 * tokens);
    for token in 0..tokens {
        let x = x[token * k..][..cols].as_chunks::<16>().0;
        // SAFETY: 16 floats.
        let load = |x: &[f32; 16]| unsafe { _mm512_loadu_ps(x.as_ptr()) };
        let largest = |m: __m512, x: &[f32; 16]| {
            // Bits of magnitudes order as the magnitudes do, and a NaN comes above all.
            let bits = _mm512_castps_si512(_mm512_abs_ps(load(x)));
            _mm512_castsi512_ps(_mm512_max_epi32(bits, _mm512_castps_si512(m)))
        };
        let amax = x.iter().fold(_mm512_setzero_ps(), largest);
        let amax = f32::from_bits(_mm512_reduce_max_epi32(_mm512_castps_si512(amax)) as u32);
        let (d, inverse) = scale_of(amax);
        scales[token] = d.to_bits() as i32;
        let inverse = _mm512_set1_ps(inverse);
        let (mut q, mut sums) = ([0i32; SLAB / 4], [0i32; SLAB / 4]);
        for ((x, q), sums) in x.iter().zip(q.as_chunks_mut::<4>().0).zip(sums.as_chunks_mut::<4>().0) {
            // Rounds to the nearest, ties to even. NaN times 0 gives the lowest integer, whose low byte is 0.
            let four = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(load(x), inverse)));
            let sum = _mm_dpbusd_epi32(_mm_setzero_si128(), _mm_set1_epi8(1), four);
            // SAFETY: four dwords each.
            unsafe {
                _mm_storeu_si128(q.as_mut_ptr().cast(), four);
                _mm_storeu_si128(sums.as_mut_ptr().cast(), sum);
            }
        }
        for (start, sums) in starts[token..].iter_mut().step_by(tokens).zip(sums.as_chunks::<8>().0) {
            // As two's complement: (8·Σx << 16) − 8·Σx.
            *start = (8 * sums.iter().sum::<i32>()).wrapping_mul(65535);
        }
        for (code, q) in codes[token..].iter_mut().step_by(tokens).zip(q) {
            *code = q;
        }
    }
}

/// The scale of activations of magnitude `amax` at most, and what they are multiplied by to become codes: 0 where they are too
/// small for a scale, and where they are no numbers, which the scale then says.
pub(super) fn scale_of(amax: f32) -> (f32, f32) {
    let inverse = 127.0 / amax;
    match (amax.is_finite(), inverse.is_finite()) {
        (false, _) => (f32::NAN, 0.0),
        (_, false) => (0.0, 0.0),
        _ => (amax / 127.0, inverse),
    }
}

/// `c[token][row]` += the sums of `blocks` blocks of 32 columns.
///
/// # Safety
/// `record` is valid for `tokens`·[`SlabRecord::LEN`] reads, `c` for `tokens`·[`PANEL`] reads and writes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn multiply(tokens: usize, tile: &Tile, record: *const i32, c: *mut f32, blocks: usize) {
    // SAFETY: as this function's.
    unsafe {
        match tokens {
            7 => kernel::<7>(tile, record, c, blocks),
            6 => kernel::<6>(tile, record, c, blocks),
            5 => kernel::<5>(tile, record, c, blocks),
            4 => kernel::<4>(tile, record, c, blocks),
            3 => kernel::<3>(tile, record, c, blocks),
            2 => kernel::<2>(tile, record, c, blocks),
            1 => kernel::<1>(tile, record, c, blocks),
            _ => unreachable!("{tokens} tokens in a group of {TOKENS}"),
        }
    }
}

/// # Safety
/// As [`multiply`], with `T` tokens.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn kernel<const T: usize>(tile: &Tile, record: *const i32, c: *mut f32, blocks: usize) {
    let starts = record;
    // SAFETY: all offsets lie within the record's T·LEN dwords, the tile, and c's T·PANEL floats.
    unsafe {
        let codes = record.add(SlabRecord::STARTS * T);
        let scales = codes.add(64 * T).cast::<f32>();
        let (u, s) = (tile.u.as_ptr().cast::<i32>(), tile.s.as_ptr().cast::<i32>());
        let mut totals = [[_mm512_setzero_si512(); 2]; T];
        for block in 0..blocks {
            prefetch::<T>(record, c, block);
            let mut acc = [[_mm512_setzero_si512(); 2]; T];
            for (i, acc) in acc.iter_mut().enumerate() {
                *acc = [_mm512_set1_epi32(*starts.add(block * T + i)); 2];
            }
            for step in 0..8 {
                let k4 = 8 * block + step;
                let w0 = _mm512_load_si512(u.add(k4 * PANEL).cast());
                let w1 = _mm512_load_si512(u.add(k4 * PANEL + 16).cast());
                for (i, acc) in acc.iter_mut().enumerate() {
                    let x = _mm512_set1_epi32(*codes.add(k4 * T + i));
                    acc[0] = _mm512_dpbusd_epi32(acc[0], w0, x);
                    acc[1] = _mm512_dpbusd_epi32(acc[1], w1, x);
                }
            }
            for half in 0..2 {
                let s = _mm512_load_si512(s.add(block * PANEL + 16 * half).cast());
                for i in 0..T {
                    totals[i][half] = _mm512_dpwssd_epi32(totals[i][half], acc[i][half], s);
                }
            }
        }
        for half in 0..2 {
            let d = _mm512_load_ps(tile.d.as_ptr().add(16 * half));
            for i in 0..T {
                let at = c.add(i * PANEL + 16 * half);
                let d = _mm512_mul_ps(d, _mm512_set1_ps(*scales.add(i)));
                let sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(totals[i][half]), d, _mm512_loadu_ps(at));
                _mm512_storeu_ps(at, sum);
            }
        }
    }
}

/// Fetches a part of the next record and of the next sums, which lie behind these, into the first cache.
#[inline(always)]
fn prefetch<const T: usize>(record: *const i32, c: *const f32, block: usize) {
    let fetch = |first: *const u8, bytes: usize| {
        for line in 0..bytes.div_ceil(8 * 64) {
            let at = first.wrapping_add(bytes + ((block * bytes / 8) & !63) + 64 * line);
            // SAFETY: SSE is part of x86-64, and a prefetch of any address is harmless.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
        }
    };
    fetch(record.cast(), T * SlabRecord::LEN * 4);
    fetch(c.cast(), T * PANEL * 4);
}
