//! The int8 kernel of AVX2 for weights of four to six bits: a slab summed in integers.
//!
//! With z = 8, 16 or 32 in the middle of the codes, q − z and 8-bit activations give sums of a group (32 columns, 16 in Q6_K) whose
//! even and odd pairs of columns are an i16 each, within ±32512: sums start at −z·Σx, so that what lies between may wrap. One
//! `vpmaddwd` then widens them and multiplies by the group's scale, an i16 in units of d per row and slab; another one adds
//! the minima of two blocks:
//! w = a·(q − z) + c′ with c′ = c + (z − ZERO)·a;  S = a/d, M = c′/(8·d), rounded;  d = max(|a|, |c′|/8)/STEPS.
//! The totals of a slab are below 2³¹ with the STEPS of [`steps_of`].
//!
//! 256 products are 8 `vpmaddubsw`, 8 `vpaddw`, 1 `vpmaddwd` and 1 `vpaddd`: 18 instructions (20 for groups of 16), 9 of them products, where a
//! float sum per block has 19 to 24, 11 to 16 of them products or multiply-adds. The departure from the specification: activations share
//! a scale per 256 columns instead of 32. 12 16-bit sums, 2 weights, a broadcast and a product are all 16 registers;
//! the totals stay in the first cache.

use std::arch::x86_64::*;

use super::super::slab::scale_of;
use crate::cpu::matmul::{PANEL, SLAB, Tile, Unpack};

/// Tokens that the kernel takes at once.
pub(in super::super) const TOKENS: usize = 6;

/// Dwords of a token's part of packed activations, where tokens lie side by side:
/// ```text
/// [256/GROUP][t]  −z·Σx of the even and of the odd pairs of columns of a group, i16 each
/// [4][t]          8·Σx of two blocks of 32, i16 each
/// [64][t]         x: codes of four columns per dword, i8
/// [t]             the scale, f32
/// ```
pub(in super::super) const fn record_len(group: usize) -> usize {
    SLAB / group + SLAB / 64 + SLAB / 4 + 1
}

/// The largest scale in units of d, for totals below 2³¹: eight blocks are 32512·STEPS each for four bits, twice that for five, and
/// 32512·STEPS for the minimum; 16 groups of six bits are 65024·STEPS each.
const fn steps_of(bits: u32) -> f32 {
    if bits == 4 { 4000.0 } else { 2000.0 }
}

/// Turns the scales of the `blocks` blocks of 32 columns in a widened tile into integers: in `s` the scale of each group, twice in a dword, and
/// from 8 on, for formats with a minimum, the minima of two blocks. With `PAIRED`, which is for four bits on AVX-VNNI, each block's scale and
/// minimum in a dword. A scale or minimum that is no number makes its row's unit none.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) fn integer_scales<F: Unpack, const PAIRED: bool>(tile: &mut Tile, blocks: usize) {
    let groups = blocks * 32 / F::GROUP;
    let shift = _mm256_set1_ps(((1 << (F::BITS - 1)) - F::ZERO) as f32);
    let (zero, steps) = (_mm256_setzero_ps(), steps_of(F::BITS));
    let sign = _mm256_set1_ps(-0.0);
    for lane in (0..PANEL).step_by(8) {
        // SAFETY: eight floats or dwords of arrays of 32.
        unsafe {
            let (mut scales, mut minima) = ([zero; 16], [zero; 16]);
            let mut largest = _mm256_setzero_si256();
            // Bits of magnitudes order as the magnitudes do, and a NaN comes above all.
            let larger = |m, v| _mm256_max_epi32(m, _mm256_castps_si256(_mm256_andnot_ps(sign, v)));
            for group in 0..groups {
                scales[group] = _mm256_load_ps(tile.a[group].as_ptr().add(lane));
                largest = larger(largest, scales[group]);
                if F::MIN {
                    let c = _mm256_load_ps(tile.c[group].as_ptr().add(lane));
                    let c = _mm256_fmadd_ps(scales[group], shift, c);
                    minima[group] = _mm256_mul_ps(c, _mm256_set1_ps(0.125));
                    largest = larger(largest, minima[group]);
                }
            }
            let largest = _mm256_castsi256_ps(largest);
            let inverse = _mm256_div_ps(_mm256_set1_ps(steps), largest);
            let inverse = _mm256_and_ps(inverse, _mm256_cmp_ps::<_CMP_NEQ_UQ>(largest, zero));
            let d = _mm256_mul_ps(largest, _mm256_set1_ps(1.0 / steps));
            _mm256_store_ps(tile.d.as_mut_ptr().add(lane), d);
            let rounded = |v: __m256| _mm256_cvtps_epi32(_mm256_mul_ps(v, inverse));
            let both = |low: __m256i, high: __m256i| {
                _mm256_blend_epi16::<0b1010_1010>(low, _mm256_slli_epi32::<16>(high))
            };
            for group in 0..groups {
                let scale = rounded(scales[group]);
                let other = if PAIRED { rounded(minima[group]) } else { scale };
                _mm256_store_si256(tile.s[group].as_mut_ptr().add(lane).cast(), both(scale, other));
            }
            if F::MIN && !PAIRED {
                for (pair, minima) in minima[..8].as_chunks::<2>().0.iter().enumerate() {
                    let minima = both(rounded(minima[0]), rounded(minima[1]));
                    _mm256_store_si256(tile.s[8 + pair].as_mut_ptr().add(lane).cast(), minima);
                }
            }
        }
    }
}

