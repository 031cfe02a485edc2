//! Q5_K: 5 bits in super-blocks of 256; 8 sub-blocks of 32, each with a scale and a minimum of 6 bits.
//!
//! ```text
//! BlockQ5_K, 176 bytes, 5.5 bits per weight:  d f16 | dmin f16 | scales u8 × 12 | qh u8 × 32 | qs u8 × 128
//!   w[32j + i] = d·sⱼ·code − dmin·mⱼ
//!   scales, qs: as in Q4_K (qs holds the low 4 bits)
//!   bit j of qh[i] = bit 4 of the code of element 32j + i
//! ```

use super::q4_k::{dequantize, dot, low_nibbles, pack_low_nibbles, pack_scales, unpack_scales};
use super::{ActBlock, Block, F16, array, fit::affine};
use crate::DType;

/// 256 weights. See the module's drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Zeroable, bytemuck::Pod)]
#[allow(non_camel_case_types, reason = "ggml's name")]
#[repr(C)]
pub struct BlockQ5_K {
    /// Scale of the scales.
    pub d: F16,
    /// Scale of the minima.
    pub dmin: F16,
    /// Scales and minima of the sub-blocks, 6 bits each.
    pub scales: [u8; 12],
    /// Fifth bits, eight in a byte.
    pub qh: [u8; 32],
    /// Low 4 bits, two codes in a byte.
    pub qs: [u8; 128],
}

const _: () = assert!(size_of::<BlockQ5_K>() == DType::Q5_K.block_bytes());

impl BlockQ5_K {
    /// Scales and minima of the 8 sub-blocks, 0..=63.
    pub fn scales_mins(&self) -> ([u8; 8], [u8; 8]) {
        unpack_scales(&self.scales)
    }

    /// The codes, 0..=31.
    pub fn codes(&self) -> [u8; 256] {
        let low = low_nibbles(&self.qs);
        std::array::from_fn(|e| low[e] | (self.qh[e % 32] >> (e / 32) & 1) << 4)
    }
}

impl Block for BlockQ5_K {
    const DTYPE: DType = DType::Q5_K;

    #[inline(always)]
    fn quantize(x: &[f32], weights: Option<&[f32]>, out: &mut [Self]) {
        for (i, (x, out)) in x.chunks_exact(256).zip(out).enumerate() {
            let b = affine::super_block::<31>(array(x), weights.map(|w| &w[256 * i..256 * (i + 1)]));
            *out = Self {
                d: b.d,
                dmin: b.dmin,
                scales: pack_scales(&b.scales, &b.mins),
                qh: std::array::from_fn(|i| (0..8).fold(0, |h, j| h | (b.q[32 * j + i] >> 4) << j)),
                qs: pack_low_nibbles(&b.q),
            };
        }
    }

    fn dequantize(&self, out: &mut [f32]) {
        dequantize(self.d, self.dmin, self.scales_mins(), &self.codes(), out);
    }

    fn dot(&self, act: &[ActBlock]) -> f32 {
        dot(self.d, self.dmin, self.scales_mins(), &self.codes(), act)
    }
}
