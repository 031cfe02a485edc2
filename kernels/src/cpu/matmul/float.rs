//! The product of F32, F16 and BF16 weights.
//!
//! The loops of [`super::int8`] over some columns of a panel, converted once: to f32, which is exact but for the order of the sum, or, where an
//! instruction set multiplies those faster and the weights have no more digits, to whole numbers of 16 bits. k is any number.

use super::{
    PANEL, Product, Scratch, Weights, chunk_of, dot_rows, half, pass_tokens, piece_rows, store, with_scratch,
};
use crate::{DType, cpu::pool::Pool};

/// Steps of a tile, of a column in f32 and of two in 16 bits: 16 KB, a third of the smallest first cache among the x86 that matter, so
/// that activations fit beside it.
pub(crate) const SPAN: usize = 128;

/// Spans of packed activations that stay in the second cache while the panels pass: 1.4 MB a pass.
const CHUNK: usize = 4;

/// `[columns][rows]` of a panel.
#[derive(Clone, Copy, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(crate) struct FloatTile(pub(crate) [[f32; PANEL]; SPAN]);

/// A weight format that is a plain number.
pub(crate) trait Plain {
    /// The format.
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

/// How a panel of weights meets the activations of several tokens. A value is the proof that the machine has the instructions.
pub(crate) trait FloatWay: Copy + Sync {
    /// A span of a panel.
    type Tile: bytemuck::Zeroable;
    /// Tokens that the kernel takes at once.
    const TOKENS: usize;
    /// Columns of a step.
    const COLS: usize = 1;
    /// Dwords of a token's part of a record, which holds a span of a group of tokens.
    const RECORD: usize = SPAN;

    /// Converts the columns from `col` on ([`SPAN`]·COLS at most) of the rows from `first` on; rows past the end become 0.
    fn convert<F: Plain>(self, tile: &mut Self::Tile, w: Weights<'_>, first: usize, col: usize);

    /// Fetches a part of a row that [`FloatWay::convert`] will read.
    fn fetch(self, _part: &[u8]) {}

    /// Packs the first `cols` columns of `tokens` rows of `x`, which are `k` apart.
    fn pack(self, x: &[f32], k: usize, cols: usize, tokens: usize, record: &mut [f32]);

    /// `c[token][row]` += Σ over the `cols` first columns of the tile.
    fn multiply(self, tokens: usize, tile: &Self::Tile, record: &[f32], c: &mut [f32], cols: usize);
}

/// What an instruction set does for products of plain numbers.
pub(crate) trait FloatIsa: FloatWay {
    /// `out[i]` = row `first` + i times x.
    fn dots<F: Plain>(self, w: Weights<'_>, first: usize, x: &[f32], out: &mut [f32]);

    /// The product of several tokens, in the way that is best here for the format: by default this one.
    fn several<F: Plain>(self, pool: &Pool, scratch: &mut Scratch, w: Weights<'_>, p: Product<'_>) {
        float_passes::<Self, F>(self, pool, scratch, w, p);
    }
}

/// [`FloatWay::pack`] of f32 in plain Rust, to `[cols][tokens]`.
#[inline(always)]
pub(crate) fn float_pack(x: &[f32], k: usize, cols: usize, tokens: usize, record: &mut [f32]) {
    for token in 0..tokens {
        for (to, x) in record[token..].iter_mut().step_by(tokens).zip(&x[token * k..][..cols]) {
            *to = *x;
        }
    }
}

/// The product of weights of format `F`.
pub(super) fn product<I: FloatIsa, F: Plain>(isa: I, pool: &Pool, scratch: &mut Scratch, p: Product<'_>) {
    let Product { n, m, .. } = p;
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
    isa.several::<F>(pool, scratch, w, p);
}

/// The product of several tokens, in passes.
pub(crate) fn float_passes<I: FloatWay, F: Plain>(
    way: I,
    pool: &Pool,
    scratch: &mut Scratch,
    w: Weights<'_>,
    p: Product<'_>,
) {
    let Product { n, k, m, .. } = p;
    let tokens = pass_tokens(n, I::TOKENS);
    for (x, out) in p.x.chunks(tokens * k).zip(p.out.chunks_mut(tokens * m)) {
        pass::<I, F>(way, pool, scratch, w, Product { x, out, n: x.len() / k, ..p });
    }
}

/// One pass over the weights.
fn pass<I: FloatWay, F: Plain>(way: I, pool: &Pool, scratch: &mut Scratch, w: Weights<'_>, p: Product<'_>) {
    let Product { n, k, m, x, .. } = p;
    let (width, len, size) = (SPAN * I::COLS, I::RECORD, size_of::<F::Bytes>());
    let spans = k.div_ceil(width);
    // [span][group], records; the last span's are as long as the others, their last steps unused.
    let packed = scratch.x.get::<f32>(spans * n * len);
    // A piece is a group of tokens, whose rows of x are then read in order; where groups are too few, a span of them all.
    let piece = if n >= 4 * I::TOKENS * pool.threads() { (spans, I::TOKENS * len) } else { (1, n * len) };
    pool.tiles(packed, n * len, piece, &|_, mut tile| {
        let first = tile.first_col() / len;
        for row in 0..tile.rows() {
            let col = (tile.first_row() + row) * width;
            for (g, record) in tile.row(row).chunks_mut(I::TOKENS * len).enumerate() {
                let x = &x[(first + g * I::TOKENS) * k + col..];
                way.pack(x, k, width.min(k - col), record.len() / len, record);
            }
        }
    });
    let packed = &*packed;
    let rows = piece_rows(m, pool.threads());
    pool.tiles(p.out, m, (n, rows), &|thread, mut out| {
        let panels = out.cols().div_ceil(PANEL);
        with_scratch::<f32>(&scratch.threads[thread], panels * n * PANEL, |c| {
            c.fill(0.0);
            let mut tile: I::Tile = bytemuck::Zeroable::zeroed();
            let chunk = chunk_of(CHUNK, n);
            for start in (0..spans).step_by(chunk) {
                let end = spans.min(start + chunk);
                for (panel, c) in c.chunks_exact_mut(n * PANEL).enumerate() {
                    let first = out.first_col() + panel * PANEL;
                    for span in start..end {
                        way.convert::<F>(&mut tile, w, first, span * width);
                        let cols = width.min(k - span * width);
                        let records = packed[span * n * len..][..n * len].chunks(I::TOKENS * len);
                        // Meanwhile the weights of the next tile come, some rows with each group.
                        let next = if span + 1 < end { (first, span + 1) } else { (first + PANEL, start) };
                        let (next, bytes) = ((next.0, next.1 * width * size), width * size);
                        let share = PANEL.div_ceil(records.len());
                        for (g, (record, c)) in records.zip(c.chunks_mut(I::TOKENS * PANEL)).enumerate() {
                            for row in (g * share..(g + 1) * share).map(|row| next.0 + row) {
                                if row < w.rows() {
                                    way.fetch(w.part(row, next.1, bytes));
                                }
                            }
                            way.multiply(record.len() / len, &tile, record, c, cols);
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