/// Packs the columns of a slab for a group of tokens; see [`record_len`]. `x` starts at the first token's first column of the slab, `k` is
/// the distance of tokens, `cols` the columns of this slab, a multiple of 32. With `PAIRED` the starts of blocks are −8·Σx and 8·Σx.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) fn pack<F: Unpack, const PAIRED: bool>(
    x: &[f32],
    k: usize,
    cols: usize,
    tokens: usize,
    record: &mut [i32],
) {
    let (starts, rest) = record.split_at_mut(SLAB / F::GROUP * tokens);
    let (sums, rest) = rest.split_at_mut(SLAB / 64 * tokens);
    let (codes, scales) = rest.split_at_mut(SLAB / 4 * tokens);
    for token in 0..tokens {
        let x = x[token * k..][..cols].as_chunks::<32>().0;
        let (d, inverse) = scale_of(largest(x));
        scales[token] = d.to_bits() as i32;
        let mut blocks = [0i16; SLAB / 32];
        for (block, x) in x.iter().enumerate() {
            let q = codes_of(x, inverse);
            let mut dwords = [0; 8];
            // SAFETY: eight dwords.
            unsafe { _mm256_storeu_si256(dwords.as_mut_ptr().cast(), q) };
            for (code, q) in codes[block * 8 * tokens + token..].iter_mut().step_by(tokens).zip(dwords) {
                *code = q;
            }
            let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), q);
            let halves =
                [sum_dwords(_mm256_castsi256_si128(pairs)), sum_dwords(_mm256_extracti128_si256::<1>(pairs))];
            let start = |[even, odd]: [i16; 2]| {
                // Codes of what is no number may be −128, so that this wraps; the scale says so then.
                let minus = -(1i16 << (F::BITS - 1));
                dword(even.wrapping_mul(minus), odd.wrapping_mul(minus))
            };
            let sum = [halves[0][0] + halves[1][0], halves[0][1] + halves[1][1]];
            let eight = (sum[0] + sum[1]).wrapping_mul(8);
            blocks[block] = eight;
            if PAIRED {
                // As two's complement: (8·Σx << 16) − 8·Σx.
                starts[block * tokens + token] = i32::from(eight).wrapping_mul(65535);
            } else if F::GROUP == 16 {
                starts[2 * block * tokens + token] = start(halves[0]);
                starts[(2 * block + 1) * tokens + token] = start(halves[1]);
            } else {
                starts[block * tokens + token] = start(sum);
            }
        }
        for (pair, [a, b]) in blocks.as_chunks::<2>().0.iter().enumerate() {
            sums[pair * tokens + token] = dword(*a, *b);
        }
    }
}

/// Two i16, the first in the low half.
fn dword(low: i16, high: i16) -> i32 {
    i32::from(low as u16) | i32::from(high) << 16
}

