//! Scale and minimum: x ≈ a·q + c with codes q in 0..=QMAX. Q4_K and Q5_K, and Q4_1 and Q5_1 under importances.
//!
//! In a super-block a = d·s and c = −dmin·m with 6-bit integers s, m ≥ 0, so c cannot be positive.

use super::{Lanes, Moments, ROUNDING, ROUNDINGS, TOGETHER, inverse, nearest, total, whole, within};
use crate::quant::F16;

/// Where the search of a line starts: how many steps of the scale lie beyond the first and the last code, and so are
/// clipped, at the bottom and at the top. Negative: the codes reach beyond the elements.
///
/// Chosen greedily from a grid of 196 by the error on normal, Student-t3 and outlier-ridden blocks. With one round of
/// refinement these 8 come within 0.8 % (4 bits) and 0.9 % (5 bits) of the rmse of the whole grid; 12 would gain 0.4 % more.
const STARTS: [(f32, f32); 8] =
    [(0.2, 0.2), (-0.2, 0.4), (0.4, -0.2), (0.0, 0.0), (-0.6, 0.2), (0.2, -0.6), (0.4, 0.0), (0.0, 0.4)];

/// The least variance of the codes, relative to their mean square, that determines a line. One code of 14 among thirty-one
/// of 15 gives 1.4e-4, one of 30 among 31 gives 3e-5; f32 sums of 32 equal codes give up to about 1e-6.
const LEAST_VARIANCE: f32 = 1e-5;

/// The largest integer of a sub-block's scale and minimum.
const S_MAX: f32 = 63.0;

/// A super-block of Q4_K or Q5_K before packing.
pub(in crate::quant) struct SuperBlock {
    /// Scale of the scales.
    pub d: F16,
    /// Scale of the minima.
    pub dmin: F16,
    /// Scales of the sub-blocks, 0..=63.
    pub scales: [u8; 8],
    /// Minima of the sub-blocks, 0..=63.
    pub mins: [u8; 8],
    /// Codes.
    pub q: [u8; 256],
}

/// One line per lane.
#[derive(Clone, Copy)]
struct Line<const L: usize> {
    a: [f32; L],
    c: [f32; L],
}

/// Σ w·q, Σ w·q², Σ w·q·x and Σ w·(x − a·q − c)² of each lane for the codes nearest to a line.
struct Sums<const L: usize> {
    q: [f32; L],
    qq: [f32; L],
    qx: [f32; L],
    error: [f32; L],
}

/// The code of `x` on the line.
#[inline(always)]
fn code(x: f32, inverse: f32, c: f32, qmax: f32) -> f32 {
    nearest(within((x - c) * inverse, 0.0, qmax))
}

impl<const N: usize, const L: usize> Lanes<N, L> {
    #[inline(always)]
    fn affine_sums(&self, line: &Line<L>, qmax: f32) -> Sums<L> {
        let mut s = Sums { q: [0.0; L], qq: [0.0; L], qx: [0.0; L], error: [0.0; L] };
        let inv = line.a.map(inverse);
        for (x, w) in self.x.iter().zip(&self.w) {
            for l in 0..L {
                let q = code(x[l], inv[l], line.c[l], qmax);
                let wq = w[l] * q;
                let e = x[l] - line.a[l] * q - line.c[l];
                s.q[l] += wq;
                s.qq[l] += wq * q;
                s.qx[l] += wq * x[l];
                s.error[l] += w[l] * e * e;
            }
        }
        s
    }

    /// The best real-valued line of each lane, with c ≤ `c_max`.
    #[inline(always)]
    fn affine(&self, qmax: f32, c_max: f32) -> Line<L> {
        let (mut low, mut high) = (self.x[0], self.x[0]);
        for x in &self.x {
            for l in 0..L {
                low[l] = if x[l] < low[l] { x[l] } else { low[l] };
                high[l] = if x[l] > high[l] { x[l] } else { high[l] };
            }
        }
        low = low.map(|v| if v < c_max { v } else { c_max });
        let mut search = Search::new(self, &low, c_max);
        for (bottom, top) in STARTS {
            let mut start = Line { a: [0.0; L], c: [0.0; L] };
            for l in 0..L {
                start.a[l] = (high[l] - low[l]) / (qmax + bottom + top);
                start.c[l] = bottom * start.a[l];
            }
            search.consider(&start, qmax);
        }
        // One round of new codes and new line: a second one gains 0.1 %.
        let mut best = search.best;
        search.consider(&best, qmax);
        for l in 0..L {
            best.a[l] = search.best.a[l];
            best.c[l] = search.best.c[l] + low[l];
        }
        best
    }
}

/// The best line so far for y = x − low: near the origin, sums of squares cancel less.
struct Search<const N: usize, const L: usize> {
    y: Lanes<N, L>,
    /// Σ w and Σ w·y.
    moments: Moments<L>,
    /// The largest c.
    limit: [f32; L],
    best: Line<L>,
    /// How far the best line lowers the error below Σ w·y².
    gain: [f32; L],
}

