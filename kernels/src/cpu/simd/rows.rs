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

/// Σ over a row `x`: `part` after a step from the vector `v` of it. Macros, not functions that take closures: a closure that
/// is called twice is not always inlined, and outside a function with the ISA's features every intrinsic is a call.
macro_rules! sum {
    ($s:ident, $x:ident, |$v:ident, $part:ident| $step:expr) => {{
        let whole = $x.len() / S::LANES * S::LANES;
        let mut parts = [$s.splat(0.0); PARTS];
        let mut i = 0;
        while i + PARTS * S::LANES <= whole {
            for (n, slot) in parts.iter_mut().enumerate() {
                let ($v, $part) = ($s.load(&$x[i + n * S::LANES..]), *slot);
                *slot = $step;
            }
            i += PARTS * S::LANES;
        }
        while i < whole {
            let ($v, $part) = ($s.load(&$x[i..]), parts[0]);
            parts[0] = $step;
            i += S::LANES;
        }
        let mut rest = 0.0;
        if whole < $x.len() {
            // On their own, so that a step need not map 0 to 0.
            let mut last = [0.0; super::MAX_LANES];
            let ($v, $part) = ($s.load_part(&$x[whole..]), $s.splat(0.0));
            $s.store($step, &mut last);
            rest = last[..$x.len() - whole].iter().sum();
        }
        $s.sum($s.add($s.add(parts[0], parts[1]), $s.add(parts[2], parts[3]))) + rest
    }};
}

/// `dst` = `value`, where each `v` is the vector of `from` at the same place (`dst` itself may be one).
macro_rules! map {
    ($s:ident, $dst:ident, |$($v:ident in $from:ident),+| $value:expr) => {{
        let (whole, len) = ($dst.len() / S::LANES * S::LANES, $dst.len());
        $(assert!($from.len() >= len);)+
        let mut i = 0;
        while i < whole {
            $(let $v = $s.load(&$from[i..i + S::LANES]);)+
            let value = $value;
            $s.store(value, &mut $dst[i..i + S::LANES]);
            i += S::LANES;
        }
        if whole < len {
            $(let $v = $s.load_part(&$from[whole..len]);)+
            let value = $value;
            $s.store_part(value, &mut $dst[whole..]);
        }
    }};
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
        let (k, weight) = (self.weight.len(), self.weight);
        for (dst, x) in self.dst.chunks_exact_mut(k).zip(self.x.chunks_exact(k)) {
            let squares = sum!(s, x, |v, part| s.fma(v, v, part));
            let scale = s.splat(1.0 / (squares / k as f32 + self.eps).sqrt());
            map!(s, dst, |x in x, w in weight| s.mul(s.mul(x, scale), w));
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
        let (k, weight, bias) = (self.weight.len(), self.weight, self.bias);
        for (dst, x) in self.dst.chunks_exact_mut(k).zip(self.x.chunks_exact(k)) {
            let mean = s.splat(sum!(s, x, |v, part| s.add(v, part)) / k as f32);
            let squares = sum!(s, x, |v, part| {
                let v = s.sub(v, mean);
                s.fma(v, v, part)
            });
            let scale = s.splat(1.0 / (squares / k as f32 + self.eps).sqrt());
            map!(s, dst, |x in x, w in weight, b in bias| s.fma(s.mul(s.sub(x, mean), scale), w, b));
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
            let head = &mut head[..turns.len()];
            map!(s, head, |x in head, turn in turns| s.rotate(x, turn));
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
        let (gate, up) = (self.gate, self.up);
        map!(s, gate, |g in gate, u in up| s.mul(s.mul(g, sigmoid(s, g)), u));
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
        let (half, one, data) = (s.splat(0.5), s.splat(1.0), self.x);
        match self.kind {
            Gelu::Erf => map!(s, data, |x in data| {
                let phi = s.add(one, erf(s, s.mul(x, s.splat(std::f32::consts::FRAC_1_SQRT_2))));
                s.mul(s.mul(x, half), phi)
            }),
            Gelu::Quick => map!(s, data, |x in data| s.mul(x, sigmoid(s, s.mul(x, s.splat(1.702))))),
            // (1 + tanh u)/2 = 1/(1 + e^(−2u)) with u = √(2/π)·(x + 0.044715·x³): no digits cancel where tanh is near −1.
            Gelu::Tanh => map!(s, data, |x in data| {
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
        let (dst, x) = (self.dst, self.x);
        map!(s, dst, |d in dst, x in x| s.add(d, x));
    }
}
