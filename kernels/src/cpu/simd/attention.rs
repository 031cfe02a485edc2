//! Attention with vectors, in two shapes: tiles of queries (prompts, pictures) and single rows (decoding).
//!
//! **Tiles.** Both products of a head are one small routine when the queries are the lanes: with Q and the output kept
//! transposed, `[d][T]`, for T = 2 vectors of queries,
//! ```text
//! S[key][T]  = Σ_e    K[key][e] · Q[e][T]            8 rows of S (keys) in registers
//! O[e][T]    = Σ_key  V[key][e] · P[key][T]          8 rows of O (elements) in registers
//! ```
//! so each step is two loads, a broadcast from a tile of K or V for each row, and two FMAs for each broadcast. Nothing but
//! Q and O is ever transposed, once for all keys; the softmax runs down the keys, without a sum across lanes; and a
//! query's own limit masks its lane. K and V are widened to f32 once per tile of keys and used by all the queries.
//!
//! **Rows.** One query meets the whole cache: bound by memory. A piece is a few heads, which lie side by side in a row of
//! the cache; while the keys of a tile are read, its values are fetched, and while those are read, the next keys.
//!
//! The softmax runs (arXiv 1805.02867): see [`scalar::attention`]. The departure from it: Q is scaled before the product, not the
//! scores after, one rounding either way; in tiles by log₂e/√d, so that the softmax takes powers of 2.

use super::{
    Job, MAX_LANES, Simd,
    cell::{Cell, F16, F32, Q8_0, no_cell},
    math::{exp, exp2_below},
};
use crate::{
    DType,
    cpu::{MAX_HEAD_DIM, pool, scalar, scalar::HeadRows},
};

/// Queries of a piece: two AVX-512 register tiles, which share the widened K and V.
pub(in crate::cpu) const QUERIES: usize = 64;
/// Keys of a tile: 64 rows of 128 floats are 32 KB, so that K, V, Q and O together stay in the second-level cache.
const KEYS: usize = 64;
/// Keys of a tile of one query: a vector of the widest. So few that a tile is read nearly as it lies in memory, position by
/// position: 64 keys, head by head, made 6.8 GB/s where 16 make 11.2 (one core, 1024 positions of 32 × 128 in F16).
const ROW_KEYS: usize = 16;
/// Most heads of a piece in decoding: 4 KB of each position of an F16 cache, a page.
pub(in crate::cpu) const HEADS: usize = 16;
/// Rows up to which they are taken one by one: for fewer, most lanes of a query tile would be idle.
pub(in crate::cpu) const FEW_ROWS: usize = 4;
/// Floats of scratch for a thread: Q, O, K, V, and the scores of one register tile.
pub(in crate::cpu) const SCRATCH: usize = 2 * (QUERIES + KEYS) * MAX_HEAD_DIM + KEYS * 2 * MAX_LANES;

/// What a masked score is, and the running maximum before the first key: far enough apart that e^(their difference) is 0,
/// and finite, so that no difference is ∞ − ∞.
const MASKED: f32 = f32::MIN;
const NO_MAX: f32 = -1e30;

/// Some queries of one head: `q` and `out` at the same rows and columns of their matrices.
pub(in crate::cpu) struct Queries<'a, 't> {
    pub out: pool::Tile<'t, f32>,
    /// The whole of q, [n, cols].
    pub q: &'a [f32],
    pub cols: usize,
    pub k: HeadRows<'a>,
    pub v: HeadRows<'a>,
    /// How many keys each query sees (≥ 1), [out.rows()].
    pub limits: &'a [usize],
    /// [`SCRATCH`] floats.
    pub scratch: &'a mut [f32],
}

impl Job for Queries<'_, '_> {
    fn scalar(mut self) {
        let (first, col, d) = (self.out.first_row(), self.out.first_col(), self.out.cols());
        for (r, &keys) in self.limits.iter().enumerate() {
            let q = &self.q[(first + r) * self.cols + col..][..d];
            scalar::attention(self.out.row(r), q, self.k, self.v, keys, &mut self.scratch[..d]);
        }
    }

