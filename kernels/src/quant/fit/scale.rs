//! One scale, no minimum: x ≈ a·v with v from a fixed set of levels. Q6_K, IQ4_NL and IQ4_XS, and Q4_0 and Q5_0 under
//! importances.
//!
//! The levels are not symmetric (−32..=31), so the sign of the scale matters: both are tried.

use super::{Lanes, ROUNDING, ROUNDINGS, TOGETHER, inverse, nearest, total, whole, within};
use crate::quant::F16;

/// The values that a code can stand for.
pub(in crate::quant) trait Levels {
    /// Where the search starts: to what the element of the largest magnitude is mapped.
    const STARTS: &'static [f32];

    /// The level nearest to `v`; the last level beyond the range.
    fn level(v: f32) -> f32;

    /// The code of a level.
    fn code(level: f32) -> u8;
}

/// The integers −HALF..HALF; the code is the integer + HALF.
pub(in crate::quant) struct Integers<const HALF: u8>;

impl<const HALF: u8> Levels for Integers<HALF> {
    // Chosen greedily from a grid of 52 by the error on normal, Student-t3 and outlier-ridden blocks. With one round of
    // refinement they come within 0.5 % of the rmse of the whole grid. At 6 bits clipping gains nothing, and what counts is
    // that the largest element lies on a level, of which there are many; at 4 bits it may be clipped.
    const STARTS: &'static [f32] = &{
        let h = HALF as f32;
        if HALF >= 32 {
            [-h, -h + 1.0, -h + 2.0, -h + 3.0, h - 4.0, -h - 0.4, -h + 0.2]
        } else {
            [-h - 0.2, -h - 0.6, -h + 0.2, -h + 0.8, -h + 2.0, -h + 1.2, -h]
        }
    };

    #[inline(always)]
    fn level(v: f32) -> f32 {
        let half = f32::from(HALF);
        nearest(within(v, -half, half - 1.0))
    }

    #[inline(always)]
    fn code(level: f32) -> u8 {
        (level + f32::from(HALF)) as u8
    }
}

/// Lanes that are summed together: two vectors of 4 for each of the sums fit the 16 registers of plain x86-64.
const GROUP: usize = 8;

/// Σ w·v², Σ w·v·x and Σ w·(x − a·v)² of each lane for the levels v nearest to x/a.
struct Sums<const L: usize> {
    vv: [f32; L],
    vx: [f32; L],
    error: [f32; L],
}

impl<const N: usize, const L: usize> Lanes<N, L> {
    #[inline(always)]
    fn scale_sums<V: Levels>(&self, a: &[f32; L]) -> Sums<L> {
        let mut s = Sums { vv: [0.0; L], vx: [0.0; L], error: [0.0; L] };
        let inv = a.map(inverse);
        // Lanes in groups that leave registers for the sums.
        for first in (0..L).step_by(GROUP) {
            for (x, w) in self.x.iter().zip(&self.w) {
                for l in first..(first + GROUP).min(L) {
                    let v = V::level(x[l] * inv[l]);
                    let wv = w[l] * v;
                    let e = x[l] - a[l] * v;
                    s.vv[l] += wv * v;
                    s.vx[l] += wv * x[l];
                    s.error[l] += w[l] * e * e;
                }
            }
        }
        s
    }

    /// The best real-valued scale of each lane, of either sign.
    #[inline(always)]
    fn scale<V: Levels>(&self) -> [f32; L] {
        let mut extreme = [0.0f32; L];
        for x in &self.x {
            for l in 0..L {
                extreme[l] = if x[l].abs() > extreme[l].abs() { x[l] } else { extreme[l] };
            }
        }
        let mut best = [0.0; L];
        let mut most = [0.0; L];
        // After all starts one round of new codes and new scale: a second one gains less than 0.1 %.
        for start in V::STARTS.iter().map(Some).chain([None]) {
            let from = start.map_or(best, |start| extreme.map(|x| x / start));
            let s = self.scale_sums::<V>(&from);
            for l in 0..L {
                // a = vx/vv lowers the error from Σ w·x² by vx²/vv.
                let a = s.vx[l] / s.vv[l];
                let gain = s.vx[l] * a;
                let better = gain > most[l];
                most[l] = if better { gain } else { most[l] };
                best[l] = if better { a } else { best[l] };
            }
        }
        best
    }
}

