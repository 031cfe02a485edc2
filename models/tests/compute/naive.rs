//! LLaMA, CLIP and the projector in f64, token by token and pixel by pixel, straight from the formulas.
//!
//! How far f32 may lie from this is not guessed: the same computation is run once more with each step rounded as the
//! real one rounds (to f32, or keys and values to the cache's type), and four times the distance between the two is
//! allowed. The factor covers another order of the sums; a wrong formula lies thousands of times farther off.

use std::f64::consts::{PI, SQRT_2};

use half::f16;
use pumice_models::names;

use crate::tiny::{Model, Weight};

/// What is rounded on the way.
#[derive(Clone, Copy, PartialEq)]
pub enum Round {
    /// Nothing.
    Exact,
    /// Every product and sum, to f32.
    F32,
    /// Keys and values, to f16.
    CacheF16,
    /// Keys and values, to q8_0: 8 bits with an f16 scale in blocks of 32.
    CacheQ8,
}

impl Round {
    fn step(self, x: f64) -> f64 {
        if self == Round::F32 { f64::from(x as f32) } else { x }
    }

    fn cache(self, row: &mut [f64]) {
        match self {
            Round::CacheF16 => row.iter_mut().for_each(|x| *x = f16::from_f64(*x).to_f64()),
            Round::CacheQ8 => row.chunks_mut(32).for_each(|block| {
                let scale = block.iter().fold(0.0f64, |m, x| m.max(x.abs())) / 127.0;
                block.iter_mut().for_each(|x| *x = (*x / scale).round() * f16::from_f64(scale).to_f64());
            }),
            _ => {}
        }
    }

    fn dot(self, a: &[f64], b: &[f64]) -> f64 {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).fold(0.0, |sum, (x, y)| self.step(sum + self.step(x * y)))
    }

    fn sum(self, a: &[f64], b: &[f64]) -> Vec<f64> {
        a.iter().zip(b).map(|(x, y)| self.step(x + y)).collect()
    }

    fn linear(self, m: &Model, x: &[f64], weight: &str, bias: &str) -> Vec<f64> {
        let (w, bias) = (m.weight(weight), m.find(bias));
        let out = (0..w.data.len() / x.len()).map(|o| {
            let y = self.dot(x, &row(w, o, x.len()));
            bias.map_or(y, |b| self.step(y + f64::from(b.data[o])))
        });
        out.collect()
    }

    fn softmax(self, scores: &[f64]) -> Vec<f64> {
        let top = scores.iter().copied().fold(f64::MIN, f64::max);
        let e: Vec<f64> = scores.iter().map(|s| self.step((s - top).exp())).collect();
        let total: f64 = e.iter().sum();
        e.iter().map(|x| self.step(x / total)).collect()
    }

    /// Σ softmax(q·k/√d)·v over the rows of one head, which starts at column `at` of the rows.
    fn head(self, q: &[f64], keys: &[Vec<f64>], values: &[Vec<f64>], at: usize) -> Vec<f64> {
        let d = q.len();
        let scores: Vec<f64> =
            keys.iter().map(|k| self.step(self.dot(q, &k[at..at + d]) / (d as f64).sqrt())).collect();
        let weights = self.softmax(&scores);
        (0..d)
            .map(|c| {
                let column: Vec<f64> = values.iter().map(|v| v[at + c]).collect();
                self.dot(&weights, &column)
            })
            .collect()
    }
}

fn row(w: &Weight, i: usize, width: usize) -> Vec<f64> {
    w.data[i * width..][..width].iter().map(|&x| x.into()).collect()
}

/// What a text model's metadata say, given by hand so that a misread key shows.
#[derive(Clone, Copy)]
pub struct Heads {
    pub heads: usize,
    pub kv_heads: usize,
    pub d: usize,
    /// Elements of a head that rotate.
    pub rotate: usize,
    pub base: f64,
    /// Linear stretch of positions.
    pub stretch: f64,
}

impl Heads {
    pub fn new(heads: usize, kv_heads: usize, d: usize) -> Self {
        Self { heads, kv_heads, d, rotate: d, base: 10_000.0, stretch: 1.0 }
    }