    #[inline(always)]
    fn vector<S: Simd>(self, s: S) {
        match self.k.dtype {
            DType::F32 => self.tiles::<S, F32>(s),
            DType::F16 => self.tiles::<S, F16>(s),
            DType::Q8_0 => self.tiles::<S, Q8_0>(s),
            other => no_cell(other),
        }
    }
}

/// The running softmax of a register tile of queries.
#[derive(Clone, Copy)]
struct Running {
    max: [f32; 2 * MAX_LANES],
    sum: [f32; 2 * MAX_LANES],
    /// Keys that a query sees, as a number to compare lanes with (exact below 2²⁴).
    limit: [f32; 2 * MAX_LANES],
    /// The least and the most of the limits.
    least: usize,
    most: usize,
}

impl Queries<'_, '_> {
    #[inline(always)]
    fn tiles<S: Simd, C: Cell>(mut self, s: S) {
        let d = self.out.cols();
        let t = 2 * S::LANES;
        let padded = d.next_multiple_of(S::LANES);
        let (q, rest) = self.scratch.split_at_mut(QUERIES * d);
        let (o, rest) = rest.split_at_mut(QUERIES * d);
        let (k, rest) = rest.split_at_mut(KEYS * padded);
        let (v, scores) = rest.split_at_mut(KEYS * padded);
        let groups = self.limits.len().div_ceil(t);
        let mut running: [Running; QUERIES / 8] = std::array::from_fn(|g| {
            if g < groups {
                Running::new(&self.limits[g * t..self.limits.len().min((g + 1) * t)])
            } else {
                Running::new(&[1])
            }
        });
        let (first, col) = (self.out.first_row(), self.out.first_col());
        transpose_in(s, &self.q[first * self.cols + col..], self.cols, self.limits.len(), d, q);
        o[..groups * t * d].fill(0.0);
        let keys = running[..groups].iter().map(|r| r.most).max().unwrap_or(0);
        for first in (0..keys).step_by(KEYS) {
            let count = KEYS.min(keys - first);
            widen::<S, C>(s, self.k, first, count, d, k);
            widen::<S, C>(s, self.v, first, count, d, v);
            for (g, running) in running[..groups].iter_mut().enumerate() {
                if running.most <= first {
                    continue;
                }
                let (q, o) = (&q[g * t * d..][..t * d], &mut o[g * t * d..][..t * d]);
                // The last of the keys may be beyond all these queries.
                let count = count.min(running.most - first);
                products(s, S::ROWS, k, (padded, 1), (count, d), q, &mut *scores, None);
                let fade = running.softmax(s, &mut scores[..count * t], first);
                products(s, S::ROWS, v, (1, padded), (d, count), scores, o, Some(fade));
            }
        }
        for (g, running) in running[..groups].iter().enumerate() {
            let o = &mut o[g * t * d..][..t * d];
            running.divide(s, o);
            // K is read no more: its room takes the rows.
            let rows = &mut k[..t * padded];
            for lane in (0..t).step_by(S::LANES) {
                for e in (0..d / S::LANES * S::LANES).step_by(S::LANES) {
                    let (o, rows) = (&o[e * t + lane..], &mut rows[lane * padded + e..]);
                    assert!(o.len() >= (S::LANES - 1) * t + S::LANES);
                    assert!(rows.len() >= (S::LANES - 1) * padded + S::LANES);
                    // SAFETY: by the asserts.
                    unsafe { s.transpose(o.as_ptr(), t, rows.as_mut_ptr(), padded) };
                }
            }
            for (lane, row) in rows.chunks_exact_mut(padded).enumerate() {
                for e in d / S::LANES * S::LANES..d {
                    row[e] = o[e * t + lane];
                }
            }
            for (r, row) in (g * t..self.limits.len()).zip(rows.chunks_exact(padded)) {
                self.out.row(r).copy_from_slice(&row[..d]);
            }
        }
    }
}

