//! Q4_0: 4 bits, one scale per 32.
//!
//! ```text
//! BlockQ4_0, 18 bytes, 4.5 bits per weight:  d f16 | qs u8 × 16
//!   qs[i] = code i | code (i+16) << 4            w[i] = d·(code i − 8)
//! ```
//! Without importances the bytes are those of ggml's reference: the element of the largest magnitude becomes exactly −8·d.

use super::{
    ActBlock, Block, F16,
    act::isum,
    fit::scale::{self, Integers},
    nibbles, one_by_one, pack_nibbles,
};
use crate::DType;

/// 32 weights. See the module's drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C)]
pub struct BlockQ4_0 {
    /// Scale.
    pub d: F16,
    /// Codes, two in a byte.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ4_0>() == DType::Q4_0.block_bytes());

impl BlockQ4_0 {
    /// The codes, 0..=15.
    pub fn codes(&self) -> [u8; 32] {
        nibbles(&self.qs)
    }
}

impl Block for BlockQ4_0 {
    const DTYPE: DType = DType::Q4_0;

    #[inline(always)]
    fn quantize(x: &[f32], weights: Option<&[f32]>, out: &mut [Self]) {
        let make = |d, q| Self { d, qs: pack_nibbles(&q) };
        if weights.is_some() {
            scale::blocks::<Integers<8>, Self>(x, weights, out, make);
        } else {
            one_by_one(x, out, |x| {
                let (d, q) = scale::reference::<8>(x);
                make(d, q)
            });
        }
    }

    fn dequantize(&self, out: &mut [f32]) {
        let d = self.d.get();
        for (out, q) in out.iter_mut().zip(self.codes()) {
            *out = d * (f32::from(q) - 8.0);
        }
    }

    fn dot(&self, act: &[ActBlock]) -> f32 {
        let a = &act[0];
        self.d.get() * a.d * isum(self.codes().map(|q| i32::from(q) - 8), &a.q)
    }
}
