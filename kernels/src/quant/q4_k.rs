//! Q4_K: 4 bits in super-blocks of 256; 8 sub-blocks of 32, each with a scale and a minimum of 6 bits.
//!
//! ```text
//! BlockQ4_K, 144 bytes, 4.5 bits per weight:  d f16 | dmin f16 | scales u8 × 12 | qs u8 × 128
//!   w[32j + i] = d·sⱼ·code − dmin·mⱼ
//!   scales, byte by byte, of sub-blocks 0–7 (s: abcdefgh, m: ABCDEFGH; bits from high to low):
//!      0–3   eeaaaaaa ffbbbbbb ggcccccc hhdddddd      top 2 bits of s₄..₇, s₀..₃
//!      4–7   EEAAAAAA FFBBBBBB GGCCCCCC HHDDDDDD      the same of m
//!      8–11  EEEEeeee FFFFffff GGGGgggg HHHHhhhh      low 4 bits of m₄..₇ and s₄..₇
//!   qs[32c + i] = code of element 64c + i | code of element 64c + 32 + i << 4       (c = 0..4, i = 0..32)
//! ```

use super::{ActBlock, Block, F16, act::isum, array, fit::affine};
use crate::DType;

/// 256 weights. See the module's drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Zeroable, bytemuck::Pod)]
#[allow(non_camel_case_types, reason = "ggml's name")]
#[repr(C)]
pub struct BlockQ4_K {
    /// Scale of the scales.
    pub d: F16,
    /// Scale of the minima.
    pub dmin: F16,
    /// Scales and minima of the sub-blocks, 6 bits each.
    pub scales: [u8; 12],
    /// Codes, two in a byte.
    pub qs: [u8; 128],
}

const _: () = assert!(size_of::<BlockQ4_K>() == DType::Q4_K.block_bytes());

impl BlockQ4_K {
    /// Scales and minima of the 8 sub-blocks, 0..=63.
    pub fn scales_mins(&self) -> ([u8; 8], [u8; 8]) {
        unpack_scales(&self.scales)
    }

    /// The codes, 0..=15.
    pub fn codes(&self) -> [u8; 256] {
        low_nibbles(&self.qs)
    }
}

impl Block for BlockQ4_K {
    const DTYPE: DType = DType::Q4_K;

    #[inline(always)]
    fn quantize(x: &[f32], weights: Option<&[f32]>, out: &mut [Self]) {
        for (i, (x, out)) in x.chunks_exact(256).zip(out).enumerate() {
            let b = affine::super_block::<15>(array(x), weights.map(|w| &w[256 * i..256 * (i + 1)]));
            let scales = pack_scales(&b.scales, &b.mins);
            *out = Self { d: b.d, dmin: b.dmin, scales, qs: pack_low_nibbles(&b.q) };
        }
    }

    fn dequantize(&self, out: &mut [f32]) {
        dequantize(self.d, self.dmin, self.scales_mins(), &self.codes(), out);
    }

    fn dot(&self, act: &[ActBlock]) -> f32 {
        dot(self.d, self.dmin, self.scales_mins(), &self.codes(), act)
    }
}

/// w[32j + i] = d·sⱼ·q − dmin·mⱼ, for Q4_K and Q5_K.
pub(super) fn dequantize(d: F16, dmin: F16, (s, m): ([u8; 8], [u8; 8]), q: &[u8; 256], out: &mut [f32]) {
    for (j, (out, q)) in out.chunks_exact_mut(32).zip(q.chunks_exact(32)).enumerate() {
        let a = d.get() * f32::from(s[j]);
        let b = dmin.get() * f32::from(m[j]);
        for (out, &q) in out.iter_mut().zip(q) {
            *out = a * f32::from(q) - b;
        }
    }
}

/// Σⱼ dⱼ·(d·sⱼ·Σ q·x − dmin·mⱼ·Σ x) with dⱼ, x and Σ x of the activation blocks, for Q4_K and Q5_K.
pub(super) fn dot(d: F16, dmin: F16, (s, m): ([u8; 8], [u8; 8]), q: &[u8; 256], act: &[ActBlock]) -> f32 {
    let mut sum = 0.0;
    for (j, (a, q)) in act.iter().zip(q.chunks_exact(32)).enumerate() {
        let products = isum(q.iter().map(|&q| i32::from(q)), &a.q);
        let scaled = d.get() * f32::from(s[j]) * products;
        sum += a.d * (scaled - dmin.get() * f32::from(m[j]) * a.sum as f32);
    }
    sum
}

/// Scales and minima of 8 sub-blocks from their 12 bytes, for Q4_K and Q5_K.
pub(super) fn unpack_scales(p: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut s, mut m) = ([0; 8], [0; 8]);
    for j in 0..4 {
        s[j] = p[j] & 63;
        m[j] = p[j + 4] & 63;
        s[j + 4] = (p[j + 8] & 15) | (p[j] >> 6) << 4;
        m[j + 4] = (p[j + 8] >> 4) | (p[j + 4] >> 6) << 4;
    }
    (s, m)
}

/// What [`unpack_scales`] unpacks.
#[inline(always)]
pub(super) fn pack_scales(s: &[u8; 8], m: &[u8; 8]) -> [u8; 12] {
    let mut p = [0; 12];
    for j in 0..4 {
        p[j] = s[j] | (s[j + 4] >> 4) << 6;
        p[j + 4] = m[j] | (m[j + 4] >> 4) << 6;
        p[j + 8] = (s[j + 4] & 15) | (m[j + 4] & 15) << 4;
    }
    p
}

/// The low 4 bits of 256 codes from 128 bytes: 64 codes to 32 bytes, the second 32 in the high bits. For Q4_K and Q5_K.
pub(super) fn low_nibbles(qs: &[u8; 128]) -> [u8; 256] {
    std::array::from_fn(|e| {
        let (c, half, i) = (e / 64, e / 32 % 2, e % 32);
        qs[32 * c + i] >> (4 * half) & 15
    })
}

/// What [`low_nibbles`] unpacks.
#[inline(always)]
pub(super) fn pack_low_nibbles(q: &[u8; 256]) -> [u8; 128] {
    std::array::from_fn(|b| {
        let (c, i) = (b / 32, b % 32);
        (q[64 * c + i] & 15) | q[64 * c + 32 + i] << 4
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_undoes_unpacking() {
        // Any 12 and any 128 bytes are valid.
        let scales = std::array::from_fn(|i| (i * 89 + 7) as u8);
        let (s, m) = unpack_scales(&scales);
        assert_eq!(pack_scales(&s, &m), scales);
        let codes = std::array::from_fn(|i| (i * 73 + 5) as u8);
        assert_eq!(pack_low_nibbles(&low_nibbles(&codes)), codes);
    }
}
