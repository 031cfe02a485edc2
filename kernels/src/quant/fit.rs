//! The search for scales: what the formats without a given answer (K, IQ4, and all under importances) have in common.
//!
//! A sub-block of N elements x meets codes q through a line, x ≈ a·q or x ≈ a·q + c. For given codes the best line is a
//! least-squares problem of one or two unknowns with a closed form; for a given line the best codes are the nearest ones.
//! Alternating the two converges to a nearby optimum only, so it starts from several lines and keeps the best.
//! The scales are then rounded to integers times the super-block's half; each sub-block tries the neighbouring integers with
//! codes chosen anew, and at last the halves are fitted, by least squares, to all codes of the super-block.
//!
//! Sub-blocks lie in lanes: element i of all L sub-blocks is one vector, so every step, the solving and the choosing
//! included, is the same arithmetic in all lanes and needs no sum across a vector. Sums run over i in order, without fused
//! multiply-add, so the bytes are the same on every machine.

#![allow(clippy::needless_range_loop, reason = "lane l of several arrays at once")]

pub(super) mod affine;
pub(super) mod scale;

/// Magnitudes beyond this saturate: 2^28 is above what any format with a finite half can hold, and its square times the
/// 256 elements of a block is far from overflow.
const LARGEST: f32 = 268_435_456.0;

/// The least relative weight: a column that calibration never saw must not make a system of equations singular.
const LEAST_WEIGHT: f32 = 1e-6;

/// Where the error of a super-block is below this share of its signal, it comes from rounding the scale to a half (2^-11 of it
/// at most, hence the square of that) and other integer scales, hence other halves, are worth a look: constant rows, and
/// weights quantized before.
const ROUNDING: f32 = 1.0 / 4_194_304.0;

/// How many of them are looked at.
const ROUNDINGS: usize = 8;

/// Blocks of 32 that are quantized together, in lanes.
const TOGETHER: usize = 8;

/// The integer nearest to `v`, ties to even, for |v| < 2^22 (there the spacing of floats near 1.5·2^23 is 1). Unlike
/// `round_ties_even` it is two additions on every machine.
#[inline(always)]
pub(super) fn nearest(v: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    v + MAGIC - MAGIC
}

/// `v` within `low..=high`; NaN becomes `low`. Two instructions, where `f32::clamp` keeps NaN.
#[inline(always)]
pub(super) fn within(v: f32, low: f32, high: f32) -> f32 {
    let v = if v > low { v } else { low };
    if v < high { v } else { high }
}

/// 1/v, and 0 where that is not finite.
#[inline(always)]
fn inverse(v: f32) -> f32 {
    let i = 1.0 / v;
    if i.abs() <= f32::MAX { i } else { 0.0 }
}

/// Σ of the lanes, in order.
#[inline(always)]
fn total<const L: usize>(v: &[f32; L]) -> f32 {
    v.iter().sum()
}

/// `v`, which the compiler is kept from taking apart: where it sees single lanes used behind a loop, it splits the loop's vectors
/// to suit them, at twice the time.
#[inline(always)]
fn whole<T>(v: T) -> T {
    std::hint::black_box(v)
}

/// Sub-blocks in lanes: L of N elements each, with the weights of their errors.
struct Lanes<const N: usize, const L: usize> {
    /// Elements, [N, L].
    x: [[f32; L]; N],
    /// Weights, [N, L], the largest 1.
    w: [[f32; L]; N],
}

impl<const N: usize, const L: usize> Lanes<N, L> {
    /// Takes up to L sub-blocks that follow one another in `x`; lanes without one are zero. NaN becomes 0, and infinities
    /// the end of the range. Weights are taken relative to the largest of their block of `block` elements; where none is
    /// usable, all are 1.
    #[inline(always)]
    fn new(x: &[f32], weights: Option<&[f32]>, block: usize) -> Self {
        let mut lanes = Self { x: [[0.0; L]; N], w: [[1.0; L]; N] };
        for (l, x) in x.chunks_exact(N).enumerate() {
            for (lane, &v) in lanes.x.iter_mut().zip(x) {
                let v = if v.is_nan() { 0.0 } else { v };
                lane[l] = within(v, -LARGEST, LARGEST);
            }
        }
        let usable = |w: f32| if w > 0.0 && w <= f32::MAX { w } else { 0.0 };
        for (k, block) in weights.into_iter().flat_map(|w| w.chunks_exact(block)).enumerate() {
            let most = block.iter().fold(0.0, |m, &w| usable(w).max(m));
            if most > 0.0 {
                for (i, &w) in block.iter().enumerate() {
                    let at = k * block.len() + i;
                    lanes.w[at % N][at / N] = (usable(w) / most).max(LEAST_WEIGHT);
                }
            }
        }
        lanes
    }

    /// Σ w and Σ w·x of each lane.
    #[inline(always)]
    fn moments(&self) -> Moments<L> {
        let mut m = Moments { w: [0.0; L], x: [0.0; L] };
        for (x, w) in self.x.iter().zip(&self.w) {
            for l in 0..L {
                m.w[l] += w[l];
                m.x[l] += w[l] * x[l];
            }
        }
        m
    }

    /// Σ w·x² of all lanes.
    #[inline(always)]
    fn signal(&self) -> f32 {
        let mut sums = [0.0; L];
        for (x, w) in self.x.iter().zip(&self.w) {
            for l in 0..L {
                sums[l] += w[l] * x[l] * x[l];
            }
        }
        sums.into_iter().sum()
    }
}

/// Σ w and Σ w·x of each lane.
struct Moments<const L: usize> {
    w: [f32; L],
    x: [f32; L],
}
