//! IQ4_NL: 4 bits that choose from 16 unevenly spaced values, one scale per 32.
//!
//! ```text
//! BlockIQ4_NL, 18 bytes, 4.5 bits per weight:  d f16 | qs u8 × 16
//!   qs[i] = code i | code (i+16) << 4            w[i] = d·VALUES[code i]
//! ```
//! The values lie denser in the middle, as weights do.

use super::{ActBlock, Block, F16, act::isum, fit::scale, nibbles, pack_nibbles};
use crate::DType;

/// What the codes stand for: ggml's `kvalues_iq4nl`.
pub const VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// 32 weights. See the module's drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Zeroable, bytemuck::Pod)]
#[allow(non_camel_case_types, reason = "ggml's name")]
#[repr(C)]
pub struct BlockIQ4_NL {
    /// Scale.
    pub d: F16,
    /// Codes, two in a byte.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockIQ4_NL>() == DType::IQ4_NL.block_bytes());

impl BlockIQ4_NL {
    /// The values that the codes stand for.
    pub fn values(&self) -> [i8; 32] {
        nibbles(&self.qs).map(|q| VALUES[usize::from(q)])
    }
}

impl Block for BlockIQ4_NL {
    const DTYPE: DType = DType::IQ4_NL;

    #[inline(always)]
    fn quantize(x: &[f32], weights: Option<&[f32]>, out: &mut [Self]) {
        scale::blocks::<Values, Self>(x, weights, out, |d, q| Self { d, qs: pack_nibbles(&q) });
    }

    fn dequantize(&self, out: &mut [f32]) {
        let d = self.d.get();
        for (out, v) in out.iter_mut().zip(self.values()) {
            *out = d * f32::from(v);
        }
    }

    fn dot(&self, act: &[ActBlock]) -> f32 {
        let a = &act[0];
        self.d.get() * a.d * isum(self.values().map(i32::from), &a.q)
    }
}

/// The levels of IQ4_NL and IQ4_XS.
///
/// All midpoints between neighbouring values are multiples of ½, so each bin [k/2, k/2 + ½) has one nearest value, and the
/// nearest value of any number is one look-up away.
pub(super) struct Values;

/// The code nearest to each bin k/2 − 128 .. k/2 − 127.5.
const BINS: [u8; 512] = {
    let mut bins = [0; 512];
    let mut k = 0;
    while k < 512 {
        // In quarters, so that the bin's middle is an integer.
        let middle = 2 * k as i32 + 1 - 512;
        let mut best = 0;
        while best < 15
            && (4 * VALUES[best + 1] as i32 - middle).abs() < (4 * VALUES[best] as i32 - middle).abs()
        {
            best += 1;
        }
        bins[k] = best as u8;
        k += 1;
    }
    bins
};

/// The value nearest to each bin.
const LEVELS: [f32; 512] = {
    let mut levels = [0.0; 512];
    let mut k = 0;
    while k < 512 {
        levels[k] = VALUES[BINS[k] as usize] as f32;
        k += 1;
    }
    levels
};

impl scale::Levels for Values {
    // Chosen greedily from a grid of 48 by the error on normal, Student-t3 and outlier-ridden blocks. With one round of
    // refinement they come within 0.3 % of the rmse of the whole grid.
    const STARTS: &'static [f32] = &[-130.0, 115.0, -122.5, -137.5, -107.5, 122.5, 110.0];

    #[inline(always)]
    fn level(v: f32) -> f32 {
        LEVELS[bin(v)]
    }

    #[inline(always)]
    fn code(level: f32) -> u8 {
        BINS[bin(level)]
    }
}

/// The bin of `v`, the last one beyond the range.
#[inline(always)]
fn bin(v: f32) -> usize {
    // 2^23: there the spacing of floats is 1, and the low bits of the sum are the integer nearest to what was added.
    const MAGIC: f32 = 8_388_608.0;
    let k = super::fit::within(2.0 * v + 255.5, 0.0, 511.0);
    (k + MAGIC).to_bits() as usize & 511
}

#[cfg(test)]
mod tests {
    use super::*;
    use scale::Levels;

    #[test]
    fn level_is_the_nearest_value() {
        for k in -3000..3000 {
            // Between the midpoints, which are multiples of a half.
            let v = k as f32 * 0.05 + 0.01;
            let nearest =
                VALUES.map(f32::from).into_iter().min_by(|a, b| (a - v).abs().total_cmp(&(b - v).abs()));
            assert_eq!(Some(Values::level(v)), nearest, "{v}");
            assert_eq!(f32::from(VALUES[usize::from(Values::code(Values::level(v)))]), Values::level(v));
        }
        assert_eq!(Values::level(f32::INFINITY), 113.0);
        assert_eq!(Values::level(f32::NEG_INFINITY), -127.0);
    }
}