/// Q of `rows` rows to `[group][d][t]`, times log₂e/√d; the lanes of rows that are not there are zeros.
#[inline(always)]
fn transpose_in<S: Simd>(s: S, q: &[f32], cols: usize, rows: usize, d: usize, to: &mut [f32]) {
    let t = 2 * S::LANES;
    let scale = std::f32::consts::LOG2_E / (d as f32).sqrt();
    let mut r = 0;
    while r < rows.next_multiple_of(t) {
        let to = &mut to[r / t * t * d..][..t * d];
        let whole = if r + S::LANES <= rows { d / S::LANES * S::LANES } else { 0 };
        for e in (0..whole).step_by(S::LANES) {
            let (q, to) = (&q[r * cols + e..][..(S::LANES - 1) * cols + S::LANES], &mut to[e * t + r % t..]);
            assert!(to.len() >= (S::LANES - 1) * t + S::LANES);
            // SAFETY: the last row's last element is within each.
            unsafe { s.transpose(q.as_ptr(), cols, to.as_mut_ptr(), t) };
        }
        for lane in r..r + S::LANES {
            for e in whole..d {
                to[e * t + lane % t] = if lane < rows { q[lane * cols + e] } else { 0.0 };
            }
        }
        r += S::LANES;
    }
    for q in to[..rows.next_multiple_of(t) * d].chunks_exact_mut(S::LANES) {
        let scaled = s.mul(s.load(q), s.splat(scale));
        s.store(scaled, q);
    }
}

/// `count` rows of a head from position `first` to f32, each padded with zeros to whole vectors; meanwhile asks for the rows of the next tile, which
/// lie pages apart.
#[inline(always)]
fn widen<S: Simd, C: Cell>(s: S, from: HeadRows<'_>, first: usize, count: usize, d: usize, to: &mut [f32]) {
    let whole = d / S::LANES * S::LANES;
    for (j, to) in to.chunks_exact_mut(d.next_multiple_of(S::LANES)).take(count).enumerate() {
        fetch(s, &from, first + KEYS + j);
        let row = from.row(first + j);
        for i in (0..whole).step_by(S::LANES) {
            // SAFETY: the row has d elements, and i + LANES ≤ d.
            s.store(unsafe { C::load(s, row.as_ptr(), i) }, &mut to[i..]);
        }
        if whole < d {
            s.store(C::load_tail(s, row, whole, d), &mut to[whole..]);
        }
    }
}

/// `c[row][T] = fade·c[row][T] + Σ_step a[row·stride + step·pace]·b[step][T]` for (rows, steps); without `fade`, c is not read.
#[inline(always)]
#[allow(
    clippy::too_many_arguments,
    reason = "a matrix product has as many: three matrices, two shapes, two strides"
)]
fn products<S: Simd>(
    s: S,
    tile: usize,
    a: &[f32],
    (stride, pace): (usize, usize),
    (rows, steps): (usize, usize),
    b: &[f32],
    c: &mut [f32],
    fade: Option<[S::V; 2]>,
) {
    let t = 2 * S::LANES;
    assert!(rows > 0 && steps > 0 && a.len() > (rows - 1) * stride + (steps - 1) * pace);
    assert!(b.len() >= steps * t && c.len() >= rows * t);
    let mut row = 0;
    while row < rows {
        let left = rows - row;
        // SAFETY: rows `row..row + R` are within `rows`, for which the asserts hold.
        unsafe {
            let (a, b, c) = (a.as_ptr().add(row * stride), b.as_ptr(), c.as_mut_ptr().add(row * t));
            row += match tile.min(left) {
                8.. => product::<S, 8>(s, a, (stride, pace), steps, b, c, fade),
                6.. => product::<S, 6>(s, a, (stride, pace), steps, b, c, fade),
                4.. => product::<S, 4>(s, a, (stride, pace), steps, b, c, fade),
                2.. => product::<S, 2>(s, a, (stride, pace), steps, b, c, fade),
                _ => product::<S, 1>(s, a, (stride, pace), steps, b, c, fade),
            };
        }
    }
}

