//! The int8 product of AVX2: a panel of 32 weight rows times up to two tokens, and the dot of one token.
//!
//! `vpmaddubsw` multiplies unsigned by signed bytes and adds pairs in 16 bits. Narrow weights leave room there: products
//! of 4-bit weights are summed over 32 columns before they are widened to 32 bits, those of 5 bits over 16, of 6 bits over 8. Bytes
//! of 8 bits would overflow, so they are taken as signed: |w| times x with the sign of w.

#![allow(clippy::needless_range_loop, reason = "an index runs over several arrays side by side")]

use std::arch::x86_64::*;

use crate::cpu::matmul::{ActSlab, PANEL, Record, SLAB, Scales, Tile, Unpack, Weights, widen as by_rows};

/// Tokens that the kernel takes at once: eight registers of 16-bit sums, of 16.
pub(super) const TOKENS: usize = 2;

/// Widens slab `slab` of the rows from `first` on.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn widen<F: Unpack>(tile: &mut Tile, w: Weights<'_>, first: usize, slab: usize) {
    by_rows::<F>(tile, w, first, slab);
}

/// Steps of four columns whose products fit 16 bits: 2·(2^BITS − 1)·127·steps < 2^15.
const fn steps16(bits: u32) -> usize {
    match bits {
        4 => 8,
        5 => 4,
        6 => 2,
        _ => 1,
    }
}

/// `c[token][row]` += the sums of `blocks` blocks of 32 columns.
///
/// # Safety
/// `record` is valid for `tokens`·[`Record::len`] reads, `c` for `tokens`·[`PANEL`] reads and writes.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn multiply<F: Unpack>(
    tokens: usize,
    tile: &Tile,
    record: *const i32,
    c: *mut f32,
    blocks: usize,
) {
    // SAFETY: as this function's.
    unsafe {
        match (F::GROUP, F::MIN, F::BITS) {
            (32, false, 4) => of_tokens::<32, false, 4>(tokens, tile, record, c, blocks),
            (32, false, 5) => of_tokens::<32, false, 5>(tokens, tile, record, c, blocks),
            (32, false, 8) => of_tokens::<32, false, 8>(tokens, tile, record, c, blocks),
            (32, true, 4) => of_tokens::<32, true, 4>(tokens, tile, record, c, blocks),
            (32, true, 5) => of_tokens::<32, true, 5>(tokens, tile, record, c, blocks),
            (16, false, 6) => of_tokens::<16, false, 6>(tokens, tile, record, c, blocks),
            (group, min, bits) => unreachable!("no kernel for groups of {group}, minimum {min}, {bits} bits"),
        }
    }
}

/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn of_tokens<const GROUP: usize, const MIN: bool, const BITS: u32>(
    tokens: usize,
    tile: &Tile,
    record: *const i32,
    c: *mut f32,
    blocks: usize,
) {
    // SAFETY: as this function's.
    unsafe {
        match tokens {
            2 => kernel::<2, GROUP, MIN, BITS>(tile, record, c, blocks),
            1 => kernel::<1, GROUP, MIN, BITS>(tile, record, c, blocks),
            _ => unreachable!("{tokens} tokens in a group of {TOKENS}"),
        }
    }
}

/// Weights times x in 16-bit pairs: unsigned weights, or for 8 bits weights plus 128.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn pairs<const BITS: u32>(w: __m256i, x: __m256i) -> __m256i {
    if BITS == 8 {
        let w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
        _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
    } else {
        _mm256_maddubs_epi16(w, x)
    }
}

