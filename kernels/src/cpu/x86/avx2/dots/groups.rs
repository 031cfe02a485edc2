//! The K formats with AVX2, where the token's activations share a scale over a slab: integers to the end of a block.
//!
//! `vpmaddwd` multiplies 16-bit sums by their group's scale and adds neighbours; a block's total is below 2²⁹. Of Q4_K and Q5_K a register
//! has 16 columns of a block and of another, so that those of two registers add up in 16 bits before (four products of five bits fit), and
//! scales are half as many.

use std::arch::x86_64::*;

use crate::cpu::matmul::ActSlab;

/// Indices of bytes that bring word i of eight to all words of a lane.
const WORD: [[i16; 16]; 8] = {
    let mut words = [[0; 16]; 8];
    let mut i = 0;
    while i < 8 * 16 {
        words[i / 16][i % 16] = (2 * (i / 16) + (2 * (i / 16) + 1) * 256) as i16;
        i += 1;
    }
    words
};

/// Word `word` of eight of each lane in all of its words.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn spread(scales: __m256i, word: usize) -> __m256i {
    // SAFETY: 16 words.
    _mm256_shuffle_epi8(scales, unsafe { _mm256_loadu_si256(WORD[word].as_ptr().cast()) })
}

/// Register i of a slab's codes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn codes(x: &ActSlab, i: usize) -> __m256i {
    // SAFETY: 32 of 256 codes.
    unsafe { _mm256_loadu_si256(x.q[32 * i..32 * i + 32].as_ptr().cast()) }
}

/// Four bits of Q4_K and Q5_K, 128 bytes at `p`: register i of eight. Of each 64 bytes, the low nibbles of the first 16 of both halves, then
/// of the others, and the high ones likewise: blocks 0 and 2, 0 and 2, 1 and 3, 1 and 3.
///
/// # Safety
/// They are readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn four_bits(p: *const u8, i: usize) -> __m256i {
    // SAFETY: as this function's.
    let v = unsafe {
        let p = p.add(64 * (i / 4) + 16 * (i % 2));
        _mm256_loadu2_m128i(p.add(32).cast(), p.cast())
    };
    super::nibbles(v, i % 4 / 2)
}

/// The same of Q5_K: 32 bytes of fifth bits at `p`, bit b of each for block b, then the nibbles.
///
/// # Safety
/// 160 bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn five_bits(p: *const u8, i: usize) -> __m256i {
    // SAFETY: as this function's.
    let (low, bits) = unsafe {
        let bits = _mm_loadu_si128(p.add(16 * (i % 2)).cast());
        (four_bits(p.add(32), i), _mm256_broadcastsi128_si256(bits))
    };
    // To bit 4; what comes in from a neighbouring byte does not reach it.
    let counts = |low: i32, high: i32| _mm256_setr_epi32(low, low, low, low, high, high, high, high);
    let bits = match i / 2 {
        0 => _mm256_sllv_epi32(bits, counts(4, 2)),
        1 => _mm256_sllv_epi32(bits, counts(3, 1)),
        2 => _mm256_srlv_epi32(bits, counts(0, 2)),
        _ => _mm256_srlv_epi32(bits, counts(1, 3)),
    };
    _mm256_or_si256(low, _mm256_and_si256(bits, _mm256_set1_epi8(16)))
}

/// Adds a block of Q4_K or Q5_K: half d, half min, eight 6-bit pairs of scales and minima; `u` gives the registers of [`four_bits`].
///
/// # Safety
/// 16 bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn k_block(
    p: *const u8,
    x: &ActSlab,
    [a, b]: [__m256; 2],
    u: impl Fn(usize) -> __m256i,
) -> [__m256; 2] {
    // SAFETY: as this function's; eight sums; a float.
    let (head, sums32, scale) = unsafe {
        (_mm_loadu_si128(p.cast()), _mm_loadu_si128(x.sums32.as_ptr().cast()), _mm_broadcast_ss(&x.d[0]))
    };
    // d and min.
    let halves = _mm_mul_ps(_mm_cvtph_ps(head), scale);
    // u0, u2, u1, u2 >> 4: what the low bits are of; and u0 and u1 again, for the high two bits of the last four.
    let low = _mm_srlv_epi32(_mm_shuffle_epi32::<0b11_10_11_01>(head), _mm_set_epi32(4, 0, 0, 0));
    let low = _mm_and_si128(low, _mm_set_epi32(0x0f0f_0f0f, 0x3f3f_3f3f, 0x0f0f_0f0f, 0x3f3f_3f3f));
    let high = _mm_srli_epi32::<2>(_mm_shuffle_epi32::<0b10_10_01_01>(head));
    let high = _mm_and_si128(high, _mm_set_epi32(0x3030_3030, 0, 0x3030_3030, 0));
    let bytes = _mm_or_si128(low, high);
    // The second lane's blocks are two further.
    let scales = _mm_cvtepu8_epi16(bytes);
    let scales = _mm256_set_m128i(_mm_srli_si128::<4>(scales), scales);
    let minima = _mm_madd_epi16(_mm_unpackhi_epi8(bytes, _mm_setzero_si128()), sums32);
    let minima = _mm_mul_ps(_mm_cvtepi32_ps(minima), _mm_shuffle_ps::<0b01_01_01_01>(halves, halves));
    let mut totals = [_mm256_setzero_si256(); 2];
    for i in 0..4 {
        let two = |i: usize| _mm256_maddubs_epi16(u(i), codes(x, i));
        let four = _mm256_add_epi16(two(2 * i), two(2 * i + 1));
        let product = _mm256_madd_epi16(four, spread(scales, i / 2 * 4 + i % 2));
        totals[i % 2] = _mm256_add_epi32(totals[i % 2], product);
    }
    let total = _mm256_cvtepi32_ps(_mm256_add_epi32(totals[0], totals[1]));
    [
        _mm256_fmadd_ps(total, _mm256_broadcastss_ps(halves), a),
        _mm256_add_ps(b, _mm256_zextps128_ps256(minima)),
    ]
}

/// Adds a block of Q6_K, whose scales lie at 192..208 and half d at 208; `u` gives 32 columns' codes, two groups.
///
/// # Safety
/// The block is readable at `p`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn q6_k(
    p: *const u8,
    x: &ActSlab,
    [a, b]: [__m256; 2],
    u: impl Fn(usize) -> __m256i,
) -> [__m256; 2] {
    // SAFETY: as this function's; 16 sums.
    let (bytes, d, sums16) = unsafe {
        (
            _mm_loadu_si128(p.add(192).cast()),
            p.add(208).cast::<u16>().read_unaligned(),
            _mm256_loadu_si256(x.sums16.as_ptr().cast()),
        )
    };
    let d = _mm_mul_ss(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(d))), _mm_set_ss(x.d[0]));
    // What the codes are too large by: 32·Σq of each group.
    let excess = _mm256_madd_epi16(_mm256_slli_epi16::<5>(_mm256_cvtepi8_epi16(bytes)), sums16);
    // A register has two groups: the first ones' scales to the first lane.
    let order = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    let scales = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(bytes, order));
    let mut totals = [excess, _mm256_setzero_si256()];
    for i in 0..8 {
        let product = _mm256_madd_epi16(_mm256_maddubs_epi16(u(i), codes(x, i)), spread(scales, i));
        totals[i % 2] = _mm256_add_epi32(totals[i % 2], product);
    }
    let total = _mm256_cvtepi32_ps(_mm256_add_epi32(totals[0], totals[1]));
    [_mm256_fmadd_ps(total, _mm256_broadcastss_ps(d), a), b]
}
