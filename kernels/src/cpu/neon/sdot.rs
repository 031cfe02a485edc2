//! The int8 kernel of the dot-product extension: 8 weight rows times up to four tokens.
//!
//! `sdot` by lane takes four columns of four rows and, from a register that holds four tokens' four columns, the token's: so two loads
//! of weights and one of activations feed 8 `sdot`, of which cores start two a cycle. 8 sums, 8 totals of the slab, 3 operands and 2
//! scales are 21 registers; more tokens would save loads, which are not what bounds it.

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

/// The dot-product extension.
#[derive(Clone, Copy)]
pub(crate) struct Sdot;

impl Kernel for Sdot {
    const ISA: Isa = Isa::NeonDotprod;
    const TOKENS: usize = 4;
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
            match tokens {
                4 => kernel::<F, 4>(tile, record, c, blocks),
                3 => kernel::<F, 3>(tile, record, c, blocks),
                2 => kernel::<F, 2>(tile, record, c, blocks),
                1 => kernel::<F, 1>(tile, record, c, blocks),
                _ => unreachable!("{tokens} tokens in a group of {}", Self::TOKENS),
            }
        }
    }

    #[target_feature(enable = "neon,dotprod")]
    unsafe fn dots<F: Unpack>(w: Weights<'_>, first: usize, x: &[ActSlab], out: &mut [f32]) {
        // SAFETY: as this function's.
        unsafe { dots::dots::<Self, F>(w, first, x, out) }
    }
}

impl Dot for Sdot {
    #[inline(always)]
    unsafe fn dot(mut sums: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: as this function's.
        unsafe {
            asm!(
                "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
                inout(vreg) sums, in(vreg) w, in(vreg) x,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        sums
    }
}

/// Each lane of `sums` + the four products of the lane's bytes of `w` and the bytes of lane `L` of `x`.
///
/// # Safety
/// The machine has the extension.
#[inline(always)]
unsafe fn dot_lane<const L: usize>(mut sums: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: as this function's.
    unsafe {
        asm!(
            "sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[{lane}]",
            inout(vreg) sums, in(vreg) w, in(vreg) x, lane = const L,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

/// # Safety
/// As [`Kernel::multiply`] with `T` tokens.
#[target_feature(enable = "neon,dotprod")]
unsafe fn kernel<F: Unpack, const T: usize>(tile: &Tile, record: *const i32, c: *mut f32, blocks: usize) {
    let steps = F::GROUP / 4;
    // SAFETY: groups, steps and rows are within the tile, the record and c.
    unsafe {
        let x = tile::codes_of::<F, T>(record);
        for row in (0..PANEL).step_by(8) {
            let mut totals = Totals::<2, T>::new();
            for group in 0..blocks * 32 / F::GROUP {
                let mut sums = [[vdupq_n_s32(0); 2]; T];
                // By fours, so that the compiler unrolls them.
                for first in (group * steps..(group + 1) * steps).step_by(4) {
                    for k4 in first..first + 4 {
                        let x = lanes::<T>(x.add(k4 * T));
                        let w = tile::codes::<Sdot>(tile, k4, row);
                        for (q, w) in [vld1q_s8(w), vld1q_s8(w.add(16))].into_iter().enumerate() {
                            sums[0][q] = dot_lane::<0>(sums[0][q], w, x);
                            if T > 1 {
                                sums[1][q] = dot_lane::<1>(sums[1][q], w, x);
                            }
                            if T > 2 {
                                sums[2][q] = dot_lane::<2>(sums[2][q], w, x);
                            }
                            if T > 3 {
                                sums[3][q] = dot_lane::<3>(sums[3][q], w, x);
                            }
                        }
                    }
                }
                let d = tile::scales_of::<F, T>(record, group * F::GROUP / 32);
                let scale = tile::scales::<Sdot>(tile, group, row);
                let scales = [vld1q_s32(scale), vld1q_s32(scale.add(4))];
                for (t, sums) in sums.iter().enumerate() {
                    for (q, sum) in sums.iter().enumerate() {
                        totals.add::<F>(t, q, *sum, scales[q], vdupq_n_f32(d[t]));
                    }
                }
            }
            tile::finish::<F, 2, T>(tile, record, c, row, blocks, totals.get::<F>());
        }
    }
}

/// `T` dwords, in the first lanes.
///
/// # Safety
/// They are readable at `x`.
#[inline(always)]
unsafe fn lanes<const T: usize>(x: *const i32) -> int8x16_t {
    // SAFETY: as this function's.
    unsafe {
        let two = || vcombine_s32(vld1_s32(x), vdup_n_s32(0));
        vreinterpretq_s8_s32(match T {
            1 => vld1q_dup_s32(x),
            2 => two(),
            3 => vld1q_lane_s32::<2>(x.add(2), two()),
            _ => vld1q_s32(x),
        })
    }
}
