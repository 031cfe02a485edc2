//! Q6_K: 6 bits in super-blocks of 256; 16 sub-blocks of 16, each with a signed scale of 8 bits.
//!
//! ```text
//! BlockQ6_K, 210 bytes, 6.5625 bits per weight:  ql u8 × 128 | qh u8 × 64 | scales i8 × 16 | d f16
//!   w[16j + i] = d·scales[j]·(code − 32)
//!   Of element e = 128h + 32g + i (h = 0..2, g = 0..4, i = 0..32):
//!     low 4 bits   ql[64h + 32·(g mod 2) + i] >> 4·(g div 2)
//!     high 2 bits  qh[32h + i] >> 2g
//! ```

use super::{ActBlock, Block, F16, act::isum, array, fit::scale};
use crate::DType;

/// 256 weights. See the module's drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Zeroable, bytemuck::Pod)]
#[allow(non_camel_case_types, reason = "ggml's name")]
#[repr(C)]
pub struct BlockQ6_K {
    /// Low 4 bits, two codes in a byte.
    pub ql: [u8; 128],
    /// High 2 bits, four codes in a byte.
    pub qh: [u8; 64],
    /// Scales of the sub-blocks.
    pub scales: [i8; 16],
    /// Scale of the scales.
    pub d: F16,
}

const _: () = assert!(size_of::<BlockQ6_K>() == DType::Q6_K.block_bytes());

impl BlockQ6_K {
    /// The codes, 0..=63.
    pub fn codes(&self) -> [u8; 256] {
        std::array::from_fn(|e| {
            let (h, g, i) = (e / 128, e / 32 % 4, e % 32);
            let low = self.ql[64 * h + 32 * (g % 2) + i] >> (4 * (g / 2)) & 15;
            low | (self.qh[32 * h + i] >> (2 * g) & 3) << 4
        })
    }
}

impl Block for BlockQ6_K {
    const DTYPE: DType = DType::Q6_K;

    #[inline(always)]
    fn quantize(x: &[f32], weights: Option<&[f32]>, out: &mut [Self]) {
        for (i, (x, out)) in x.chunks_exact(256).zip(out).enumerate() {
            let weights = weights.map(|w| &w[256 * i..256 * (i + 1)]);
            let mut q = [0; 256];
            let (d, scales) =
                scale::super_block::<scale::Integers<32>, 16, 16>(array(x), weights, 128.0, &mut q);
            let ql = std::array::from_fn(|b| {
                let e = 128 * (b / 64) + b % 64;
                (q[e] & 15) | q[e + 64] << 4
            });
            let qh = std::array::from_fn(|b| {
                let e = 128 * (b / 32) + b % 32;
                (0..4).fold(0, |h, g| h | (q[e + 32 * g] >> 4) << (2 * g))
            });
            *out = Self { ql, qh, scales, d };
        }
    }

    fn dequantize(&self, out: &mut [f32]) {
        let d = self.d.get();
        for ((out, q), s) in out.chunks_exact_mut(16).zip(self.codes().chunks_exact(16)).zip(self.scales) {
            let a = d * f32::from(s);
            for (out, &q) in out.iter_mut().zip(q) {
                *out = a * (f32::from(q) - 32.0);
            }
        }
    }

    fn dot(&self, act: &[ActBlock]) -> f32 {
        let d = self.d.get();
        let mut sum = 0.0;
        for (j, (q, &s)) in self.codes().chunks_exact(16).zip(&self.scales).enumerate() {
            let a = &act[j / 2];
            let products = isum(q.iter().map(|&q| i32::from(q) - 32), &a.q[16 * (j % 2)..]);
            sum += a.d * (d * f32::from(s) * products);
        }
        sum
    }
}