/// The largest magnitude. Bits of magnitudes order as the magnitudes do, and a NaN comes above all.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn largest(x: &[[f32; 32]]) -> f32 {
    let mut most = [_mm256_setzero_si256(); 4];
    for x in x {
        for (most, x) in most.iter_mut().zip(x.as_chunks::<8>().0) {
            // SAFETY: eight floats.
            let bits = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
            *most = _mm256_max_epi32(*most, _mm256_and_si256(bits, _mm256_set1_epi32(i32::MAX)));
        }
    }
    let most = _mm256_max_epi32(_mm256_max_epi32(most[0], most[1]), _mm256_max_epi32(most[2], most[3]));
    let mut bits = [0u32; 8];
    // SAFETY: eight dwords.
    unsafe { _mm256_storeu_si256(bits.as_mut_ptr().cast(), most) };
    f32::from_bits(bits.into_iter().fold(0, u32::max))
}

/// 32 codes, rounded to the nearest, ties to even.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn codes_of(x: &[f32; 32], inverse: f32) -> __m256i {
    let code = |i: usize| {
        // SAFETY: eight floats of 32.
        let x = unsafe { _mm256_loadu_ps(x.as_ptr().add(8 * i)) };
        _mm256_cvtps_epi32(_mm256_mul_ps(x, _mm256_set1_ps(inverse)))
    };
    let low = _mm256_packs_epi32(code(0), code(1));
    let high = _mm256_packs_epi32(code(2), code(3));
    // Packing goes by halves of registers: dwords 0, 2, 4, 6 of the columns, then 1, 3, 5, 7.
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order)
}

/// The sums of the low and of the high halves of four dwords.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum_dwords(v: __m128i) -> [i16; 2] {
    let v = _mm_add_epi16(v, _mm_shuffle_epi32::<0b01_00_11_10>(v));
    let v = _mm_cvtsi128_si32(_mm_add_epi16(v, _mm_shuffle_epi32::<0b10_11_00_01>(v)));
    [v as i16, (v >> 16) as i16]
}

/// `c[token][row]` += the sums of `blocks` blocks of 32 columns.
///
/// # Safety
/// `record` is valid for `tokens`·[`record_len`] reads, `c` for `tokens`·[`PANEL`] reads and writes.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) unsafe fn multiply<F: Unpack>(
    tokens: usize,
    tile: &Tile,
    record: *const i32,
    c: *mut f32,
    blocks: usize,
) {
    // SAFETY: as this function's.
    unsafe {
        match (F::GROUP, F::MIN) {
            (32, false) => of_tokens::<32, false>(tokens, tile, record, c, blocks),
            (32, true) => of_tokens::<32, true>(tokens, tile, record, c, blocks),
            (16, false) => of_tokens::<16, false>(tokens, tile, record, c, blocks),
            (group, min) => unreachable!("no kernel for groups of {group}, minimum {min}"),
        }
    }
}

/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn of_tokens<const GROUP: usize, const MIN: bool>(
    tokens: usize,
    tile: &Tile,
    record: *const i32,
    c: *mut f32,
    blocks: usize,
) {
    // SAFETY: as this function's.
    unsafe {
        match tokens {
            6 => kernel::<6, GROUP, MIN>(tile, record, c, blocks),
            5 => kernel::<5, GROUP, MIN>(tile, record, c, blocks),
            4 => kernel::<4, GROUP, MIN>(tile, record, c, blocks),
            3 => kernel::<3, GROUP, MIN>(tile, record, c, blocks),
            2 => kernel::<2, GROUP, MIN>(tile, record, c, blocks),
            1 => kernel::<1, GROUP, MIN>(tile, record, c, blocks),
            _ => unreachable!("{tokens} tokens in a group of {TOKENS}"),
        }
    }
}

