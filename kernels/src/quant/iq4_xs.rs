//! IQ4_XS: the 16 values of IQ4_NL in super-blocks of 256; 8 sub-blocks of 32, each with a scale of 6 bits.
//!
//! ```text
//! BlockIQ4_XS, 136 bytes, 4.25 bits per weight:  d f16 | scales_h u16 | scales_l u8 × 4 | qs u8 × 128
//!   w[32j + i] = d·(sⱼ − 32)·VALUES[code]
//!   sⱼ = scales_l[j div 2] >> 4·(j mod 2) & 15  |  (scales_h >> 2j & 3) << 4
//!   qs[16j + i] = code of element 32j + i | code of element 32j + 16 + i << 4       (i = 0..16)
//! ```

use super::iq4_nl::{VALUES, Values};
use super::{ActBlock, Block, F16, act::isum, array, fit::scale};
use crate::DType;

/// 256 weights. See the module's drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Zeroable, bytemuck::Pod)]
#[allow(non_camel_case_types, reason = "ggml's name")]
#[repr(C)]
pub struct BlockIQ4_XS {
    /// Scale of the scales.
    pub d: F16,
    /// High 2 bits of the scales, a little-endian u16.
    pub scales_h: [u8; 2],
    /// Low 4 bits of the scales, two in a byte.
    pub scales_l: [u8; 4],
    /// Codes, two in a byte.
    pub qs: [u8; 128],
}

const _: () = assert!(size_of::<BlockIQ4_XS>() == DType::IQ4_XS.block_bytes());

impl BlockIQ4_XS {
    /// Scales of the 8 sub-blocks, −32..=31.
    pub fn scales(&self) -> [i8; 8] {
        let high = u16::from_le_bytes(self.scales_h);
        std::array::from_fn(|j| {
            let low = self.scales_l[j / 2] >> (4 * (j % 2)) & 15;
            (low | ((high >> (2 * j) & 3) as u8) << 4) as i8 - 32
        })
    }

    /// The values that the codes stand for.
    pub fn values(&self) -> [i8; 256] {
        std::array::from_fn(|e| {
            let (j, half, i) = (e / 32, e / 16 % 2, e % 16);
            VALUES[usize::from(self.qs[16 * j + i] >> (4 * half) & 15)]
        })
    }
}

impl Block for BlockIQ4_XS {
    const DTYPE: DType = DType::IQ4_XS;

    #[inline(always)]
    fn quantize(x: &[f32], weights: Option<&[f32]>, out: &mut [Self]) {
        for (i, (x, out)) in x.chunks_exact(256).zip(out).enumerate() {
            let weights = weights.map(|w| &w[256 * i..256 * (i + 1)]);
            let mut q = [0; 256];
            let (d, s) = scale::super_block::<Values, 32, 8>(array(x), weights, 32.0, &mut q);
            let s = s.map(|s| (s + 32) as u8);
            *out = Self {
                d,
                scales_h: (0..8).fold(0, |h, j| h | u16::from(s[j] >> 4) << (2 * j)).to_le_bytes(),
                scales_l: std::array::from_fn(|j| (s[2 * j] & 15) | s[2 * j + 1] << 4),
                qs: std::array::from_fn(|b| {
                    let e = 32 * (b / 16) + b % 16;
                    q[e] | q[e + 16] << 4
                }),
            };
        }
    }

    fn dequantize(&self, out: &mut [f32]) {
        let d = self.d.get();
        for ((out, v), s) in out.chunks_exact_mut(32).zip(self.values().chunks_exact(32)).zip(self.scales()) {
            let a = d * f32::from(s);
            for (out, &v) in out.iter_mut().zip(v) {
                *out = a * f32::from(v);
            }
        }
    }

    fn dot(&self, act: &[ActBlock]) -> f32 {
        let d = self.d.get();
        let mut sum = 0.0;
        for ((a, v), s) in act.iter().zip(self.values().chunks_exact(32)).zip(self.scales()) {
            let products = isum(v.iter().map(|&v| i32::from(v)), &a.q);
            sum += a.d * (d * f32::from(s) * products);
        }
        sum
    }
}
