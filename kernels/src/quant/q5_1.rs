//! Q5_1: 5 bits, scale and minimum per 32.
//!
//! ```text
//! BlockQ5_1, 24 bytes, 6 bits per weight:  d f16 | m f16 | qh u8 × 4 | qs u8 × 16
//!   qs[i] = low 4 bits of code i | those of code (i+16) << 4
//!   bit i of qh, read as a u32, = bit 4 of code i          w[i] = d·code i + m
//! ```
//! Without importances the bytes are those of ggml's reference: the codes span the block's smallest to its largest element.

use super::{ActBlock, Block, F16, act::isum, fit::affine, five_bits, one_by_one, pack_fifth, pack_nibbles};
use crate::DType;

/// 32 weights. See the module's drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C)]
pub struct BlockQ5_1 {
    /// Scale.
    pub d: F16,
    /// Minimum, of either sign.
    pub m: F16,
    /// Fifth bits, one per code.
    pub qh: [u8; 4],
    /// Low 4 bits, two codes in a byte.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ5_1>() == DType::Q5_1.block_bytes());

impl BlockQ5_1 {
    /// The codes, 0..=31.
    pub fn codes(&self) -> [u8; 32] {
        five_bits(&self.qs, self.qh)
    }
}

impl Block for BlockQ5_1 {
    const DTYPE: DType = DType::Q5_1;

    #[inline(always)]
    fn quantize(x: &[f32], weights: Option<&[f32]>, out: &mut [Self]) {
        let make = |d, m, q| Self { d, m, qh: pack_fifth(&q), qs: pack_nibbles(&q) };
        if let Some(weights) = weights {
            affine::blocks::<31, Self>(x, weights, out, make);
        } else {
            one_by_one(x, out, |x| {
                let (d, m, q) = affine::reference::<31>(x);
                make(d, m, q)
            });
        }
    }

    fn dequantize(&self, out: &mut [f32]) {
        let (d, m) = (self.d.get(), self.m.get());
        for (out, q) in out.iter_mut().zip(self.codes()) {
            *out = d * f32::from(q) + m;
        }
    }

    fn dot(&self, act: &[ActBlock]) -> f32 {
        let a = &act[0];
        self.d.get() * a.d * isum(self.codes().map(i32::from), &a.q) + self.m.get() * a.d * a.sum as f32
    }
}
