//! The int8 kernel of the matrix-multiply extension: 8 weight rows times up to four tokens.
//!
//! `smmla` multiplies 8 columns of two rows by those of two tokens into four sums, twice the work of `sdot`. Four loads of weights and
//! two of activations feed 8 of them. Sums stay in that order, pairs of rows by pairs of tokens, until a slab ends; scales
//! lie twice in the tile for it, so that it costs loads only.

use std::arch::{aarch64::*, asm};

use super::{
    Kernel, Sdot,
    tile::{self, Totals},
};
use crate::cpu::{
    Isa,
    matmul::{ActSlab, PANEL, Tile, Unpack, Weights},
};

/// The matrix-multiply extension for bytes, and dot products.
#[derive(Clone, Copy)]
pub(crate) struct Smmla;

impl Kernel for Smmla {
    const ISA: Isa = Isa::NeonI8mm;
    const TOKENS: usize = 4;
    const WORDS: usize = 2;

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
                4 => kernel::<F, 4, 2>(tile, record, c, blocks),
                3 => kernel::<F, 3, 2>(tile, record, c, blocks),
                2 => kernel::<F, 2, 1>(tile, record, c, blocks),
                1 => kernel::<F, 1, 1>(tile, record, c, blocks),
                _ => unreachable!("{tokens} tokens in a group of {}", Self::TOKENS),
            }
        }
    }

    unsafe fn dots<F: Unpack>(w: Weights<'_>, first: usize, x: &[ActSlab], out: &mut [f32]) {
        // SAFETY: the bundle has dot products, which one token needs no pairs for.
        unsafe { Sdot::dots::<F>(w, first, x, out) }
    }
}

/// `sums` + w·xᵀ for `w` and `x` of two rows of 8 bytes: the first row's sums with both rows of x, then the second's.
///
/// # Safety
/// The machine has the extension.
#[inline(always)]
unsafe fn product(mut sums: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: as this function's.
    unsafe {
        asm!(
            "smmla {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inout(vreg) sums, in(vreg) w, in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

/// # Safety
/// As [`Kernel::multiply`] with `T` tokens, which are `P` pairs.
#[target_feature(enable = "neon,dotprod,i8mm")]
unsafe fn kernel<F: Unpack, const T: usize, const P: usize>(
    tile: &Tile,
    record: *const i32,
    c: *mut f32,
    blocks: usize,
) {
    let steps = F::GROUP / 4;
    // SAFETY: groups, steps and rows are within the tile, the record and c.
    unsafe {
        let x = tile::codes_of::<F, T>(record).cast::<i8>();
        for row in (0..PANEL).step_by(8) {
            // [pairs of tokens][pairs of rows].
            let mut totals = Totals::<4, P>::new();
            for group in 0..blocks * 32 / F::GROUP {
                let mut sums = [[vdupq_n_s32(0); 4]; P];
                for k4 in (group * steps..(group + 1) * steps).step_by(2) {
                    let mut xs = [vdupq_n_s8(0); P];
                    for (p, xs) in xs.iter_mut().enumerate() {
                        let x = x.add(k4 * T * 4 + 16 * p);
                        *xs =
                            if 2 * p + 2 <= T { vld1q_s8(x) } else { vcombine_s8(vld1_s8(x), vdup_n_s8(0)) };
                    }
                    let w = tile::codes::<Smmla>(tile, k4, row);
                    for pair in 0..4 {
                        let w = vld1q_s8(w.add(16 * pair));
                        for (sums, x) in sums.iter_mut().zip(xs) {
                            sums[pair] = product(sums[pair], w, x);
                        }
                    }
                }
                let d = tile::scales_of::<F, T>(record, group * F::GROUP / 32);
                for pair in 0..4 {
                    let scale = vld1q_s32(tile::scales::<Smmla>(tile, group, row + 2 * pair));
                    for (p, sums) in sums.iter().enumerate() {
                        totals.add::<F>(p, pair, sums[pair], scale, twice(d[2 * p], d[T.min(2 * p + 2) - 1]));
                    }
                }
            }
            let pairs = totals.get::<F>();
            let mut rows = [[vdupq_n_f32(0.0); 2]; T];
            for (t, rows) in rows.iter_mut().enumerate() {
                for (q, rows) in rows.iter_mut().enumerate() {
                    let [low, high] = [pairs[t / 2][2 * q], pairs[t / 2][2 * q + 1]];
                    *rows = if t % 2 == 0 { vuzp1q_f32(low, high) } else { vuzp2q_f32(low, high) };
                }
            }
            tile::finish::<F, 2, T>(tile, record, c, row, blocks, rows);
        }
    }
}

/// a, b, a, b.
#[inline(always)]
fn twice(a: f32, b: f32) -> float32x4_t {
    // SAFETY: NEON belongs to the target.
    unsafe {
        let two = vset_lane_f32::<1>(b, vdup_n_f32(a));
        vcombine_f32(two, two)
    }
}