impl<const N: usize, const L: usize> Search<N, L> {
    /// Starts from a = 0, every element on c.
    #[inline(always)]
    fn new(lanes: &Lanes<N, L>, low: &[f32; L], c_max: f32) -> Self {
        let mut y = Lanes { x: lanes.x, w: lanes.w };
        for y in &mut y.x {
            for l in 0..L {
                y[l] -= low[l];
            }
        }
        let limit = low.map(|low| c_max - low);
        let moments = y.moments();
        let mut best = Line { a: [0.0; L], c: [0.0; L] };
        let mut gain = [0.0; L];
        for l in 0..L {
            let mean = moments.x[l] / moments.w[l];
            best.c[l] = if mean < limit[l] { mean } else { limit[l] };
            gain[l] = best.c[l] * (2.0 * moments.x[l] - best.c[l] * moments.w[l]);
        }
        Self { y, moments, limit, best, gain }
    }

    /// Takes the codes of `start`, solves for the line that suits them, and keeps it in the lanes where it is better.
    #[inline(always)]
    fn consider(&mut self, start: &Line<L>, qmax: f32) {
        let s = self.y.affine_sums(start, qmax);
        for l in 0..L {
            let (w, y, limit) = (self.moments.w[l], self.moments.x[l], self.limit[l]);
            let det = w * s.qq[l] - s.q[l] * s.q[l];
            let a = (w * s.qx[l] - s.q[l] * y) / det;
            let c = (y - a * s.q[l]) / w;
            // Σ w·Σ w·q² − (Σ w·q)² of codes that are all one is rounding noise; then c stays at 0 where it may. That, or the
            // bound, leaves a alone to solve for.
            let determined = det > LEAST_VARIANCE * w * s.qq[l];
            let free = determined && c <= limit;
            let held = if determined || limit < 0.0 { limit } else { 0.0 };
            let c = if free { c } else { held };
            let a = if free { a } else { (s.qx[l] - c * s.q[l]) / s.qq[l] };
            let gain = 2.0 * (a * s.qx[l] + c * y) - a * a * s.qq[l] - 2.0 * a * c * s.q[l] - c * c * w;
            let better = gain > self.gain[l] && a > 0.0;
            self.gain[l] = if better { gain } else { self.gain[l] };
            self.best.a[l] = if better { a } else { self.best.a[l] };
            self.best.c[l] = if better { c } else { self.best.c[l] };
        }
    }
}

/// ggml's reference for one block of 32 with a half each for scale and minimum (Q4_1: QMAX 15, Q5_1: 31): d, m and the codes.
/// NaN loses every comparison.
#[inline(always)]
pub(in crate::quant) fn reference<const QMAX: u8>(x: &[f32; 32]) -> (F16, F16, [u8; 32]) {
    let low = x.iter().fold(x[0], |m, &v| if v < m { v } else { m });
    let high = x.iter().fold(x[0], |m, &v| if v > m { v } else { m });
    let d = (high - low) / f32::from(QMAX);
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let q = x.map(|x| ((x - low) * inverse + 0.5) as u8);
    (F16::new(d), F16::new(low), q.map(|q| q.min(QMAX)))
}

/// Searches the lines of blocks of 32; `make` packs one from d, m and its codes.
#[inline(always)]
pub(in crate::quant) fn blocks<const QMAX: u8, B>(
    x: &[f32],
    weights: &[f32],
    out: &mut [B],
    make: impl Fn(F16, F16, [u8; 32]) -> B,
) {
    let qmax = f32::from(QMAX);
    for (i, out) in out.chunks_mut(TOGETHER).enumerate() {
        let range = 32 * TOGETHER * i..32 * (TOGETHER * i + out.len());
        let lanes = Lanes::<32, TOGETHER>::new(&x[range.clone()], Some(&weights[range]), 32);
        let line = lanes.affine(qmax, f32::MAX);
        for (l, out) in out.iter_mut().enumerate() {
            let (d, m) = (F16::finite(line.a[l]), F16::finite(line.c[l]));
            let (inv, c) = (inverse(d.get()), m.get());
            *out = make(d, m, lanes.x.map(|x| code(x[l], inv, c, qmax) as u8));
        }
    }
}

/// Integer scales and minima of the lanes.
#[derive(Clone, Copy)]
struct Integers<const L: usize> {
    s: [f32; L],
    m: [f32; L],
}

