//! Norms, RoPE, activations and sums: each op as a [`Job`], whose two methods are the specification and the vector path.
//!
//! Sums run in f32 in 4 vectors of LANES partial sums, so that a sum of k terms errs by at most (k/(4·LANES) + 7)·ε/2 of the
//! sum of their magnitudes: 1e-6 for the widest row of LLaMA on the narrowest vector. f64 would halve the speed for
//! digits that the f32 around it throws away.

use super::{
    Job, Simd,
    math::{erf, exp, sigmoid},
};
use crate::{Gelu, cpu::scalar};

/// Partial vectors of a sum: FMA takes 4 cycles and there are at least 2 a cycle to start, memory sets the rest.
const PARTS: usize = 4;

/// Σ f(x) over a row; `f` gets vectors padded with zeros and how many of their lanes are real.
#[inline(always)]
fn sum<S: Simd>(s: S, x: &[f32], step: impl Fn(S::V, S::V) -> S::V) -> f32 {
    let mut parts = [s.splat(0.0); PARTS];
    let mut wide = x.chunks_exact(PARTS * S::LANES);
    for x in &mut wide {
        for (part, x) in parts.iter_mut().zip(x.chunks_exact(S::LANES)) {
            *part = step(s.load(x), *part);
        }
    }
    let mut narrow = wide.remainder().chunks_exact(S::LANES);
    for x in &mut narrow {
        parts[0] = step(s.load(x), parts[0]);
    }
    let total = s.add(s.add(parts[0], parts[1]), s.add(parts[2], parts[3]));
    // The last elements on their own, so that a step need not map 0 to 0.
    let tail = narrow.remainder();
    let mut rest = 0.0;
    if !tail.is_empty() {
        let mut last = [0.0; super::MAX_LANES];
        s.store(step(s.load_part(tail), s.splat(0.0)), &mut last);
        rest = last[..tail.len()].iter().sum();
    }
    s.sum(total) + rest
}

/// dst = f(vectors of the sources, at the same place), for all of dst.
#[inline(always)]
fn map<S: Simd, const N: usize>(s: S, dst: &mut [f32], from: [&[f32]; N], f: impl Fn([S::V; N]) -> S::V) {
    let whole = dst.len() / S::LANES * S::LANES;
    for i in (0..whole).step_by(S::LANES) {
        let v = f(from.map(|x| s.load(&x[i..i + S::LANES])));
        s.store(v, &mut dst[i..i + S::LANES]);
    }
    if whole < dst.len() {
        let len = dst.len();
        let v = f(from.map(|x| s.load_part(&x[whole..len])));
        s.store_part(v, &mut dst[whole..]);
    }
}

/// dst = f(dst, x).
#[inline(always)]
fn update<S: Simd, const N: usize>(
    s: S,
    dst: &mut [f32],
    from: [&[f32]; N],
    f: impl Fn(S::V, [S::V; N]) -> S::V,
) {
    let whole = dst.len() / S::LANES * S::LANES;
    for i in (0..whole).step_by(S::LANES) {
        let v = f(s.load(&dst[i..i + S::LANES]), from.map(|x| s.load(&x[i..i + S::LANES])));
        s.store(v, &mut dst[i..i + S::LANES]);
    }
    if whole < dst.len() {
        let len = dst.len();
        let v = f(s.load_part(&dst[whole..]), from.map(|x| s.load_part(&x[whole..len])));
        s.store_part(v, &mut dst[whole..]);
    }
}

/// [`scalar::rms_norm`].
pub(in crate::cpu) struct RmsNorm<'a> {
    pub dst: &'a mut [f32],
    pub x: &'a [f32],
    pub weight: &'a [f32],
    pub eps: f32,
}

impl Job for RmsNorm<'_> {
    fn scalar(self) {
        scalar::rms_norm(self.dst, self.x, self.weight, self.eps);
    }

    #[inline(always)]
    fn vector<S: Simd>(self, s: S) {
        let k = self.weight.len();
        for (dst, x) in self.dst.chunks_exact_mut(k).zip(self.x.chunks_exact(k)) {
            let squares = sum(s, x, |x, part| s.fma(x, x, part));
            let scale = s.splat(1.0 / (squares / k as f32 + self.eps).sqrt());
            map(s, dst, [x, self.weight], |[x, w]| s.mul(s.mul(x, scale), w));
        }
    }
}

