//! The product of F32, F16 and BF16 weights: f32 sums, so it is exact but for the order of the sum.
//!
//! The loops of [`super::int8`] over a tile of f32: [`SPAN`] columns of a panel, converted once. k is any number.

use super::{
    PANEL, Product, Scratch, Weights, chunk_of, dot_rows, half, pass_tokens, piece_rows, store, with_scratch,
};
use crate::{DType, cpu::pool::Pool};

/// Columns of a tile: 16 KB, a third of the smallest first cache among the x86 that matter, so that activations fit beside it.
pub(crate) const SPAN: usize = 128;

/// Spans of packed activations that stay in the second cache while the panels pass: 1.2 MB a pass.
const CHUNK: usize = 4;

/// `[columns][rows]` of a panel.
#[repr(C, align(64))]
pub(crate) struct FloatTile(pub(crate) [[f32; PANEL]; SPAN]);

/// A weight format that is a plain number.
pub(crate) trait Plain {
    /// The format.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 loads a format its own way"))]
    const DTYPE: DType;
    /// Its bytes.
    type Bytes: bytemuck::Pod + AsRef<[u8]>;
    /// Its value.
    #[cfg_attr(not(target_arch = "aarch64"), allow(dead_code, reason = "x86 converts vectors"))]
    fn get(bytes: Self::Bytes) -> f32;
}

pub(crate) struct F32;
impl Plain for F32 {
    const DTYPE: DType = DType::F32;
    type Bytes = [u8; 4];
    #[inline(always)]
    fn get(bytes: [u8; 4]) -> f32 {
        f32::from_le_bytes(bytes)
    }
}

pub(crate) struct F16;
impl Plain for F16 {
    const DTYPE: DType = DType::F16;
    type Bytes = [u8; 2];
    #[inline(always)]
    fn get(bytes: [u8; 2]) -> f32 {
        half(bytes)
    }
}

pub(crate) struct BF16;
impl Plain for BF16 {
    const DTYPE: DType = DType::BF16;
    type Bytes = [u8; 2];
    #[inline(always)]
    fn get(bytes: [u8; 2]) -> f32 {
        f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
    }
}

/// What an instruction set does for the f32 product. A value is the proof that the machine has the instructions.
pub(crate) trait FloatIsa: Copy + Sync {
    /// Tokens that the kernel takes at once.
    const TOKENS: usize;

    /// Converts columns `col`.. (SPAN at most) of the rows from `first` on; rows past the end become 0.
    fn convert<F: Plain>(self, tile: &mut FloatTile, w: Weights<'_>, first: usize, col: usize);

    /// `c[token][row]` += Σ over the `cols` first columns of the tile; `x` `[cols][tokens]`.
    fn multiply(self, tokens: usize, tile: &FloatTile, x: &[f32], c: &mut [f32], cols: usize);

    /// `out[i]` = row `first` + i times x.
    fn dots<F: Plain>(self, w: Weights<'_>, first: usize, x: &[f32], out: &mut [f32]);
}

/// [`FloatIsa::convert`] in plain Rust.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub(crate) fn convert<F: Plain>(tile: &mut FloatTile, w: Weights<'_>, first: usize, col: usize) {
    let size = size_of::<F::Bytes>();
    for r in 0..PANEL {
        if first + r < w.rows() {
            let part = bytemuck::cast_slice::<u8, F::Bytes>(w.part(first + r, col * size, SPAN * size));
            for (out, bytes) in tile.0.iter_mut().zip(part) {
                out[r] = F::get(*bytes);
            }
        } else {
            tile.0.iter_mut().for_each(|out| out[r] = 0.0);
        }
    }
}

/// The product of weights of format `F`.
pub(super) fn product<I: FloatIsa, F: Plain>(isa: I, pool: &Pool, scratch: &mut Scratch, p: Product<'_>) {
    let Product { n, k, m, .. } = p;
    let w = Weights { bytes: p.w, row_bytes: p.w.len() / m, rows: m };
    if n == 1 {
        return pool.tiles(p.out, m, (1, dot_rows(m, pool.threads())), &|_, mut tile| {
            let first = tile.first_col();
            let out = tile.row(0);
            isa.dots::<F>(w, first, p.x, out);
            if let Some(bias) = p.bias {
                out.iter_mut().zip(&bias[first..]).for_each(|(out, bias)| *out += bias);
            }
        });
    }
    let tokens = pass_tokens(n, I::TOKENS);
    for (x, out) in p.x.chunks(tokens * k).zip(p.out.chunks_mut(tokens * m)) {
        pass::<I, F>(isa, pool, scratch, w, Product { x, out, n: x.len() / k, ..p });
    }
}

/// One pass over the weights.
fn pass<I: FloatIsa, F: Plain>(isa: I, pool: &Pool, scratch: &mut Scratch, w: Weights<'_>, p: Product<'_>) {
    let Product { n, k, m, x, .. } = p;
    let spans = k.div_ceil(SPAN);
    // [span][group][column][token]; the last span is as long as the others, its last columns unused.
    let packed = scratch.x.get::<f32>(spans * n * SPAN);
    pool.tiles(packed, n * SPAN, (1, I::TOKENS * SPAN * 16), &|_, mut tile| {
        let (col, first) = (tile.first_row() * SPAN, tile.first_col() / SPAN);
        let cols = SPAN.min(k - col);
        for (g, group) in tile.row(0).chunks_mut(I::TOKENS * SPAN).enumerate() {
            let tokens = group.len() / SPAN;
            for token in 0..tokens {
                let x = &x[(first + g * I::TOKENS + token) * k + col..][..cols];
                for (out, x) in group[token..].iter_mut().step_by(tokens).zip(x) {
                    *out = *x;
                }
            }
        }
    });
    let packed = &*packed;
    let rows = piece_rows(m, pool.threads());
    pool.tiles(p.out, m, (n, rows), &|thread, mut out| {
        let panels = out.cols().div_ceil(PANEL);
        with_scratch::<f32>(&scratch.threads[thread], panels * n * PANEL, |c| {
            c.fill(0.0);
            let mut tile = FloatTile([[0.0; PANEL]; SPAN]);
            let chunk = chunk_of(CHUNK, n);
            for start in (0..spans).step_by(chunk) {
                for (panel, c) in c.chunks_exact_mut(n * PANEL).enumerate() {
                    for span in start..spans.min(start + chunk) {
                        isa.convert::<F>(&mut tile, w, out.first_col() + panel * PANEL, span * SPAN);
                        let cols = SPAN.min(k - span * SPAN);
                        let groups = packed[span * n * SPAN..][..n * SPAN].chunks(I::TOKENS * SPAN);
                        for (x, c) in groups.zip(c.chunks_mut(I::TOKENS * PANEL)) {
                            isa.multiply(x.len() / SPAN, &tile, x, c, cols);
                        }
                    }
                }
            }
            for (panel, c) in c.chunks_exact(n * PANEL).enumerate() {
                store(&mut out, panel, 0, c, p.bias);
            }
        });
    });
}
