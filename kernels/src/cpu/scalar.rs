//! Every op but the product in plain Rust: the specification that the vector paths are tested against.
//!
//! Written for the eye, not for speed. Sums run in f64, so that what is left of error is that of the f32 inputs and of one
//! rounding; vector paths sum in f32 lanes and state their bound. All functions work on whole rows.

use crate::{DType, Gelu, quant};

/// dst = x / √(mean(x²) + eps) · weight, by rows of `weight.len()`.
pub(super) fn rms_norm(dst: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
    let k = weight.len();
    for (dst, x) in dst.chunks_exact_mut(k).zip(x.chunks_exact(k)) {
        let squares: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let scale = (1.0 / (squares / k as f64 + f64::from(eps)).sqrt()) as f32;
        for ((dst, x), w) in dst.iter_mut().zip(x).zip(weight) {
            *dst = x * scale * w;
        }
    }
}

/// dst = (x − mean)/√(var + eps) · weight + bias, by rows of `weight.len()`.
pub(super) fn layer_norm(dst: &mut [f32], x: &[f32], weight: &[f32], bias: &[f32], eps: f32) {
    let k = weight.len();
    for (dst, x) in dst.chunks_exact_mut(k).zip(x.chunks_exact(k)) {
        let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / k as f64;
        // Σ(x − mean)², not Σx² − mean²: the latter cancels where the mean is far from 0, as in CLIP's channels.
        let var = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / k as f64;
        let (mean, scale) = (mean as f32, (1.0 / (var + f64::from(eps)).sqrt()) as f32);
        for (((dst, x), w), b) in dst.iter_mut().zip(x).zip(weight).zip(bias) {
            *dst = (x - mean) * scale * w + b;
        }
    }
}

/// Rotates pair i of each head of `row` by the angle whose (cos, sin) is `turns[i]`.
pub(super) fn rope(row: &mut [f32], turns: &[[f32; 2]], head_dim: usize) {
    for head in row.chunks_exact_mut(head_dim) {
        for (pair, [cos, sin]) in head.chunks_exact_mut(2).zip(turns) {
            let (a, b) = (pair[0], pair[1]);
            pair[0] = a * cos - b * sin;
            pair[1] = a * sin + b * cos;
        }
    }
}

/// gate = gate·σ(gate)·up.
pub(super) fn swiglu(gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        *g = *g / (1.0 + (-*g).exp()) * u;
    }
}

/// Writes the k largest of `x` to `dst`, 2k numbers, largest first and the lower column first among equals, then their columns. What is
/// no number counts as larger than all numbers.
pub(super) fn top_k(dst: &mut [f32], x: &[f32]) {
    let k = dst.len() / 2;
    let (values, columns) = dst.split_at_mut(k);
    let larger = |a: f32, b: f32| a > b || (a.is_nan() && !b.is_nan());
    let mut found = 0;
    for (first, some) in (0..).step_by(16).zip(x.chunks(16)) {
        // Most are smaller than all that was found, which a few vector compares tell of 16; a NaN is not.
        if found == k && some.iter().fold(true, |none, v| none & (*v <= values[k - 1])) {
            continue;
        }
        for (column, &v) in (first..).zip(some) {
            if found == k && !larger(v, values[k - 1]) {
                continue;
            }
            let mut at = found.min(k - 1);
            while at > 0 && larger(v, values[at - 1]) {
                (values[at], columns[at]) = (values[at - 1], columns[at - 1]);
                at -= 1;
            }
            (values[at], columns[at]) = (v, column as f32);
            found = (found + 1).min(k);
        }
    }
}

/// x = gelu(x).
pub(super) fn gelu(x: &mut [f32], kind: Gelu) {
    for x in x {
        let v = f64::from(*x);
        *x = match kind {
            Gelu::Erf => v / 2.0 * (1.0 + erf(v * std::f64::consts::FRAC_1_SQRT_2)),
            Gelu::Quick => v / (1.0 + (-1.702 * v).exp()),
            Gelu::Tanh => {
                v / 2.0 * (1.0 + (std::f64::consts::FRAC_2_PI.sqrt() * (v + 0.044715 * v.powi(3))).tanh())
            }
        } as f32;
    }
}

