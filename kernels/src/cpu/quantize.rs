//! Quantizing with the widest vectors that the machine has: the specification's own code, compiled for them.
//!
//! The search for scales (`quant::fit`) keeps its sub-blocks in lanes and sums without fused multiply-add, so the compiler can
//! put the lanes into vectors of any width and every width gives the same bytes. Baseline x86-64 has four lanes, these have eight.

use super::{Isa, simd::Job};
use crate::{
    DType,
    quant::{self, quantize_with},
};

/// [`quant::quantize`] with the instructions of `isa` (scalar where the machine lacks them): the same bytes, sooner.
///
/// # Panics
/// As [`quant::quantize`].
#[track_caller]
pub fn quantize(
    isa: Isa,
    dtype: DType,
    cols: usize,
    src: &[f32],
    dst: &mut [u8],
    importance: Option<&[f32]>,
) {
    // The lanes are eight. Given sixteen the compiler joins pairs of sub-blocks: 178 million weights of Q4_K a second, not 224.
    let isa = if isa == Isa::Avx512Vnni { Isa::Avx2 } else { isa };
    Rows { dtype, cols, src, dst, importance }.run(isa);
}

/// Rows to be quantized.
struct Rows<'a> {
    dtype: DType,
    cols: usize,
    src: &'a [f32],
    dst: &'a mut [u8],
    importance: Option<&'a [f32]>,
}

impl Job for Rows<'_> {
    fn scalar(self) {
        quant::quantize(self.dtype, self.cols, self.src, self.dst, self.importance);
    }

    #[inline(always)]
    fn vector<S: super::simd::Simd>(self, _: S) {
        quantize_with(self.dtype, self.cols, self.src, self.dst, self.importance);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_gives_the_specifications_bytes() {
        const COLS: usize = 512;
        let mut state = 7u64;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let mut src: Vec<f32> = (0..24 * COLS).map(|_| draw() * draw() * draw()).collect();
        let importance: Vec<f32> = (0..COLS).map(|_| draw().abs()).collect();
        // Constant, zero, huge, tiny and strange rows.
        src[..COLS].fill(0.25);
        src[COLS..2 * COLS].fill(0.0);
        src[2 * COLS..3 * COLS].iter_mut().for_each(|v| *v *= 1e30);
        src[3 * COLS..4 * COLS].iter_mut().for_each(|v| *v *= 1e-30);
        (src[4 * COLS], src[4 * COLS + 1], src[4 * COLS + 2]) = (f32::NAN, f32::INFINITY, -f32::INFINITY);
        for dtype in DType::ALL.into_iter().filter(|t| *t != DType::I32) {
            for weights in [None, Some(importance.as_slice())] {
                let bytes = |f: &dyn Fn(&mut [u8])| {
                    let mut dst = vec![0; src.len() / dtype.block_len() * dtype.block_bytes()];
                    f(&mut dst);
                    dst
                };
                let wanted = bytes(&|dst| quant::quantize(dtype, COLS, &src, dst, weights));
                for isa in Isa::available() {
                    let got = bytes(&|dst| quantize(isa, dtype, COLS, &src, dst, weights));
                    assert!(got == wanted, "{dtype} on {isa}, importance: {}", weights.is_some());
                }
            }
        }
    }
}
