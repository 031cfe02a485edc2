//! Q4_1: 4 bits, scale and minimum per 32.
//!
//! ```text
//! BlockQ4_1, 20 bytes, 5 bits per weight:  d f16 | m f16 | qs u8 × 16
//!   qs[i] = code i | code (i+16) << 4            w[i] = d·code i + m
//! ```
//! Without importances the bytes are those of ggml's reference: the codes span the block's smallest to its largest element.

use super::{ActBlock, Block, F16, act::isum, fit::affine, nibbles, one_by_one, pack_nibbles};
use crate::DType;

/// 32 weights. See the module's drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C)]
pub struct BlockQ4_1 {
    /// Scale.
    pub d: F16,
    /// Minimum, of either sign.
    pub m: F16,
    /// Codes, two in a byte.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ4_1>() == DType::Q4_1.block_bytes());

impl BlockQ4_1 {
    /// The codes, 0..=15.
    pub fn codes(&self) -> [u8; 32] {
        nibbles(&self.qs)
    }
}

impl Block for BlockQ4_1 {
    const DTYPE: DType = DType::Q4_1;

    #[inline(always)]
    fn quantize(x: &[f32], weights: Option<&[f32]>, out: &mut [Self]) {
        let make = |d, m, q| Self { d, m, qs: pack_nibbles(&q) };
        if let Some(weights) = weights {
            affine::blocks::<15, Self>(x, weights, out, make);
        } else {
            one_by_one(x, out, |x| {
                let (d, m, q) = affine::reference::<15>(x);
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