/// [`scalar::layer_norm`].
pub(in crate::cpu) struct LayerNorm<'a> {
    pub dst: &'a mut [f32],
    pub x: &'a [f32],
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    pub eps: f32,
}

impl Job for LayerNorm<'_> {
    fn scalar(self) {
        scalar::layer_norm(self.dst, self.x, self.weight, self.bias, self.eps);
    }

    #[inline(always)]
    fn vector<S: Simd>(self, s: S) {
        let k = self.weight.len();
        for (dst, x) in self.dst.chunks_exact_mut(k).zip(self.x.chunks_exact(k)) {
            let mean = s.splat(sum(s, x, |x, part| s.add(x, part)) / k as f32);
            let squares = sum(s, x, |x, part| {
                let x = s.sub(x, mean);
                s.fma(x, x, part)
            });
            let scale = s.splat(1.0 / (squares / k as f32 + self.eps).sqrt());
            map(s, dst, [x, self.weight, self.bias], |[x, w, b]| s.fma(s.mul(s.sub(x, mean), scale), w, b));
        }
    }
}

/// [`scalar::rope`].
pub(in crate::cpu) struct Rope<'a> {
    pub row: &'a mut [f32],
    pub turns: &'a [[f32; 2]],
    pub head_dim: usize,
}

impl Job for Rope<'_> {
    fn scalar(self) {
        scalar::rope(self.row, self.turns, self.head_dim);
    }

    #[inline(always)]
    fn vector<S: Simd>(self, s: S) {
        let turns: &[f32] = self.turns.as_flattened();
        for head in self.row.chunks_exact_mut(self.head_dim) {
            update(s, &mut head[..turns.len()], [turns], |x, [turn]| s.rotate(x, turn));
        }
    }
}

/// [`scalar::swiglu`].
pub(in crate::cpu) struct SwiGlu<'a> {
    pub gate: &'a mut [f32],
    pub up: &'a [f32],
}

impl Job for SwiGlu<'_> {
    fn scalar(self) {
        scalar::swiglu(self.gate, self.up);
    }

    #[inline(always)]
    fn vector<S: Simd>(self, s: S) {
        update(s, self.gate, [self.up], |g, [u]| s.mul(s.mul(g, sigmoid(s, g)), u));
    }
}

/// [`scalar::gelu`].
pub(in crate::cpu) struct GeluOf<'a> {
    pub x: &'a mut [f32],
    pub kind: Gelu,
}

impl Job for GeluOf<'_> {
    fn scalar(self) {
        scalar::gelu(self.x, self.kind);
    }

    #[inline(always)]
    fn vector<S: Simd>(self, s: S) {
        let (half, one) = (s.splat(0.5), s.splat(1.0));
        match self.kind {
            Gelu::Erf => update(s, self.x, [], |x, []| {
                let phi = s.add(one, erf(s, s.mul(x, s.splat(std::f32::consts::FRAC_1_SQRT_2))));
                s.mul(s.mul(x, half), phi)
            }),
            Gelu::Quick => update(s, self.x, [], |x, []| s.mul(x, sigmoid(s, s.mul(x, s.splat(1.702))))),
            // (1 + tanh u)/2 = 1/(1 + e^(−2u)) with u = √(2/π)·(x + 0.044715·x³): no digits cancel where tanh is near −1.
            Gelu::Tanh => update(s, self.x, [], |x, []| {
                let cubic = s.fma(s.mul(x, x), s.splat(0.044_715), one);
                let minus_2u = s.mul(s.mul(x, s.splat(-1.595_769)), cubic);
                s.div(x, s.add(one, exp(s, minus_2u)))
            }),
        }
    }
}

/// [`scalar::add`].
pub(in crate::cpu) struct Add<'a> {
    pub dst: &'a mut [f32],
    pub x: &'a [f32],
}

impl Job for Add<'_> {
    fn scalar(self) {
        scalar::add(self.dst, self.x);
    }

    #[inline(always)]
    fn vector<S: Simd>(self, s: S) {
        update(s, self.dst, [self.x], |d, [x]| s.add(d, x));
    }
}
