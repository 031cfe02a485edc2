//! The K formats with AVX2, where the token's activations share a scale over a slab: integers to the end of a block.
//!
//! A register is 32 columns. Two products of four to six bits fit 16 bits, `vpmaddwd` multiplies them by their group's scale and adds
//! neighbours; a block's total is below 2²⁹.

use std::arch::x86_64::*;

use crate::cpu::matmul::ActSlab;

/// Bytes that bring word i of eight to all words of a lane.
const WORD: [[i16; 16]; 8] = {
    let mut words = [[0; 16]; 8];
    let mut i = 0;
    while i < 8 * 16 {
        words[i / 16][i % 16] = (2 * (i / 16) + (2 * (i / 16) + 1) * 256) as i16;
        i += 1;
    }
    words
};

/// Adds up eight registers of codes times x; word i of both lanes of `scales` is the scale of the groups of register i.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn total(mut total: __m256i, scales: __m256i, x: &ActSlab, u: impl Fn(usize) -> __m256i) -> __m256i {
    let mut other = _mm256_setzero_si256();
    for (i, word) in WORD.iter().enumerate() {
        // SAFETY: 32 codes of eight times 32, 16 words.
        let (q, word) = unsafe {
            (_mm256_loadu_si256(x.q.as_ptr().add(32 * i).cast()), _mm256_loadu_si256(word.as_ptr().cast()))
        };
        let scale = _mm256_shuffle_epi8(scales, word);
        let product = _mm256_madd_epi16(_mm256_maddubs_epi16(u(i), q), scale);
        // Two sums, so that additions need not wait for each other.
        match i % 2 {
            0 => total = _mm256_add_epi32(total, product),
            _ => other = _mm256_add_epi32(other, product),
        }
    }
    _mm256_add_epi32(total, other)
}

/// Adds a block of Q4_K or Q5_K: half d, half min, eight 6-bit pairs of scales and minima; `u` gives 32 codes.
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
    let scales = _mm256_broadcastsi128_si256(_mm_cvtepu8_epi16(bytes));
    let minima = _mm_madd_epi16(_mm_unpackhi_epi8(bytes, _mm_setzero_si128()), sums32);
    let minima = _mm_mul_ps(_mm_cvtepi32_ps(minima), _mm_shuffle_ps::<0b01_01_01_01>(halves, halves));
    let total = _mm256_cvtepi32_ps(total(_mm256_setzero_si256(), scales, x, u));
    [
        _mm256_fmadd_ps(total, _mm256_broadcastss_ps(halves), a),
        _mm256_add_ps(b, _mm256_zextps128_ps256(minima)),
    ]
}

/// Adds a block of Q6_K, whose scales lie at 192..208 and half d at 208; `u` gives 32 codes.
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
    let total = _mm256_cvtepi32_ps(total(excess, scales, x, u));
    [_mm256_fmadd_ps(total, _mm256_broadcastss_ps(d), a), b]
}
