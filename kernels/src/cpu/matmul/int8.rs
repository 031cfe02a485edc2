//! The product of quantized weights: loops around a kernel that multiplies a tile of bytes.
//!
//! Many tokens: panels of [`PANEL`] weight rows are widened, 256 columns at a time, to a [`Tile`] of 8 KB that stays in the first
//! cache, and a kernel of the instruction set runs over all groups of tokens. The order of the loops (chunk of
//! columns > panel > slab > group of tokens) keeps a chunk of packed activations in the second cache while
//! the panels pass by. One token: a dot per weight row, in order, a run of rows for each thread.

use super::pack::quantize_to;
use super::{
    PANEL, Product, Record, SLAB, Scratch, Unpack, Weights, chunk_of, pass_tokens, piece_rows, run_rows,
    store, with_scratch,
};
use crate::{cpu::pool::Pool, quant::ActBlock};

/// Slabs of packed activations that stay in the second cache (1 MB on Zen 5) while the panels pass: 2·352 bytes a token at most, 0.5 MB a pass.
const CHUNK: usize = 2;

/// A slab of a panel of weights.
#[repr(C, align(64))]
pub(crate) struct Tile {
    /// [256/4 columns][32 rows] of four columns each; the second half is for bytes that an instruction set splits.
    pub(crate) u: [[[u8; 4]; PANEL]; SLAB / 2],
    /// `[group][row]`: scales.
    pub(crate) a: [[f32; PANEL]; 16],
    /// `[block of 32][row]`: minima.
    pub(crate) c: [[f32; PANEL]; 8],
    /// `[block of 32 or group][row]`: scales and minima as i16, in units of `d`, where a kernel wants them so.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 has such a kernel"))]
    pub(crate) s: [[i32; PANEL]; 16],
    /// `[row]`: that unit.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "as `s`"))]
    pub(crate) d: [f32; PANEL],
}

impl Tile {
    pub(crate) const ZERO: Self = Self {
        u: [[[0; 4]; PANEL]; SLAB / 2],
        a: [[0.0; PANEL]; 16],
        c: [[0.0; PANEL]; 8],
        s: [[0; PANEL]; 16],
        d: [0.0; PANEL],
    };
}

/// A slab of the only token's activations.
#[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
pub(crate) struct ActSlab {
    /// The codes; an instruction set may order them as it unpacks weights.
    pub(crate) q: [i8; SLAB],
    /// −ZERO·Σq of each four codes, where an instruction set starts its sums there.
    pub(crate) off: [i32; SLAB / 4],
    /// Scales, per 32.
    pub(crate) d: [f32; 8],
    /// d·Σq, per 32; times −ZERO where an instruction set takes that for a minimum.
    pub(crate) sum: [f32; 8],
    /// −Σq, per 32.
    pub(crate) sums32: [i16; 8],
    /// −Σq, per 16.
    pub(crate) sums16: [i16; 16],
    _unused: [u8; 16],
}

/// What an instruction set does for the int8 product. A value is the proof that the machine has the instructions.
pub(crate) trait Int8Isa: Copy + Sync {
    /// Tokens that the kernel takes at once.
    const TOKENS: usize;