/// R rows of [`products`]; returns R.
///
/// # Safety
/// The pointers are valid for R rows, `steps` steps and T = 2·LANES columns.
#[inline(always)]
unsafe fn product<S: Simd, const R: usize>(
    s: S,
    a: *const f32,
    (stride, pace): (usize, usize),
    steps: usize,
    b: *const f32,
    c: *mut f32,
    fade: Option<[S::V; 2]>,
) -> usize {
    let t = 2 * S::LANES;
    let mut sums = [[s.splat(0.0); 2]; R];
    // SAFETY: row < R, step < steps, and both vectors of a row of T columns: valid by the caller's promise.
    unsafe {
        if let Some(fade) = fade {
            for (row, sums) in sums.iter_mut().enumerate() {
                sums[0] = s.mul(s.load_ptr(c.add(row * t)), fade[0]);
                sums[1] = s.mul(s.load_ptr(c.add(row * t + S::LANES)), fade[1]);
            }
        }
        for step in 0..steps {
            let (low, high) = (s.load_ptr(b.add(step * t)), s.load_ptr(b.add(step * t + S::LANES)));
            for (row, sums) in sums.iter_mut().enumerate() {
                let a = s.splat(*a.add(row * stride + step * pace));
                sums[0] = s.fma(a, low, sums[0]);
                sums[1] = s.fma(a, high, sums[1]);
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            s.store_ptr(sums[0], c.add(row * t));
            s.store_ptr(sums[1], c.add(row * t + S::LANES));
        }
    }
    R
}

impl Running {
    /// Before the first key, for queries that see so many; the lanes after them see one.
    fn new(limits: &[usize]) -> Self {
        let mut limit = [1.0; 2 * MAX_LANES];
        limit.iter_mut().zip(limits).for_each(|(to, l)| *to = *l as f32);
        let least = limits.iter().copied().min().unwrap_or(1);
        let most = limits.iter().copied().max().unwrap_or(1);
        Self { max: [NO_MAX; 2 * MAX_LANES], sum: [0.0; 2 * MAX_LANES], limit, least, most }
    }

    /// Divides the outputs `[d][T]` by the sums.
    #[inline(always)]
    fn divide<S: Simd>(&self, s: S, o: &mut [f32]) {
        let inverse = [0, S::LANES].map(|lane| s.div(s.splat(1.0), s.load(&self.sum[lane..])));
        for o in o.chunks_exact_mut(2 * S::LANES) {
            for (half, inverse) in inverse.iter().enumerate() {
                let mean = s.mul(s.load(&o[half * S::LANES..]), *inverse);
                s.store(mean, &mut o[half * S::LANES..]);
            }
        }
    }

    /// Turns `scores`, `[keys][T]` from key `first` on and in powers of 2, into 2^(score − maximum), and returns what the sums so far are to be
    /// multiplied by.
    #[inline(always)]
    fn softmax<S: Simd>(&mut self, s: S, scores: &mut [f32], first: usize) -> [S::V; 2] {
        let t = 2 * S::LANES;
        let masked = self.least < first + scores.len() / t;
        let mut fades = [s.splat(1.0); 2];
        for (half, fade) in fades.iter_mut().enumerate() {
            let lanes = half * S::LANES..(half + 1) * S::LANES;
            let limit = s.load(&self.limit[lanes.clone()]);
            let old = s.load(&self.max[lanes.clone()]);
            let mut max = old;
            for (j, row) in scores.chunks_exact_mut(t).enumerate() {
                let mut score = s.load(&row[lanes.clone()]);
                if masked {
                    score = s.if_less(s.splat((first + j) as f32), limit, score, s.splat(MASKED));
                    s.store(score, &mut row[lanes.clone()]);
                }
                max = s.max(max, score);
            }
            *fade = exp2_below(s, s.sub(old, max));
            let mut sum = s.mul(s.load(&self.sum[lanes.clone()]), *fade);
            for row in scores.chunks_exact_mut(t) {
                let p = exp2_below(s, s.sub(s.load(&row[lanes.clone()]), max));
                s.store(p, &mut row[lanes.clone()]);
                sum = s.add(sum, p);
            }
            s.store(max, &mut self.max[lanes.clone()]);
            s.store(sum, &mut self.sum[lanes]);
        }
        fades
    }
}

/// Some heads of one query, at most [`HEADS`].
pub(in crate::cpu) struct Heads<'a> {
    /// [heads·d].
    pub out: &'a mut [f32],
    /// [heads·d].
    pub q: &'a [f32],
    pub d: usize,
    /// The keys and the values of every head.
    pub kv: &'a [(HeadRows<'a>, HeadRows<'a>)],
    /// How many keys the query sees (≥ 1).
    pub keys: usize,
    /// [`SCRATCH`] floats.
    pub scratch: &'a mut [f32],
}

