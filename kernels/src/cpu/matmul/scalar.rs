//! The product as specified: plain Rust, one dot at a time.
//!
//! Quantized weights meet activations rounded to 8 bits, block by block; other weights are summed in f64. Threads share the
//! columns of the output, so that each reads its own weights.

use super::{Product, Scratch, Weights};
use crate::{
    cpu::pool::Pool,
    quant::{self, ActBlock},
};

/// Weight rows that a thread takes at once, as small as keeps the counter cheap.
const ROWS: usize = 16;

pub(super) fn product(pool: &Pool, scratch: &mut Scratch, p: Product<'_>) {
    let Product { n, k, m, dtype, .. } = p;
    let w = Weights { bytes: p.w, row_bytes: p.w.len() / m, rows: m };
    let quantized = dtype.is_quantized();
    let blocks = if quantized { k / ActBlock::LEN } else { 0 };
    let acts = scratch.x.get::<ActBlock>(n * blocks);
    if quantized {
        quant::quantize_act(p.x, acts);
    }
    let acts = &*acts;
    pool.tiles(p.out, m, (n, ROWS), &|thread, mut tile| {
        let width = if quantized { 0 } else { k };
        super::with_scratch::<f32>(&scratch.threads[thread], width, |row| {
            for col in 0..tile.cols() {
                let bytes = w.row(tile.first_col() + col);
                if !quantized {
                    quant::dequantize(dtype, bytes, row);
                }
                let bias = p.bias.map_or(0.0, |bias| bias[tile.first_col() + col]);
                for token in 0..n {
                    let sum = if quantized {
                        quant::dot(dtype, bytes, &acts[token * blocks..][..blocks])
                    } else {
                        dot(row, &p.x[token * k..][..k])
                    };
                    tile.row(token)[col] = sum + bias;
                }
            }
        });
    });
}

/// Σ aᵢ·bᵢ in f64: one rounding.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>() as f32
}