    /// Widens slab `slab` of the rows from `first` on; rows past the end get scales of 0.
    fn widen<F: Unpack>(self, tile: &mut Tile, w: Weights<'_>, first: usize, slab: usize);

    /// Fetches what [`Int8Isa::widen`] will read.
    fn prefetch<F: Unpack>(self, w: Weights<'_>, first: usize, slab: usize);

    /// Packs a record; see [`super::pack()`].
    fn pack<F: Unpack>(self, x: &[f32], k: usize, cols: usize, tokens: usize, record: &mut [i32]);

    /// `c[token][row]` += Σ over `blocks` blocks of 32 columns, for `tokens` ≤ TOKENS.
    fn multiply<F: Unpack>(self, tokens: usize, tile: &Tile, record: &[i32], c: &mut [f32], blocks: usize);

    /// A slab of the only token's activations, up to 256 of them, a multiple of 32.
    fn act<F: Unpack>(self, x: &[f32]) -> ActSlab {
        act_slab::<F>(x, self.shares_scale::<F>())
    }

    /// `out[i]` = row `first` + i times x.
    fn dots<F: Unpack>(self, w: Weights<'_>, first: usize, x: &[ActSlab], out: &mut [f32]);

    /// Whether a token's activations share a scale per 256 columns here, not per 32. It is one answer for one token and for several, so that a
    /// position computed again, among others or alone, meets the same codes; what remains is how several tokens round the weights' side (NUMERICS.md).
    fn shares_scale<F: Unpack>(self) -> bool {
        false
    }

    /// The product of several tokens, in the way that is best here: by default [`ByBlock`].
    fn several<F: Unpack>(self, pool: &Pool, scratch: &mut Scratch, w: Weights<'_>, p: Product<'_>) {
        passes::<ByBlock<Self>, F>(ByBlock(self), pool, scratch, w, p);
    }
}

/// How a panel of weights meets the activations of several tokens.
pub(crate) trait Way<F: Unpack>: Copy + Sync {
    /// Tokens that the kernel takes at once.
    const TOKENS: usize;
    /// Dwords of a token's part of a record.
    const RECORD: usize;
    /// As [`Int8Isa::widen`].
    fn widen(self, tile: &mut Tile, w: Weights<'_>, first: usize, slab: usize);
    /// As [`Int8Isa::prefetch`].
    fn prefetch(self, w: Weights<'_>, first: usize, slab: usize);
    /// As [`Int8Isa::pack`].
    fn pack(self, x: &[f32], k: usize, cols: usize, tokens: usize, record: &mut [i32]);
    /// As [`Int8Isa::multiply`].
    fn multiply(self, tokens: usize, tile: &Tile, record: &[i32], c: &mut [f32], blocks: usize);
}

/// Activations have a scale per block of 32, and sums go to f32 after each: the specification's own arithmetic.
#[derive(Clone, Copy)]
pub(crate) struct ByBlock<I>(pub(crate) I);

impl<I: Int8Isa, F: Unpack> Way<F> for ByBlock<I> {
    const TOKENS: usize = I::TOKENS;
    const RECORD: usize = Record::len(F::GROUP);

    fn widen(self, tile: &mut Tile, w: Weights<'_>, first: usize, slab: usize) {
        self.0.widen::<F>(tile, w, first, slab);
    }

    fn prefetch(self, w: Weights<'_>, first: usize, slab: usize) {
        self.0.prefetch::<F>(w, first, slab);
    }

    fn pack(self, x: &[f32], k: usize, cols: usize, tokens: usize, record: &mut [i32]) {
        self.0.pack::<F>(x, k, cols, tokens, record);
    }

    fn multiply(self, tokens: usize, tile: &Tile, record: &[i32], c: &mut [f32], blocks: usize) {
        self.0.multiply::<F>(tokens, tile, record, c, blocks);
    }
}

/// The product of weights of format `F`.
pub(super) fn product<I: Int8Isa, F: Unpack>(isa: I, pool: &Pool, scratch: &mut Scratch, p: Product<'_>) {
    let w = Weights { bytes: p.w, row_bytes: p.w.len() / p.m, rows: p.m };
    match p.n {
        1 => one_token::<I, F>(isa, pool, scratch, w, p),
        _ => isa.several::<F>(pool, scratch, w, p),
    }
}

/// The product of several tokens, in passes.
pub(crate) fn passes<I: Way<F>, F: Unpack>(
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
fn pass<I: Way<F>, F: Unpack>(way: I, pool: &Pool, scratch: &mut Scratch, w: Weights<'_>, p: Product<'_>) {
    let Product { n, k, m, x, .. } = p;
    let (slabs, len) = (k.div_ceil(SLAB), I::RECORD);
    // Groups alike: 13 tokens are 7 and 6, not 12 and 1.
    let group = n.div_ceil(n.div_ceil(I::TOKENS));
    let packed = scratch.x.get::<i32>(slabs * n * len);
    // A piece is a group of tokens, whose rows of x are then read in order; where groups are too few, a slab of them all.
    let piece = if n >= 4 * group * pool.threads() { (slabs, group * len) } else { (1, n * len) };
    pool.tiles(packed, n * len, piece, &|_, mut tile| {
        let first = tile.first_col() / len;
        for row in 0..tile.rows() {
            let slab = tile.first_row() + row;
            for (g, record) in tile.row(row).chunks_mut(group * len).enumerate() {
                let x = &x[(first + g * group) * k + slab * SLAB..];
                way.pack(x, k, SLAB.min(k - slab * SLAB), record.len() / len, record);
            }
        }
    });
    let packed = &*packed;
    let rows = piece_rows(m, pool.threads());
    pool.tiles(p.out, m, (n, rows), &|thread, mut out| {
        let panels = out.cols().div_ceil(PANEL);
        with_scratch::<f32>(&scratch.threads[thread], panels * n * PANEL, |c| {
            c.fill(0.0);
            let mut tile = Tile::ZERO;
            let chunk = chunk_of(CHUNK, n);
            let column = out.first_col();
            let first = |panel: usize| column + panel * PANEL;
            for start in (0..slabs).step_by(chunk) {
                let end = slabs.min(start + chunk);
                for (panel, c) in c.chunks_exact_mut(n * PANEL).enumerate() {
                    for slab in start..end {
                        way.widen(&mut tile, w, first(panel), slab);
                        match slab + 1 < end {
                            true => way.prefetch(w, first(panel), slab + 1),
                            false => way.prefetch(w, first(panel + 1), start),
                        }
                        let blocks = (k - slab * SLAB).min(SLAB) / ActBlock::LEN;
                        let records = packed[slab * n * len..][..n * len].chunks(group * len);
                        for (i, (record, c)) in records.zip(c.chunks_mut(group * PANEL)).enumerate() {
                            way.multiply(record.len() / len, &tile, record, c, blocks);
                            // At once: the sums are near, and the kernel runs on while memory takes them.
                            if slab + 1 == slabs {
                                store(&mut out, panel, i * group, c, p.bias);
                            }
                        }
                    }
                }
            }
        });
    });
}

/// The product of one token.
fn one_token<I: Int8Isa, F: Unpack>(
    isa: I,
    pool: &Pool,
    scratch: &mut Scratch,
    w: Weights<'_>,
    p: Product<'_>,
) {
    let x = scratch.x.get::<ActSlab>(p.k.div_ceil(SLAB));
    for (slab, x) in x.iter_mut().zip(p.x.chunks(SLAB)) {
        *slab = isa.act::<F>(x);
    }
    let x = &*x;
    pool.tiles(p.out, p.m, (1, run_rows(p.m, w.row_bytes, pool.threads())), &|_, mut tile| {
        let first = tile.first_col();
        let out = tile.row(0);
        isa.dots::<F>(w, first, x, out);
        if let Some(bias) = p.bias {
            out.iter_mut().zip(&bias[first..]).for_each(|(out, bias)| *out += bias);
        }
    });
}

/// [`Int8Isa::act`], to be inlined where vectors are enabled: codes in the order of the columns.
#[inline(always)]
pub(crate) fn act_slab<F: Unpack>(x: &[f32], shared: bool) -> ActSlab {
    let mut slab: ActSlab = bytemuck::Zeroable::zeroed();
    let largest = x.iter().fold(0, |m, x| m.max(x.to_bits() & 0x7fff_ffff));
    for (i, x) in x.as_chunks::<32>().0.iter().enumerate() {
        let act = if shared { quantize_to(x, f32::from_bits(largest)) } else { ActBlock::new(x) };
        slab.q[32 * i..32 * i + 32].copy_from_slice(&act.q);
        slab.d[i] = act.d;
        slab.sum[i] = act.d * act.sum as f32;
        slab.sums32[i] = -act.sum as i16;
        for (sum, q) in slab.sums16[2 * i..].iter_mut().zip(act.q.as_chunks::<16>().0) {
            *sum = -q.iter().map(|&q| i16::from(q)).sum::<i16>();
        }
        for (off, q) in slab.off[8 * i..].iter_mut().zip(act.q.as_chunks::<4>().0) {
            *off = -F::ZERO * q.iter().map(|&q| i32::from(q)).sum::<i32>();
        }
    }
    slab
}