    /// Multiplies the pairs of each head, as complex numbers, by e^(i·θ).
    fn rotate(&self, m: &Model, x: &mut [f64], pos: usize, round: Round) {
        let factors = m.find(names::ROPE_FREQS);
        for head in x.chunks_mut(self.d) {
            for (i, pair) in head[..self.rotate].chunks_mut(2).enumerate() {
                let factor = factors.map_or(1.0, |f| f64::from(f.data[i]));
                let freq = (-2.0 * i as f64 / self.rotate as f64 * self.base.ln()).exp();
                let (sin, cos) = round.step(pos as f64 * round.step(freq / self.stretch / factor)).sin_cos();
                let (a, b) = (pair[0], pair[1]);
                pair[0] = round.step(a * cos - b * sin);
                pair[1] = round.step(a * sin + b * cos);
            }
        }
    }
}

/// Embeddings of `ids`.
pub fn embed(m: &Model, ids: &[u32], hidden: usize) -> Vec<Vec<f64>> {
    ids.iter().map(|&id| row(m.weight(names::TOKEN_EMBD), id as usize, hidden)).collect()
}

/// Logits at every position.
pub fn llama(m: &Model, blocks: usize, c: Heads, embeddings: &[Vec<f64>], round: Round) -> Vec<Vec<f64>> {
    let norm = |x: &[f64], name: &str| -> Vec<f64> {
        let mean = round.dot(x, x) / x.len() as f64;
        let scale = round.step(1.0 / (mean + 1e-5f32 as f64).sqrt());
        x.iter().zip(&m.weight(name).data).map(|(x, w)| round.step(x * scale * f64::from(*w))).collect()
    };
    let layer =
        |x: &[f64], i: usize, part: &str| round.linear(m, x, &names::blk(i, part), &names::blk_bias(i, part));
    let mut memory = vec![(Vec::new(), Vec::new()); blocks];
    let mut logits = Vec::new();
    for (pos, x) in embeddings.iter().enumerate() {
        let mut x = x.clone();
        for (i, (keys, values)) in memory.iter_mut().enumerate() {
            let h = norm(&x, &names::blk(i, names::ATTN_NORM));
            let (mut q, mut k) = (layer(&h, i, names::ATTN_Q), layer(&h, i, names::ATTN_K));
            let mut v = layer(&h, i, names::ATTN_V);
            c.rotate(m, &mut q, pos, round);
            c.rotate(m, &mut k, pos, round);
            round.cache(&mut k);
            round.cache(&mut v);
            keys.push(k);
            values.push(v);
            let mut seen = Vec::new();
            for (head, q) in q.chunks(c.d).enumerate() {
                seen.extend(round.head(q, keys, values, head * c.kv_heads / c.heads * c.d));
            }
            x = round.sum(&x, &layer(&seen, i, names::ATTN_OUTPUT));

            let h = norm(&x, &names::blk(i, names::FFN_NORM));
            let (gate, up) = (layer(&h, i, names::FFN_GATE), layer(&h, i, names::FFN_UP));
            let inner: Vec<f64> =
                gate.iter().zip(&up).map(|(g, u)| round.step(g / (1.0 + (-g).exp()) * u)).collect();
            x = round.sum(&x, &layer(&inner, i, names::FFN_DOWN));
        }
        let h = norm(&x, names::OUTPUT_NORM);
        let output = if m.find(names::OUTPUT).is_some() { names::OUTPUT } else { names::TOKEN_EMBD };
        logits.push(round.linear(m, &h, output, ""));
    }
    logits
}