/// # Safety
/// As [`multiply`], with `T` tokens.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn kernel<const T: usize, const GROUP: usize, const MIN: bool>(
    tile: &Tile,
    record: *const i32,
    c: *mut f32,
    blocks: usize,
) {
    // Hidden from the compiler, which would unroll the loop and run out of registers (0.20 instead of 0.34 TOP/s for five tokens).
    let steps = std::hint::black_box(GROUP / 4);
    // SAFETY: all offsets lie within the record's T·len dwords, the tile, and c's T·PANEL floats.
    unsafe {
        let (starts, sums) = (record, record.add(SLAB / GROUP * T));
        let codes = sums.add(SLAB / 64 * T);
        let (u, s) = (tile.u.as_ptr().cast::<i32>(), tile.s.as_ptr().cast::<i32>());
        for row in [0, 16] {
            let mut totals = [[_mm256_setzero_si256(); 2]; T];
            if MIN {
                for pair in 0..4 {
                    let m = s.add((8 + pair) * PANEL + row);
                    let (m0, m1) = (_mm256_load_si256(m.cast()), _mm256_load_si256(m.add(8).cast()));
                    for (i, total) in totals.iter_mut().enumerate() {
                        let x = _mm256_set1_epi32(*sums.add(pair * T + i));
                        total[0] = _mm256_add_epi32(total[0], _mm256_madd_epi16(x, m0));
                        total[1] = _mm256_add_epi32(total[1], _mm256_madd_epi16(x, m1));
                    }
                }
            }
            for group in 0..blocks * (32 / GROUP) {
                prefetch::<T, GROUP>(record, c, group, row);
                let mut acc = [[_mm256_setzero_si256(); 2]; T];
                for (i, acc) in acc.iter_mut().enumerate() {
                    *acc = [_mm256_set1_epi32(*starts.add(group * T + i)); 2];
                }
                for k4 in group * steps..(group + 1) * steps {
                    let w = u.add(k4 * PANEL + row);
                    let (w0, w1) = (_mm256_load_si256(w.cast()), _mm256_load_si256(w.add(8).cast()));
                    for (i, acc) in acc.iter_mut().enumerate() {
                        let x = _mm256_set1_epi32(*codes.add(k4 * T + i));
                        acc[0] = _mm256_add_epi16(acc[0], _mm256_maddubs_epi16(w0, x));
                        acc[1] = _mm256_add_epi16(acc[1], _mm256_maddubs_epi16(w1, x));
                    }
                }
                for half in 0..2 {
                    let s = _mm256_load_si256(s.add(group * PANEL + row + 8 * half).cast());
                    for i in 0..T {
                        totals[i][half] =
                            _mm256_add_epi32(totals[i][half], _mm256_madd_epi16(acc[i][half], s));
                    }
                }
            }
            finish::<T, GROUP>(tile, record, c, row, totals);
        }
    }
}

/// Adds the totals of 16 rows from `row` on, times both scales, to the sums.
///
/// # Safety
/// As [`multiply`], with `T` tokens.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn finish<const T: usize, const GROUP: usize>(
    tile: &Tile,
    record: *const i32,
    c: *mut f32,
    row: usize,
    totals: [[__m256i; 2]; T],
) {
    // SAFETY: the T scales at the record's end, eight of 32 sums of each token.
    unsafe {
        let scales = record.add((record_len(GROUP) - 1) * T).cast::<f32>();
        for half in 0..2 {
            let d = _mm256_load_ps(tile.d.as_ptr().add(row + 8 * half));
            for (i, total) in totals.iter().enumerate() {
                let to = c.add(i * PANEL + row + 8 * half);
                let d = _mm256_mul_ps(d, _mm256_broadcast_ss(&*scales.add(i)));
                let sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total[half]), d, _mm256_loadu_ps(to));
                _mm256_storeu_ps(to, sum);
            }
        }
    }
}

/// Fetches a part of the next record and of the next sums, which lie behind these, into the first cache.
#[inline(always)]
pub(super) fn prefetch<const T: usize, const GROUP: usize>(
    record: *const i32,
    c: *const f32,
    group: usize,
    row: usize,
) {
    let parts = 2 * SLAB / GROUP;
    let part = group + row / 16 * SLAB / GROUP;
    let fetch = |first: *const u8, bytes: usize| {
        for line in 0..bytes.div_ceil(parts * 64) {
            let at = first.wrapping_add(bytes + ((part * bytes / parts) & !63) + 64 * line);
            // SAFETY: SSE is part of x86-64, and a prefetch of any address is harmless.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
        }
    };
    fetch(record.cast(), T * record_len(GROUP) * 4);
    fetch(c.cast(), T * PANEL * 4);
}