/// erf(x) to 1e-15: the series 2/√π·e^(−x²)·Σ 2ⁿx^(2n+1)/(2n+1)!!, all of whose terms have one sign, so that nothing cancels.
pub(crate) fn erf(x: f64) -> f64 {
    // 1 − erf(6) is 2e-17, below half an ulp of 1.
    if x.is_nan() || x.abs() > 6.0 {
        return if x.is_nan() { x } else { x.signum() };
    }
    let (mut term, mut sum, mut n) = (x, x, 1.0);
    while term.abs() > 1e-17 * sum.abs() {
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
        n += 1.0;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

/// dst += x.
pub(super) fn add(dst: &mut [f32], x: &[f32]) {
    dst.iter_mut().zip(x).for_each(|(d, x)| *d += x);
}

/// The keys or the values of one head: row `j` is `bytes[j·stride + offset..][..bytes of d elements]`.
#[derive(Clone, Copy)]
pub(super) struct HeadRows<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) dtype: DType,
    /// Bytes from one position to the next.
    pub(super) stride: usize,
    /// Byte within a position where the head begins.
    pub(super) offset: usize,
    /// Bytes of the head's d elements.
    pub(super) width: usize,
}

impl<'a> HeadRows<'a> {
    /// The head's elements at position `j`.
    pub(super) fn row(&self, j: usize) -> &'a [u8] {
        &self.bytes[j * self.stride + self.offset..][..self.width]
    }
}

/// Keys between two corrections of the running softmax.
const KEY_TILE: usize = 64;

/// out = softmax(q·kᵀ/√d)·v for one row of one head, over the first `keys` positions (≥ 1). `out`, `q`, `row` are `[d]`.
///
/// The softmax runs (arXiv 1805.02867): after each tile of keys, `out` and `sum` stand for the keys so far, relative to
/// e^`max`; a new maximum rescales them. So no row of scores as long as the context is ever kept.
pub(super) fn attention(
    out: &mut [f32],
    q: &[f32],
    k: HeadRows<'_>,
    v: HeadRows<'_>,
    keys: usize,
    row: &mut [f32],
) {
    let scale = 1.0 / (q.len() as f32).sqrt();
    let (mut max, mut sum) = (f32::NEG_INFINITY, 0.0f64);
    let mut scores = [0.0f32; KEY_TILE];
    out.fill(0.0);
    for first in (0..keys).step_by(KEY_TILE) {
        let scores = &mut scores[..KEY_TILE.min(keys - first)];
        for (j, s) in scores.iter_mut().enumerate() {
            quant::dequantize(k.dtype, k.row(first + j), row);
            *s = dot(q, row) * scale;
        }
        let new = scores.iter().copied().fold(max, f32::max);
        let fade = (max - new).exp();
        (max, sum) = (new, sum * f64::from(fade));
        out.iter_mut().for_each(|o| *o *= fade);
        for (j, s) in scores.iter().enumerate() {
            let p = (s - max).exp();
            sum += f64::from(p);
            quant::dequantize(v.dtype, v.row(first + j), row);
            out.iter_mut().zip(&*row).for_each(|(o, v)| *o += p * v);
        }
    }
    let inverse = (1.0 / sum) as f32;
    out.iter_mut().for_each(|o| *o *= inverse);
}

/// Σ aᵢ·bᵢ.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>() as f32
}

#[cfg(test)]
mod tests {
    use super::erf;

    #[test]
    fn erf_at_tabulated_points() {
        // Abramowitz and Stegun, table 7.1; NIST DLMF 7.23.
        for (x, y) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (2.0, 0.995_322_265_018_952_7),
        ] {
            assert!((erf(x) - y).abs() < 2e-15, "{x}: {} {y}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
        assert_eq!(erf(7.0), 1.0);
        assert!(erf(f64::NAN).is_nan());
    }
}