/// # Safety
/// As [`multiply`], with `T` tokens.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn kernel<const T: usize, const GROUP: usize, const MIN: bool, const BITS: u32>(
    tile: &Tile,
    record: *const i32,
    c: *mut f32,
    blocks: usize,
) {
    let (steps, run) = (GROUP / 4, steps16(BITS));
    let ones = _mm256_set1_epi16(1);
    let off = record;
    // SAFETY: all offsets lie within the record's T·len dwords, the tile, and c's T·PANEL floats.
    unsafe {
        let scales = record.add(Record::off(GROUP) * T);
        let codes = scales.add(8 * T);
        let u = tile.u.as_ptr().cast::<i32>();
        for group in 0..blocks * (32 / GROUP) {
            let block = group * GROUP / 32;
            let mut acc = [[_mm256_setzero_si256(); 4]; T];
            for first in (0..steps).step_by(run) {
                let mut acc16 = [[_mm256_setzero_si256(); 4]; T];
                for step in 0..run {
                    let k4 = group * steps + first + step;
                    let mut x = [_mm256_setzero_si256(); T];
                    for (i, x) in x.iter_mut().enumerate() {
                        *x = _mm256_set1_epi32(*codes.add(k4 * T + i));
                    }
                    for q in 0..4 {
                        let w = _mm256_load_si256(u.add(k4 * PANEL + 8 * q).cast());
                        for i in 0..T {
                            acc16[i][q] = _mm256_add_epi16(acc16[i][q], pairs::<BITS>(w, x[i]));
                        }
                    }
                }
                for i in 0..T {
                    for q in 0..4 {
                        acc[i][q] = _mm256_add_epi32(acc[i][q], _mm256_madd_epi16(acc16[i][q], ones));
                    }
                }
            }
            for i in 0..T {
                let d = _mm256_set1_ps(f32::from_bits(*scales.add(block * T + i) as u32));
                let off = *off.add(group * T + i);
                for q in 0..4 {
                    let c = c.add(i * PANEL + 8 * q);
                    let a = _mm256_load_ps(tile.a[group].as_ptr().add(8 * q));
                    let signed = MIN || BITS == 8;
                    let sum =
                        if signed { acc[i][q] } else { _mm256_add_epi32(acc[i][q], _mm256_set1_epi32(off)) };
                    let mut out =
                        _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_mul_ps(a, d), _mm256_loadu_ps(c));
                    if MIN {
                        let min = _mm256_load_ps(tile.c[block].as_ptr().add(8 * q));
                        out = _mm256_fmadd_ps(min, _mm256_set1_ps(f32::from_bits(off as u32)), out);
                    }
                    _mm256_storeu_ps(c, out);
                }
            }
        }
    }
}

/// `out[i]` = row `first` + i times x.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dots<F: Unpack>(w: Weights<'_>, first: usize, x: &[ActSlab], out: &mut [f32]) {
    let bytes = SLAB / F::DTYPE.block_len() * F::DTYPE.block_bytes();
    for (i, out) in out.iter_mut().enumerate() {
        let mut sum = _mm256_setzero_ps();
        for (slab, x) in x.iter().enumerate() {
            let part = w.part(first + i, slab * bytes, bytes);
            super::gemv::prefetch(part.as_ptr(), part.len());
            let (mut u, mut s) = ([0; SLAB], Scales::default());
            F::unpack(part, &mut u, &mut s);
            sum = add::<F>(&u, &s, x, sum);
        }
        *out = reduce(sum);
    }
}

/// Adds the products of a slab to eight sums.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add<F: Unpack>(u: &[u8; SLAB], s: &Scales, x: &ActSlab, mut sum: __m256) -> __m256 {
    let ones = _mm256_set1_epi16(1);
    for block in 0..8 {
        // SAFETY: 32 bytes, and eight offsets, of block `block` of eight.
        unsafe {
            let w = _mm256_loadu_si256(u.as_ptr().add(32 * block).cast());
            let q = _mm256_loadu_si256(x.q.as_ptr().add(32 * block).cast());
            let pairs = if F::BITS == 8 { pairs::<8>(w, q) } else { pairs::<4>(w, q) };
            let mut product = _mm256_madd_epi16(pairs, ones);
            if !F::MIN && F::BITS != 8 {
                product = _mm256_add_epi32(product, _mm256_loadu_si256(x.off.as_ptr().add(8 * block).cast()));
            }
            let a = if F::GROUP == 16 {
                _mm256_set_m128(_mm_set1_ps(s.a[2 * block + 1]), _mm_set1_ps(s.a[2 * block]))
            } else {
                _mm256_set1_ps(s.a[block])
            };
            let scale = _mm256_mul_ps(a, _mm256_set1_ps(x.d[block]));
            sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(product), scale, sum);
        }
    }
    if F::MIN {
        // SAFETY: arrays of eight.
        unsafe {
            sum = _mm256_fmadd_ps(_mm256_loadu_ps(s.c.as_ptr()), _mm256_loadu_ps(x.sum.as_ptr()), sum);
        }
    }
    sum
}

/// The sum of eight lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn reduce(v: __m256) -> f32 {
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps::<1>(v, v)))
}
