//! Widening of Q4_K, Q5_K and Q6_K for AVX2: blocks of 256 columns with scales of their own groups.

use std::arch::x86_64::*;

use super::{Rows, high_half, low_half, nibbles};
use crate::cpu::matmul::Tile;

/// The scales and minima of Q4_K and Q5_K: half d, half min, 12 bytes of eight 6-bit pairs.
///
/// # Safety
/// As [`super::eight`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn k_scales(tile: &mut Tile, rows: Rows) {
    // SAFETY: the first 16 bytes of the block.
    let [halves, u0, u1, u2] = unsafe { rows.dwords(0) };
    let (d, min) = (low_half(halves), high_half(halves));
    let minus = _mm256_sub_ps(_mm256_setzero_ps(), min);
    let and = |v: __m256i, mask: i32| _mm256_and_si256(v, _mm256_set1_epi32(mask));
    let high = |low: __m256i, bits: __m256i| {
        _mm256_or_si256(and(low, 0x0f0f_0f0f), and(_mm256_srli_epi32::<2>(bits), 0x3030_3030))
    };
    let scales = [and(u0, 0x3f3f_3f3f), high(u2, u0)];
    let minima = [and(u1, 0x3f3f_3f3f), high(_mm256_srli_epi32::<4>(u2), u1)];
    for (four, (mut scale, mut minimum)) in scales.into_iter().zip(minima).enumerate() {
        for j in 0..4 {
            let float = |v: __m256i| _mm256_cvtepi32_ps(and(v, 0xff));
            tile.put_scale8(4 * four + j, rows.lane, _mm256_mul_ps(d, float(scale)));
            tile.put_min8(4 * four + j, rows.lane, _mm256_mul_ps(minus, float(minimum)));
            (scale, minimum) = (_mm256_srli_epi32::<8>(scale), _mm256_srli_epi32::<8>(minimum));
        }
    }
}

/// # Safety
/// As [`super::eight`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn q4_k(tile: &mut Tile, rows: Rows) {
    // SAFETY: bytes 0..16, then 16..144, of a block of 144.
    unsafe {
        k_scales(tile, rows);
        for i in 0..8 {
            // Half a chunk of 64 columns: the low nibbles are its first 32 columns.
            let first = i / 2 * 16 + i % 2 * 4;
            for (j, v) in rows.dwords(16 + 16 * i).into_iter().enumerate() {
                let (low, high) = nibbles(v);
                tile.put8(first + j, rows.lane, low);
                tile.put8(first + 8 + j, rows.lane, high);
            }
        }
    }
}

/// # Safety
/// As [`super::eight`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn q5_k(tile: &mut Tile, rows: Rows) {
    let fifth = _mm256_set1_epi8(16);
    // SAFETY: bytes 0..16, 16..48 and 48..176 of a block of 176.
    unsafe {
        k_scales(tile, rows);
        for part in 0..2 {
            // Bit s of byte l is the fifth bit of column 32·s + l.
            let mut bits = rows.dwords(16 + 16 * part);
            for chunk in 0..4 {
                let v = rows.dwords(48 + 32 * chunk + 16 * part);
                let first = 16 * chunk + 4 * part;
                for j in 0..4 {
                    let (low, high) = nibbles(v[j]);
                    let low_bit = _mm256_and_si256(_mm256_slli_epi16::<4>(bits[j]), fifth);
                    let high_bit = _mm256_and_si256(_mm256_slli_epi16::<3>(bits[j]), fifth);
                    tile.put8(first + j, rows.lane, _mm256_or_si256(low, low_bit));
                    tile.put8(first + 8 + j, rows.lane, _mm256_or_si256(high, high_bit));
                    // What comes in from the neighbouring byte is never reached: it takes seven shifts at most.
                    bits[j] = _mm256_srli_epi16::<2>(bits[j]);
                }
            }
        }
    }
}

/// # Safety
/// As [`super::eight`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn q6_k(tile: &mut Tile, rows: Rows) {
    // SAFETY: ql 0..128, qh 128..192, scales 192..208, d 208..210 of a block of 210; d is read with the 14 bytes before it.
    unsafe {
        let d = high_half(rows.dwords(194)[3]);
        for (four, mut scales) in rows.dwords(192).into_iter().enumerate() {
            for j in 0..4 {
                let scale = _mm256_srai_epi32::<24>(_mm256_slli_epi32::<24>(scales));
                tile.put_scale8(4 * four + j, rows.lane, _mm256_mul_ps(d, _mm256_cvtepi32_ps(scale)));
                scales = _mm256_srli_epi32::<8>(scales);
            }
        }
        let two = _mm256_set1_epi8(0x30);
        for part in 0..4 {
            // Columns 128·(part/2) + 16·(part%2) + {0, 32, 64, 96}.., 16 each.
            let (half, quarter) = (part / 2, part % 2);
            let high = rows.dwords(128 + 32 * half + 16 * quarter);
            let a = rows.dwords(64 * half + 16 * quarter);
            let b = rows.dwords(64 * half + 32 + 16 * quarter);
            let first = 32 * half + 4 * quarter;
            for j in 0..4 {
                let ((a0, a1), (b0, b1)) = (nibbles(a[j]), nibbles(b[j]));
                let h = high[j];
                let or = |low: __m256i, bits: __m256i| _mm256_or_si256(low, _mm256_and_si256(bits, two));
                tile.put8(first + j, rows.lane, or(a0, _mm256_slli_epi16::<4>(h)));
                tile.put8(first + 8 + j, rows.lane, or(b0, _mm256_slli_epi16::<2>(h)));
                tile.put8(first + 16 + j, rows.lane, or(a1, h));
                tile.put8(first + 24 + j, rows.lane, or(b1, _mm256_srli_epi16::<2>(h)));
            }
        }
    }
}