/// The residual stream after `blocks` blocks of a tower in today's naming: class row first. `erf`: GELU, else quick GELU.
pub fn clip(
    m: &Model,
    (image, patch): (usize, usize),
    heads: usize,
    blocks: usize,
    erf: bool,
    pixels: &[f32],
    round: Round,
) -> Vec<Vec<f64>> {
    let hidden = m.weight(names::V_CLASS_EMBD).data.len();
    let norm = |x: &[f64], weight: &str, bias: &str| -> Vec<f64> {
        let n = x.len() as f64;
        let mean = round.step(x.iter().sum::<f64>() / n);
        let off: Vec<f64> = x.iter().map(|x| round.step(x - mean)).collect();
        let scale = round.step(1.0 / (round.dot(&off, &off) / n + 1e-5f32 as f64).sqrt());
        let (w, b) = (&m.weight(weight).data, &m.weight(bias).data);
        (0..off.len()).map(|i| round.step(off[i] * scale * f64::from(w[i]) + f64::from(b[i]))).collect()
    };
    let grid = image / patch;
    let kernel = &m.weight(names::V_PATCH_EMBD).data;
    let positions = m.weight(names::V_POSITION_EMBD);
    let mut stream = vec![row(m.weight(names::V_CLASS_EMBD), 0, hidden)];
    for (py, px) in (0..grid * grid).map(|p| (p / grid, p % grid)) {
        stream.push(
            (0..hidden)
                .map(|o| {
                    let mut sum = 0.0;
                    for (c, y, x) in
                        (0..3 * patch * patch).map(|i| (i / patch / patch, i / patch % patch, i % patch))
                    {
                        let pixel = pixels[(c * image + py * patch + y) * image + px * patch + x];
                        let weight = kernel[((o * 3 + c) * patch + y) * patch + x];
                        sum = round.step(sum + round.step(f64::from(pixel) * f64::from(weight)));
                    }
                    sum
                })
                .collect(),
        );
    }
    for (i, x) in stream.iter_mut().enumerate() {
        *x = norm(&round.sum(x, &row(positions, i, hidden)), names::V_PRE_LN, names::V_PRE_LN_BIAS);
    }
    for i in 0..blocks {
        let name = |part: &str| (names::v_blk(i, part), names::v_blk_bias(i, part));
        let all = |xs: &[Vec<f64>], part: &str| -> Vec<Vec<f64>> {
            let (weight, bias) = name(part);
            xs.iter().map(|x| round.linear(m, x, &weight, &bias)).collect()
        };
        let normed = |xs: &[Vec<f64>], part: &str| -> Vec<Vec<f64>> {
            let (weight, bias) = name(part);
            xs.iter().map(|x| norm(x, &weight, &bias)).collect()
        };
        let h = normed(&stream, names::LN1);
        let (q, k, v) = (all(&h, names::ATTN_Q), all(&h, names::ATTN_K), all(&h, names::ATTN_V));
        let d = hidden / heads;
        let seen: Vec<Vec<f64>> = q
            .iter()
            .map(|q| q.chunks(d).enumerate().flat_map(|(i, q)| round.head(q, &k, &v, i * d)).collect())
            .collect();
        let out = all(&seen, names::ATTN_OUT);
        stream = stream.iter().zip(&out).map(|(x, y)| round.sum(x, y)).collect();

        let mut inner = all(&normed(&stream, names::LN2), names::FFN_UP);
        for x in inner.iter_mut().flatten() {
            *x = round.step(if erf { gelu(*x) } else { *x / (1.0 + (-1.702 * *x).exp()) });
        }
        let out = all(&inner, names::FFN_DOWN);
        stream = stream.iter().zip(&out).map(|(x, y)| round.sum(x, y)).collect();
    }
    stream
}

/// The projector's rows from feature rows.
pub fn project(m: &Model, layers: usize, features: &[Vec<f64>], round: Round) -> Vec<Vec<f64>> {
    let mut rows = features.to_vec();
    for i in 0..layers {
        for x in &mut rows {
            if i > 0 {
                x.iter_mut().for_each(|x| *x = round.step(gelu(*x)));
            }
            *x = round.linear(m, x, &names::mm(2 * i), &names::mm_bias(2 * i));
        }
    }
    rows
}

/// x·Φ(x), Φ by Simpson's rule on the normal density.
fn gelu(x: f64) -> f64 {
    const STEPS: usize = 400;
    let t = x / SQRT_2;
    let f = |i: usize| (-(t * i as f64 / STEPS as f64).powi(2)).exp();
    let inner: f64 = (1..STEPS).map(|i| f(i) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
    let erf = 2.0 / PI.sqrt() * t / STEPS as f64 / 3.0 * (f(0) + inner + f(STEPS));
    0.5 * x * (1.0 + erf)
}

/// The largest distance between two matrices.
pub fn distance(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().flatten().zip(b.iter().flatten()).fold(0.0, |m, (x, y)| m.max((x - y).abs()))
}

/// Panics unless every number of `got` lies near its `exact` one, where `rounded` shows what rounding does.
#[track_caller]
pub fn assert_near(what: &str, got: &[f32], exact: &[Vec<f64>], rounded: &[Vec<f64>]) {
    let allowed = 4.0 * distance(exact, rounded);
    let width = exact[0].len();
    assert_eq!(got.len(), exact.len() * width, "{what}");
    let got: Vec<Vec<f64>> = got.chunks(width).map(|r| r.iter().map(|&x| x.into()).collect()).collect();
    let off = distance(&got, exact);
    assert!(allowed > 0.0 && off <= allowed, "{what}: off by {off:e}, allowed {allowed:e}");
}
