//! Q8_0: 8 bits, one scale per 32.
//!
//! ```text
//! BlockQ8_0, 34 bytes, 8.5 bits per weight:  d f16 | qs i8 × 32        w[i] = d·qs[i]
//! ```
//! The bytes are those of ggml's reference: d = max |x| / 127, codes rounded half away from zero. Importances are ignored:
//! at 8 bits the error is far below that of the formats worth weighing.

use super::{ActBlock, Block, F16, act::isum, fit::within, one_by_one};
use crate::DType;

/// 32 weights. See the module's drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C)]
pub struct BlockQ8_0 {
    /// Scale.
    pub d: F16,
    /// Codes.
    pub qs: [i8; 32],
}

const _: () = assert!(size_of::<BlockQ8_0>() == DType::Q8_0.block_bytes());

impl Block for BlockQ8_0 {
    const DTYPE: DType = DType::Q8_0;

    #[inline(always)]
    fn quantize(x: &[f32], _: Option<&[f32]>, out: &mut [Self]) {
        one_by_one(x, out, |x| {
            let d = x.iter().fold(0.0, |m: f32, v| if v.abs() > m { v.abs() } else { m }) / 127.0;
            let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
            Self { d: F16::new(d), qs: x.map(|x| away_from_zero(x * inverse)) }
        });
    }

    fn dequantize(&self, out: &mut [f32]) {
        let d = self.d.get();
        for (out, &q) in out.iter_mut().zip(&self.qs) {
            *out = f32::from(q) * d;
        }
    }

    fn dot(&self, act: &[ActBlock]) -> f32 {
        let a = &act[0];
        self.d.get() * a.d * isum(self.qs.map(i32::from), &a.q)
    }
}

/// The integer nearest to `v`, ties away from zero: `f32::round`, without its call of the C library. Within ±127, where
/// anything else comes of infinities only.
fn away_from_zero(v: f32) -> i8 {
    let v = within(v, -127.0, 127.0);
    let whole = v as i32;
    let rest = v - whole as f32;
    (whole + i32::from(rest >= 0.5) - i32::from(rest <= -0.5)) as i8
}