impl Job for Heads<'_> {
    fn scalar(self) {
        let d = self.d;
        for ((out, q), (k, v)) in self.out.chunks_exact_mut(d).zip(self.q.chunks_exact(d)).zip(self.kv) {
            scalar::attention(out, q, *k, *v, self.keys, &mut self.scratch[..d]);
        }
    }

    #[inline(always)]
    fn vector<S: Simd>(self, s: S) {
        match self.kv[0].0.dtype {
            DType::F32 => self.rows::<S, F32>(s),
            DType::F16 => self.rows::<S, F16>(s),
            DType::Q8_0 => self.rows::<S, Q8_0>(s),
            other => no_cell(other),
        }
    }
}

impl Heads<'_> {
    #[inline(always)]
    fn rows<S: Simd, C: Cell>(self, s: S) {
        let d = self.d;
        let scale = 1.0 / (d as f32).sqrt();
        let (mut max, mut sum) = ([NO_MAX; HEADS], [0.0f32; HEADS]);
        self.out.fill(0.0);
        for first in (0..self.keys).step_by(ROW_KEYS) {
            let count = ROW_KEYS.min(self.keys - first);
            for (head, (k, v)) in self.kv.iter().enumerate() {
                let (q, out) = (&self.q[head * d..][..d], &mut self.out[head * d..][..d]);
                // Lanes after the last key weigh nothing.
                let mut scores = [MASKED; ROW_KEYS];
                let mut top = max[head];
                for (j, score) in scores[..count].iter_mut().enumerate() {
                    fetch(s, v, first + j);
                    *score = dot::<S, C>(s, q, k.row(first + j)) * scale;
                    top = top.max(*score);
                }
                let fade = (max[head] - top).exp();
                let mut total = s.splat(0.0);
                for scores in scores.chunks_exact_mut(S::LANES) {
                    let p = exp(s, s.sub(s.load(scores), s.splat(top)));
                    s.store(p, scores);
                    total = s.add(total, p);
                }
                (max[head], sum[head]) = (top, sum[head] * fade + s.sum(total));
                let next =
                    self.kv.get(head + 1).map_or((self.kv[0].0, first + ROW_KEYS), |(k, _)| (*k, first));
                accumulate::<S, C>(s, &scores[..count], *v, first, next, fade, out);
            }
        }
        for (out, sum) in self.out.chunks_exact_mut(d).zip(sum) {
            let inverse = 1.0 / sum;
            out.iter_mut().for_each(|o| *o *= inverse);
        }
    }
}

/// Asks for a head's row at `position`, which may lie beyond the cache.
#[inline(always)]
fn fetch<S: Simd>(s: S, rows: &HeadRows<'_>, position: usize) {
    let row = rows.bytes.as_ptr().wrapping_add(position * rows.stride + rows.offset);
    // 64 bytes are a line on every chip that has these instructions.
    for line in (0..rows.width).step_by(64) {
        s.prefetch(row.wrapping_add(line));
    }
}

