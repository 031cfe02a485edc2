//! Q5_0: 5 bits, one scale per 32.
//!
//! ```text
//! BlockQ5_0, 22 bytes, 5.5 bits per weight:  d f16 | qh u8 × 4 | qs u8 × 16
//!   qs[i] = low 4 bits of code i | those of code (i+16) << 4
//!   bit i of qh, read as a u32, = bit 4 of code i          w[i] = d·(code i − 16)
//! ```
//! Without importances the bytes are those of ggml's reference: the element of the largest magnitude becomes exactly −16·d.

use super::{
    ActBlock, Block, F16,
    act::isum,
    fit::scale::{self, Integers},
    five_bits, one_by_one, pack_fifth, pack_nibbles,
};
use crate::DType;

/// 32 weights. See the module's drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C)]
pub struct BlockQ5_0 {
    /// Scale.
    pub d: F16,
    /// Fifth bits, one per code.
    pub qh: [u8; 4],
    /// Low 4 bits, two codes in a byte.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ5_0>() == DType::Q5_0.block_bytes());

impl BlockQ5_0 {
    /// The codes, 0..=31.
    pub fn codes(&self) -> [u8; 32] {
        five_bits(&self.qs, self.qh)
    }
}

impl Block for BlockQ5_0 {
    const DTYPE: DType = DType::Q5_0;

    #[inline(always)]
    fn quantize(x: &[f32], weights: Option<&[f32]>, out: &mut [Self]) {
        let make = |d, q| Self { d, qh: pack_fifth(&q), qs: pack_nibbles(&q) };
        if weights.is_some() {
            scale::blocks::<Integers<16>, Self>(x, weights, out, make);
        } else {
            one_by_one(x, out, |x| {
                let (d, q) = scale::reference::<16>(x);
                make(d, q)
            });
        }
    }

    fn dequantize(&self, out: &mut [f32]) {
        let d = self.d.get();
        for (out, q) in out.iter_mut().zip(self.codes()) {
            *out = d * (f32::from(q) - 16.0);
        }
    }

    fn dot(&self, act: &[ActBlock]) -> f32 {
        let a = &act[0];
        self.d.get() * a.d * isum(self.codes().map(|q| i32::from(q) - 16), &a.q)
    }
}
