//! Formats with blocks of 32 columns, and IQ4_XS, as a dot of AVX2: two blocks in a register, a lane each.
//!
//! 16 bytes are a block's nibbles. Products of the low ones and of the high ones are added before they become floats, in 16 bits where
//! codes have five at most. What codes are too large by is a minimum.

use std::arch::x86_64::*;

use super::{load, nibbles};
use crate::{
    DType,
    cpu::matmul::{ActSlab, IQ4, Unpack},
};

/// Adds a whole slab of a row times x.
///
/// # Safety
/// The slab's bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn slab<F: Unpack>(p: *const u8, x: &ActSlab, sums: [__m256; 2]) -> [__m256; 2] {
    // SAFETY: as this function's; offsets are those of the formats.
    unsafe {
        match F::DTYPE {
            DType::Q4_0 => {
                let a = halves::<18>(p, 0);
                add::<F>(a, a, x, sums, |i| both(two(p.add(36 * i + 2), 18)))
            }
            DType::Q4_1 => {
                let (a, c) = (halves::<20>(p, 0), halves::<20>(p, 2));
                add::<F>(a, c, x, sums, |i| both(two(p.add(40 * i + 4), 20)))
            }
            DType::Q5_0 => {
                let a = halves::<22>(p, 0);
                add::<F>(a, a, x, sums, |i| five_bits::<22>(p.add(44 * i + 2)))
            }
            DType::Q5_1 => {
                let (a, c) = (halves::<24>(p, 0), halves::<24>(p, 2));
                add::<F>(a, c, x, sums, |i| five_bits::<24>(p.add(48 * i + 4)))
            }
            DType::IQ4_NL => {
                let a = halves::<18>(p, 0);
                add::<F>(a, a, x, sums, |i| both(two(p.add(36 * i + 2), 18)).map(|u| iq4(u)))
            }
            DType::IQ4_XS => {
                let a = iq4_xs(p);
                add::<F>(a, a, x, sums, |i| both(load(p.add(8 + 32 * i))).map(|u| iq4(u)))
            }
            other => unreachable!("{other} has no blocks of 32"),
        }
    }
}

/// Adds eight blocks: `a` are their scales, `c` what Σq is multiplied by; `u` gives two blocks' low and high codes: unsigned, but those of 8
/// bits signed.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn add<F: Unpack>(
    a: __m256,
    c: __m256,
    x: &ActSlab,
    mut sums: [__m256; 2],
    u: impl Fn(usize) -> [__m256i; 2],
) -> [__m256; 2] {
    let ones = _mm256_set1_epi16(1);
    // SAFETY: eight floats, and two registers of each of four pairs of blocks.
    unsafe {
        let a = _mm256_mul_ps(a, _mm256_loadu_ps(x.d.as_ptr()));
        for i in 0..4 {
            let q = |part: usize| _mm256_loadu_si256(x.q.as_ptr().add(64 * i + 32 * part).cast());
            let [low, high] = u(i);
            let product = match F::BITS {
                8 => {
                    let four = |w, q| {
                        let two = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w));
                        _mm256_madd_epi16(two, ones)
                    };
                    _mm256_add_epi32(four(low, q(0)), four(high, q(1)))
                }
                _ => {
                    let (low, high) = (_mm256_maddubs_epi16(low, q(0)), _mm256_maddubs_epi16(high, q(1)));
                    _mm256_madd_epi16(_mm256_add_epi16(low, high), ones)
                }
            };
            let blocks = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
            let scale =
                _mm256_permutevar8x32_ps(a, _mm256_add_epi32(blocks, _mm256_set1_epi32(2 * i as i32)));
            sums[i % 2] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(product), scale, sums[i % 2]);
        }
        if F::BITS < 8 {
            sums[0] = _mm256_fmadd_ps(c, _mm256_loadu_ps(x.sum.as_ptr()), sums[0]);
        }
    }
    sums
}

/// 16 bytes at `p` and 16 at `p` + `next`.
///
/// # Safety
/// They are readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn two(p: *const u8, next: usize) -> __m256i {
    // SAFETY: as this function's.
    unsafe { _mm256_loadu2_m128i(p.add(next).cast(), p.cast()) }
}

/// The low and the high nibbles.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn both(v: __m256i) -> [__m256i; 2] {
    [nibbles(v, 0), nibbles(v, 1)]
}

/// Of two blocks of `BYTES`: 32 fifth bits, then 16 bytes of nibbles.
///
/// # Safety
/// They are readable at `p` and `BYTES` further.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn five_bits<const BYTES: usize>(p: *const u8) -> [__m256i; 2] {
    // SAFETY: as this function's.
    let (v, bits) = unsafe {
        let bits = |p: *const u8| _mm_set1_epi32(p.cast::<i32>().read_unaligned());
        (both(two(p.add(4), BYTES)), _mm256_set_m128i(bits(p.add(BYTES)), bits(p)))
    };
    let own = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
    [0, 1].map(|i| {
        // Two bytes to eight columns each, which test their own bit.
        let byte = |at: i64| 0x0101_0101_0101_0101 * (2 * i as i64 + at);
        let spread = _mm256_shuffle_epi8(bits, _mm256_setr_epi64x(byte(0), byte(1), byte(0), byte(1)));
        let set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, own), own);
        _mm256_or_si256(v[i], _mm256_and_si256(set, _mm256_set1_epi8(16)))
    })
}

/// Codes of 0..16 as values of the IQ4 formats.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn iq4(codes: __m256i) -> __m256i {
    // SAFETY: 16 bytes.
    let values = unsafe { _mm_loadu_si128(IQ4.as_ptr().cast()) };
    let signed = _mm_xor_si128(values, _mm_set1_epi8(-128));
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(signed), codes)
}

/// The halves at `at` bytes of eight blocks. They are put together by whole numbers, whose units idle here.
///
/// # Safety
/// Eight blocks of `BYTES` are readable at `p`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn halves<const BYTES: usize>(p: *const u8, at: usize) -> __m256 {
    // SAFETY: two bytes of eight blocks.
    let half = |i: usize| u64::from(unsafe { p.add(i * BYTES + at).cast::<u16>().read_unaligned() });
    let four = |i: usize| half(i) | half(i + 1) << 16 | half(i + 2) << 32 | half(i + 3) << 48;
    _mm256_cvtph_ps(_mm_set_epi64x(four(4) as i64, four(0) as i64))
}

/// The eight scales of a block.
///
/// # Safety
/// A block of IQ4_XS is readable at `p`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn iq4_xs(p: *const u8) -> __m256 {
    let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    // SAFETY: half d, 16 high bits and 32 low bits of scales.
    let (head, low) = unsafe { (p.cast::<u32>().read_unaligned(), p.add(4).cast::<i32>().read_unaligned()) };
    let low = _mm256_srlv_epi32(_mm256_set1_epi32(low), _mm256_slli_epi32::<2>(lanes));
    let high = _mm256_srlv_epi32(_mm256_set1_epi32((head >> 16) as i32), _mm256_slli_epi32::<1>(lanes));
    let high = _mm256_slli_epi32::<4>(_mm256_and_si256(high, _mm256_set1_epi32(3)));
    let scale = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi32(15)), high);
    let scale = _mm256_cvtepi32_ps(_mm256_sub_epi32(scale, _mm256_set1_epi32(32)));
    let d = _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(head as i32)));
    _mm256_mul_ps(d, scale)
}