/// A super-block of 256 in 8 sub-blocks (Q4_K: QMAX 15, Q5_K: 31).
#[inline(always)]
pub(in crate::quant) fn super_block<const QMAX: u8>(x: &[f32; 256], weights: Option<&[f32]>) -> SuperBlock {
    const L: usize = 8;
    let qmax = f32::from(QMAX);
    let lanes = Lanes::<32, L>::new(x, weights, x.len());
    let line = lanes.affine(qmax, 0.0);
    let most = |v: [f32; L]| v.into_iter().fold(0.0, |m: f32, v| if v > m { v } else { m });
    let (a_max, b_max) = (most(line.a), most(line.c.map(|c| -c)));
    let moments = lanes.moments();
    let enough = ROUNDING * lanes.signal();
    let (mut d, mut dmin) = (F16::default(), F16::default());
    let (mut best, mut least) = (Integers { s: [0.0; L], m: [0.0; L] }, f32::INFINITY);
    for k in 0..ROUNDINGS {
        let most = S_MAX - k as f32;
        let first = (F16::outward(a_max / most), F16::outward(b_max / most));
        let integers = integers(&lanes, &moments, &line, (first.0.get(), first.1.get()), qmax);
        let sums = whole(lanes.affine_sums(&integers.line(first.0.get(), first.1.get()), qmax));
        let fitted = refit(&moments, &sums, &integers, first);
        let line = integers.line(fitted.0.get(), fitted.1.get());
        let fitted_error = total(&whole(lanes.affine_sums(&line, qmax).error));
        for (halves, error) in [(first, total(&sums.error)), (fitted, fitted_error)] {
            if error < least {
                ((d, dmin), best, least) = (halves, integers, error);
            }
        }
        if least > enough || least == 0.0 {
            break;
        }
    }
    let line = best.line(d.get(), dmin.get());
    let inv = line.a.map(inverse);
    let mut q = [0; 256];
    for (i, x) in lanes.x.iter().enumerate() {
        for l in 0..L {
            q[l * 32 + i] = code(x[l], inv[l], line.c[l], qmax) as u8;
        }
    }
    SuperBlock { d, dmin, scales: best.s.map(|s| s as u8), mins: best.m.map(|m| m as u8), q }
}

impl<const L: usize> Integers<L> {
    #[inline(always)]
    fn line(&self, d: f32, dmin: f32) -> Line<L> {
        Line { a: self.s.map(|s| d * s), c: self.m.map(|m| -(dmin * m)) }
    }
}

/// The best integers of each lane near `line`: the scale and its two neighbours, each with the minimum that suits it.
#[inline(always)]
fn integers<const L: usize>(
    lanes: &Lanes<32, L>,
    moments: &Moments<L>,
    line: &Line<L>,
    (d, dmin): (f32, f32),
    qmax: f32,
) -> Integers<L> {
    let (inv_d, inv_dmin) = (inverse(d), inverse(dmin));
    // A least-squares line passes through the means. The lines of the other scales turn about that point.
    let (mut mean_x, mut mean_q) = ([0.0; L], [0.0; L]);
    for l in 0..L {
        mean_x[l] = moments.x[l] / moments.w[l];
        mean_q[l] = (mean_x[l] - line.c[l]) * inverse(line.a[l]);
    }
    let mut best = Integers { s: [0.0; L], m: [0.0; L] };
    let mut least = [f32::INFINITY; L];
    for step in [0.0, -1.0, 1.0] {
        let mut near = Integers { s: [0.0; L], m: [0.0; L] };
        for l in 0..L {
            near.s[l] = within(nearest(line.a[l] * inv_d) + step, 0.0, S_MAX);
            let c = mean_x[l] - d * near.s[l] * mean_q[l];
            near.m[l] = nearest(within(-c * inv_dmin, 0.0, S_MAX));
        }
        let error = whole(lanes.affine_sums(&near.line(d, dmin), qmax).error);
        for l in 0..L {
            let better = error[l] < least[l];
            least[l] = if better { error[l] } else { least[l] };
            best.s[l] = if better { near.s[l] } else { best.s[l] };
            best.m[l] = if better { near.m[l] } else { best.m[l] };
        }
    }
    best
}

/// The halves that suit the codes of all lanes best: least squares of x ≈ d·(s·q) − dmin·m.
#[inline(always)]
fn refit<const L: usize>(
    moments: &Moments<L>,
    s: &Sums<L>,
    best: &Integers<L>,
    (d, dmin): (F16, F16),
) -> (F16, F16) {
    let (mut uu, mut uv, mut vv, mut ux, mut vx) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for l in 0..L {
        uu += f64::from(best.s[l] * best.s[l]) * f64::from(s.qq[l]);
        uv -= f64::from(best.s[l] * best.m[l]) * f64::from(s.q[l]);
        vv += f64::from(best.m[l] * best.m[l]) * f64::from(moments.w[l]);
        ux += f64::from(best.s[l]) * f64::from(s.qx[l]);
        vx -= f64::from(best.m[l]) * f64::from(moments.x[l]);
    }
    let det = uu * vv - uv * uv;
    // Where the two are (nearly) parallel, or one is absent, the scale alone is fitted.
    if det > 1e-9 * uu * vv {
        let fitted = ((vv * ux - uv * vx) / det, (uu * vx - uv * ux) / det);
        if fitted.0 > 0.0 && fitted.1 > 0.0 {
            return (F16::finite(fitted.0 as f32), F16::finite(fitted.1 as f32));
        }
    }
    let rest = ux - uv * f64::from(dmin.get());
    if uu > 0.0 && rest > 0.0 { (F16::finite((rest / uu) as f32), dmin) } else { (d, dmin) }
}
