//! The int8 kernel of base NEON: 16 weight rows times up to two tokens.
//!
//! `smlal` multiplies 8 bytes (four columns of two rows, and the token's four columns twice) into 16-bit sums, which hold the products of
//! a whole group where codes have six bits or fewer (8·32·127 < 2¹⁵) and of two steps where they have eight; `sadalp` and `addp` then
//! make 32-bit sums of rows. For 16 products that is 2.5 (3.1) multiplies and additions, where widening each product would take 4.

use std::arch::{aarch64::*, asm};

use super::{
    Kernel,
    dots::{self, Dot},
    tile::{self, Totals},
};
use crate::cpu::{
    Isa,
    matmul::{ActSlab, PANEL, Tile, Unpack, Weights},
};

/// Base NEON.
#[derive(Clone, Copy)]
pub(crate) struct Smull;

impl Kernel for Smull {
    const ISA: Isa = Isa::Neon;
    const TOKENS: usize = 2;
    const WORDS: usize = 1;

    unsafe fn multiply<F: Unpack>(
        tokens: usize,
        tile: &Tile,
        record: *const i32,
        c: *mut f32,
        blocks: usize,
    ) {
        // SAFETY: as this function's.
        unsafe {
            match (F::BITS, tokens) {
                (8, 2) => kernel::<F, 2, 2>(tile, record, c, blocks),
                (8, 1) => kernel::<F, 2, 1>(tile, record, c, blocks),
                (_, 2) if F::GROUP == 16 => kernel::<F, 4, 2>(tile, record, c, blocks),
                (_, 1) if F::GROUP == 16 => kernel::<F, 4, 1>(tile, record, c, blocks),
                (_, 2) => kernel::<F, 8, 2>(tile, record, c, blocks),
                (_, 1) => kernel::<F, 8, 1>(tile, record, c, blocks),
                _ => unreachable!("{tokens} tokens in a group of {}", Self::TOKENS),
            }
        }
    }

    unsafe fn dots<F: Unpack>(w: Weights<'_>, first: usize, x: &[ActSlab], out: &mut [f32]) {
        // SAFETY: as this function's.
        unsafe { dots::dots::<Self, F>(w, first, x, out) }
    }
}

impl Dot for Smull {
    #[inline(always)]
    unsafe fn dot(sums: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: NEON belongs to the target. Two products are 2·128·127 at most, an i16.
        unsafe { vpadalq_s16(sums, vmlal_high_s8(vmull_s8(vget_low_s8(w), vget_low_s8(x)), w, x)) }
    }
}

/// `sums` + the products of the low and of the high bytes. In assembly, because the compiler sees that both halves of x are alike and
/// then takes the high half of w apart.
#[inline(always)]
fn multiply(sums: &mut [int16x8_t; 2], w: int8x16_t, x: int8x16_t) {
    // SAFETY: registers only.
    unsafe {
        asm!(
            "smlal {0:v}.8h, {2:v}.8b, {3:v}.8b",
            "smlal2 {1:v}.8h, {2:v}.16b, {3:v}.16b",
            inout(vreg) sums[0], inout(vreg) sums[1], in(vreg) w, in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
}

/// `STEPS` steps of four columns are summed in 16 bits.
///
/// # Safety
/// As [`Kernel::multiply`] with `T` tokens.
#[target_feature(enable = "neon")]
unsafe fn kernel<F: Unpack, const STEPS: usize, const T: usize>(
    tile: &Tile,
    record: *const i32,
    c: *mut f32,
    blocks: usize,
) {
    let steps = F::GROUP / 4;
    // SAFETY: groups, steps and rows are within the tile, the record and c.
    unsafe {
        let codes = tile::codes_of::<F, T>(record);
        for row in [0, PANEL / 2] {
            let mut totals = Totals::<4, T>::new();
            for group in 0..blocks * 32 / F::GROUP {
                // By tokens and quads of rows; each row's four columns are two sums yet.
                let mut sums = [[[vdupq_n_s32(0); 2]; 4]; T];
                for first in (group * steps..(group + 1) * steps).step_by(STEPS) {
                    let mut x = [[vdupq_n_s8(0); T]; STEPS];
                    for (step, x) in x.iter_mut().enumerate() {
                        for (t, x) in x.iter_mut().enumerate() {
                            *x = vreinterpretq_s8_s32(vld1q_dup_s32(codes.add((first + step) * T + t)));
                        }
                    }
                    for q in 0..4 {
                        let mut short = [[vdupq_n_s16(0); 2]; T];
                        for (step, x) in x.iter().enumerate() {
                            let w = vld1q_s8(tile::codes::<Smull>(tile, first + step, row + 4 * q));
                            for (short, x) in short.iter_mut().zip(x) {
                                multiply(short, w, *x);
                            }
                        }
                        for (sums, short) in sums.iter_mut().zip(short) {
                            sums[q][0] = vpadalq_s16(sums[q][0], short[0]);
                            sums[q][1] = vpadalq_s16(sums[q][1], short[1]);
                        }
                    }
                }
                let d = tile::scales_of::<F, T>(record, group * F::GROUP / 32);
                for q in 0..4 {
                    let scale = vld1q_s32(tile::scales::<Smull>(tile, group, row + 4 * q));
                    for (t, sums) in sums.iter().enumerate() {
                        let sum = vpaddq_s32(sums[q][0], sums[q][1]);
                        totals.add::<F>(t, q, sum, scale, vdupq_n_f32(d[t]));
                    }
                }
            }
            tile::finish::<F, 4, T>(tile, record, c, row, blocks, totals.get::<F>());
        }
    }
}