/// Σ qᵢ·rowᵢ.
#[inline(always)]
fn dot<S: Simd, C: Cell>(s: S, q: &[f32], row: &[u8]) -> f32 {
    let d = q.len();
    let mut parts = [s.splat(0.0); 4];
    let mut i = 0;
    // SAFETY: q and the row have d elements, and none is read from d on.
    unsafe {
        while i + 4 * S::LANES <= d {
            for (n, part) in parts.iter_mut().enumerate() {
                let i = i + n * S::LANES;
                *part = s.fma(s.load_ptr(q.as_ptr().add(i)), C::load(s, row.as_ptr(), i), *part);
            }
            i += 4 * S::LANES;
        }
        while i + S::LANES <= d {
            parts[0] = s.fma(s.load_ptr(q.as_ptr().add(i)), C::load(s, row.as_ptr(), i), parts[0]);
            i += S::LANES;
        }
    }
    if i < d {
        parts[0] = s.fma(s.load_part(&q[i..]), C::load_tail(s, row, i, d), parts[0]);
    }
    s.sum(s.add(s.add(parts[0], parts[1]), s.add(parts[2], parts[3])))
}

/// `out = fade·out + Σ_j weights[j]·v[first + j]`; meanwhile asks for the rows of `next`.
#[inline(always)]
fn accumulate<S: Simd, C: Cell>(
    s: S,
    weights: &[f32],
    v: HeadRows<'_>,
    first: usize,
    next: (HeadRows<'_>, usize),
    fade: f32,
    out: &mut [f32],
) {
    let d = out.len();
    let mut i = 0;
    let mut next = Some(next);
    while i + S::LANES <= d {
        let place = (first, i);
        i += match (d - i) / S::LANES {
            8.. => columns::<S, C, 8>(s, weights, v, place, next.take(), fade, &mut out[i..]),
            4.. => columns::<S, C, 4>(s, weights, v, place, next.take(), fade, &mut out[i..]),
            2.. => columns::<S, C, 2>(s, weights, v, place, next.take(), fade, &mut out[i..]),
            _ => columns::<S, C, 1>(s, weights, v, place, next.take(), fade, &mut out[i..]),
        };
    }
    if i < d {
        let mut sum = s.mul(s.load_part(&out[i..]), s.splat(fade));
        for (j, w) in weights.iter().enumerate() {
            sum = s.fma(s.splat(*w), C::load_tail(s, v.row(first + j), i, d), sum);
        }
        s.store_part(sum, &mut out[i..]);
    }
}

/// N vectors of [`accumulate`] from column `i` on, kept in registers; returns their columns.
#[inline(always)]
fn columns<S: Simd, C: Cell, const N: usize>(
    s: S,
    weights: &[f32],
    v: HeadRows<'_>,
    (first, i): (usize, usize),
    next: Option<(HeadRows<'_>, usize)>,
    fade: f32,
    out: &mut [f32],
) -> usize {
    let mut sums = [s.splat(fade); N];
    for (n, sum) in sums.iter_mut().enumerate() {
        *sum = s.mul(*sum, s.load(&out[n * S::LANES..]));
    }
    for (j, w) in weights.iter().enumerate() {
        if let Some((next, from)) = &next {
            fetch(s, next, from + j);
        }
        let (row, w) = (v.row(first + j), s.splat(*w));
        for (n, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the row has d elements, and `accumulate` takes N vectors only where d has them from i on.
            *sum = s.fma(w, unsafe { C::load(s, row.as_ptr(), i + n * S::LANES) }, *sum);
        }
    }
    for (n, sum) in sums.iter().enumerate() {
        s.store(*sum, &mut out[n * S::LANES..]);
    }
    N * S::LANES
}