/// ggml's reference for one block of 32 with a half for its scale (Q4_0: HALF 8, Q5_0: 16): the scale and the codes. The
/// first element of the largest magnitude becomes −HALF. NaN loses every comparison.
#[inline(always)]
pub(in crate::quant) fn reference<const HALF: u8>(x: &[f32; 32]) -> (F16, [u8; 32]) {
    let mut most = [0.0f32; 8];
    for x in x.chunks_exact(8) {
        for l in 0..8 {
            most[l] = if x[l].abs() > most[l] { x[l].abs() } else { most[l] };
        }
    }
    let most = most.into_iter().fold(0.0, f32::max);
    let extreme = x.iter().copied().find(|v| v.abs() == most).unwrap_or(0.0);
    let half = f32::from(HALF);
    let d = extreme / -half;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let q = x.map(|x| (x * inverse + (half + 0.5)) as u8);
    (F16::new(d), q.map(|q| q.min(2 * HALF - 1)))
}

/// Searches the scales of blocks of 32; `make` packs one from its scale and its codes.
#[inline(always)]
pub(in crate::quant) fn blocks<V: Levels, B>(
    x: &[f32],
    weights: Option<&[f32]>,
    out: &mut [B],
    make: impl Fn(F16, [u8; 32]) -> B,
) {
    for (i, out) in out.chunks_mut(TOGETHER).enumerate() {
        let range = 32 * TOGETHER * i..32 * (TOGETHER * i + out.len());
        let lanes = Lanes::<32, TOGETHER>::new(&x[range.clone()], weights.map(|w| &w[range]), 32);
        let d = lanes.scale::<V>().map(F16::finite);
        for (l, (out, d)) in out.iter_mut().zip(d).enumerate() {
            let inv = inverse(d.get());
            *out = make(d, lanes.x.map(|x| V::code(V::level(x[l] * inv))));
        }
    }
}

/// A super-block of 256 in L sub-blocks of N, whose scales are integers in −S..S times the half: that half, the integers,
/// and the codes in `q`.
#[inline(always)]
pub(in crate::quant) fn super_block<V: Levels, const N: usize, const L: usize>(
    x: &[f32; 256],
    weights: Option<&[f32]>,
    s_limit: f32,
    q: &mut [u8; 256],
) -> (F16, [i8; L]) {
    let lanes = Lanes::<N, L>::new(x, weights, x.len());
    let a = lanes.scale::<V>();
    let extreme = a.into_iter().fold(0.0, |m: f32, a| if a.abs() > m.abs() { a } else { m });
    let enough = ROUNDING * lanes.signal();
    let (mut d, mut s, mut least) = (F16::default(), [0.0; L], f32::INFINITY);
    for k in 0..ROUNDINGS {
        let first = F16::outward(extreme / (k as f32 - s_limit));
        let s_k = integers::<V, N, L>(&lanes, &a, first.get(), s_limit);
        let sums = whole(lanes.scale_sums::<V>(&s_k.map(|s| first.get() * s)));
        let fitted = refit(&sums, &s_k, first);
        let fitted_error = total(&whole(lanes.scale_sums::<V>(&s_k.map(|s| fitted.get() * s)).error));
        for (d_k, error) in [(first, total(&sums.error)), (fitted, fitted_error)] {
            if error < least {
                (d, s, least) = (d_k, s_k, error);
            }
        }
        if least > enough || least == 0.0 {
            break;
        }
    }
    let inv = s.map(|s| inverse(d.get() * s));
    for (i, x) in lanes.x.iter().enumerate() {
        for l in 0..L {
            q[l * N + i] = V::code(V::level(x[l] * inv[l]));
        }
    }
    (d, s.map(|s| s as i8))
}

/// The half that suits the levels of all lanes best: least squares of x ≈ d·(s·v).
#[inline(always)]
fn refit<const L: usize>(sums: &Sums<L>, s: &[f32; L], d: F16) -> F16 {
    let (mut uu, mut ux) = (0.0, 0.0);
    for l in 0..L {
        uu += f64::from(s[l] * s[l]) * f64::from(sums.vv[l]);
        ux += f64::from(s[l]) * f64::from(sums.vx[l]);
    }
    if uu > 0.0 { F16::finite((ux / uu) as f32) } else { d }
}

/// The best integer scale of each lane: the nearest to a/d and its two neighbours, each with codes of its own.
#[inline(always)]
fn integers<V: Levels, const N: usize, const L: usize>(
    lanes: &Lanes<N, L>,
    a: &[f32; L],
    d: f32,
    s_limit: f32,
) -> [f32; L] {
    let inv_d = inverse(d);
    let mut best = [0.0; L];
    let mut least = [f32::INFINITY; L];
    for step in [0.0, -1.0, 1.0] {
        let s = a.map(|a| within(nearest(a * inv_d) + step, -s_limit, s_limit - 1.0));
        let error = whole(lanes.scale_sums::<V>(&s.map(|s| d * s)).error);
        for l in 0..L {
            let better = error[l] < least[l];
            least[l] = if better { error[l] } else { least[l] };
            best[l] = if better { s[l] } else { best[l] };
        }
    }
    best
}
