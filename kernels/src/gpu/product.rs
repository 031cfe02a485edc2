//! Products of matrices as dispatches: which kernel takes which shape, and what is fused into it.
//!
//! ```text
//! rows of x   weights of blocks                                     weights of plain numbers
//! 1–4         decode: x rounded in each workgroup, or by a          decode_float
//!             dispatch of its own where it does not fit there
//! more        quantize, then tile                                   tile_float
//! 32 or 64    halve, then tile_coop, where there are matrix units   the same, but for F32
//! ```
//! With few rows all that a layer does around a product is done in it: the norm before it, several weights that meet the same x,
//! and after it a bias, a sum, SwiGLU, RoPE, or the way into a cache. [`Product`] says what is wanted and tells the dispatches,
//! or that there is no such kernel. With many rows the norm, bias and sum are.

mod coop;
pub(in crate::gpu) mod few;
mod many;
#[cfg(test)]
mod tests;

use super::{
    buffers::{Buffers, Place},
    device::Facts,
    dispatch::Dispatch,
    rows::groups,
    shader::{Kernel, Main},
    turns::Table,
};
use crate::{DType, Tensor, count::Op};

pub(super) use many::Scratch;

/// Rows of x that count as few: what a lane of `decode.wgsl` has room for.
pub(super) const FEW: usize = 4;
/// Weights that one dispatch of few rows can take.
pub(super) const PARTS: usize = 3;

/// A product, with what is fused into it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Product {
    /// [n, k] F32.
    pub x: Tensor,
    /// What is done to x first.
    pub norm: Option<Norm>,
    /// What it is multiplied by, and what becomes of that.
    pub sums: Sums,
}

/// x / √(mean(x²) + eps) · weight, by rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Norm {
    /// [1, k] F32.
    pub weight: Tensor,
    pub eps: f32,
}

/// What x is multiplied by.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Sums {
    /// One to [`PARTS`] weights of one format, each with a destination of its own.
    Parts(Vec<Part>),
    /// dst = silu(x·gateᵀ)·(x·upᵀ): `gate` and `up` [m, k] of one format, `dst` [n, m] F32.
    SwiGlu { dst: Tensor, gate: Tensor, up: Tensor },
}

/// A weight that x meets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Part {
    /// [m, k].
    pub w: Tensor,
    /// [n, m] F32, or F16 of even width (rows of a cache), into which sums are rounded.
    pub dst: Tensor,
    pub then: Then,
}

/// What becomes of sums.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Then {
    /// dst = sums.
    Store,
    /// dst = sums + bias, [1, m] F32.
    Bias(Tensor),
    /// dst += sums. F32.
    Add,
    /// dst = sums, with the first pairs of every head of `head_dim` elements turned (RoPE). `turns` are those of x's rows.
    Turn { turns: Table, head_dim: usize },
}

impl Then {
    fn bias(self) -> Option<Tensor> {
        match self {
            Then::Bias(bias) => Some(bias),
            _ => None,
        }
    }
}

/// What products are made with.
pub(super) struct Context<'a> {
    pub buffers: &'a Buffers,
    pub facts: &'a Facts,
    pub scratch: &'a mut Scratch,
}

/// A weight's rows in one buffer, with all that a shader is told of them and of where their sums go.
#[derive(Debug, Clone, Copy)]
struct Target {
    format: DType,
    arena: u32,
    /// `Weight` of weight.wgsl.
    weight: [u32; 4],
    /// The first of these rows, in the weight's planes.
    first: u32,
    rows: usize,
    /// The buffer of the destination, its first element, and the elements from one row to the next.
    dst: u32,
    at: u32,
    stride: u32,
    half: bool,
    add: bool,
    /// Buffer and first float.
    bias: Option<(u32, u32)>,
    turn: Option<(Table, usize)>,
}

impl Target {
    /// Of a part, the rows of the weight that lie at `w`; `dst` is where the sums' rows lie.
    fn new(b: &Buffers, part: &Part, w: &Place, dst: &Place) -> Self {
        let half = part.dst.dtype == DType::F16;
        let (weight, first) = located(part.w, w);
        Self {
            format: part.w.dtype,
            arena: w.buffer,
            weight,
            first,
            rows: w.rows,
            dst: dst.buffer,
            at: (if half { 2 * dst.at } else { dst.at }) + w.from as u32,
            stride: part.dst.cols as u32,
            half,
            add: part.then == Then::Add,
            bias: part.then.bias().map(|bias| {
                let place = b.place(bias);
                (place.buffer, place.at + w.from as u32)
            }),
            turn: match part.then {
                Then::Turn { turns, head_dim } => Some((turns, head_dim)),
                _ => None,
            },
        }
    }
}

/// `Weight` of weight.wgsl, and the first row of `place` in it.
fn located(w: Tensor, place: &Place) -> ([u32; 4], u32) {
    let k = w.cols as u32;
    match w.dtype {
        DType::F32 => ([place.at, 0, 0, k], 0),
        _ => ([place.planes.quants, place.planes.high, place.planes.scales, k], place.first as u32),
    }
}

/// x where its rows lie together, and the norm's weights.
#[derive(Debug, Clone, Copy)]
struct Rows {
    /// The view of these rows.
    tensor: Tensor,
    buffer: u32,
    /// Their first element.
    at: u32,
    n: usize,
    k: usize,
    /// Buffer, first element, eps.
    norm: Option<(u32, u32, f32)>,
}

impl Rows {
    /// `x`, which lies in one part.
    fn new(b: &Buffers, x: Tensor, norm: Option<Norm>) -> Self {
        let place = b.place(x);
        let norm = norm.map(|norm| {
            let place = b.place(norm.weight);
            (place.buffer, place.at, norm.eps)
        });
        Self { tensor: x, buffer: place.buffer, at: place.at, n: x.rows, k: x.cols, norm }
    }
}

/// Whether products with a weight of `format` need the scratch.
pub(super) fn rounds(facts: &Facts, format: DType) -> bool {
    format.is_quantized() || coop::possible(facts, format)
}

/// dst = x·wᵀ + bias, whatever the shapes and wherever the operands lie.
pub(super) fn matmul(
    c: &mut Context,
    out: &mut Vec<Dispatch>,
    dst: Tensor,
    x: Tensor,
    w: Tensor,
    bias: Option<Tensor>,
) {
    for rows in c.buffers.stretches(&[dst, x]) {
        let view = |t: Tensor| t.rows(rows.start, rows.len());
        let part = Part { w, dst: view(dst), then: bias.map_or(Then::Store, Then::Bias) };
        let x = Rows::new(c.buffers, view(x), None);
        let at = c.buffers.place(part.dst);
        let places = c.buffers.places(w);
        let targets: Vec<_> = places.iter().map(|w| Target::new(c.buffers, &part, w, &at)).collect();
        if x.n <= FEW && few::takes(&x, w.dtype) {
            for target in &targets {
                few::product(c, out, &x, std::slice::from_ref(target), false);
            }
        } else {
            many::product(c, out, &x, &targets);
        }
    }
    c.scratch.wrote(Some(dst));
}

impl Product {
    /// Whether there is a kernel for all of it at once. There is none where operands lie in several parts, weights in several
    /// buffers, or formats and shapes do not fit. It may be there for fewer things fused; [`matmul`] does for all.
    pub fn possible(&self, b: &Buffers) -> bool {
        self.plan(b).is_some()
    }

    /// Its dispatches, added to `out`; false, and nothing added, where it is not [`Product::possible`].
    pub fn dispatches(&self, c: &mut Context, out: &mut Vec<Dispatch>) -> bool {
        let Some((x, targets)) = self.plan(c.buffers) else { return false };
        if x.n <= FEW {
            few::product(c, out, &x, &targets, matches!(self.sums, Sums::SwiGlu { .. }));
        } else {
            many::product(c, out, &x, &targets);
        }
        match &self.sums {
            Sums::Parts(parts) => parts.iter().for_each(|part| c.scratch.wrote(Some(part.dst))),
            Sums::SwiGlu { dst, .. } => c.scratch.wrote(Some(*dst)),
        }
        true
    }

    /// What a kernel is told, where there is one.
    fn plan(&self, b: &Buffers) -> Option<(Rows, Vec<Target>)> {
        let swiglu = matches!(self.sums, Sums::SwiGlu { .. });
        let (x, targets) = self.located(b)?;
        let first = targets[0];
        let kernel = if x.n <= FEW {
            few::takes(&x, first.format)
                && targets.iter().all(|t| t.arena == first.arena)
                && (!swiglu || targets.iter().all(|t| t.rows == first.rows))
        } else {
            let plain = targets.iter().all(|t| !t.half && t.turn.is_none());
            plain && !swiglu && (x.norm.is_none() || first.format.is_quantized())
        };
        kernel.then_some((x, targets))
    }

    /// Its operands, where each lies in one part, all weights are of one format, and no buffer is both read and written. Fusing asks
    /// for it several times a dispatch, so nothing is gathered on the way.
    fn located(&self, b: &Buffers) -> Option<(Rows, Vec<Target>)> {
        let pair;
        let parts: &[Part] = match &self.sums {
            Sums::Parts(parts) => parts,
            &Sums::SwiGlu { dst, gate, up } => {
                pair = [gate, up].map(|w| Part { w, dst, then: Then::Store });
                &pair
            }
        };
        let whole = |t: Tensor| b.whole(t).is_some();
        let norm = self.norm.map(|norm| norm.weight);
        let read = || {
            let own = parts.iter().flat_map(|p| [Some(p.w), p.then.bias()]);
            [Some(self.x), norm].into_iter().chain(own).flatten()
        };
        let fits = |p: &Part| {
            let kept = match p.dst.dtype {
                DType::F32 => true,
                DType::F16 => p.then != Then::Add && p.dst.cols.is_multiple_of(2),
                _ => false,
            };
            let apart = read().all(|r| r.buffer != p.dst.buffer);
            kept && apart && whole(p.dst) && p.w.dtype == parts[0].w.dtype
        };
        let all = (1..=PARTS).contains(&parts.len())
            && one_extra(parts)
            && read().all(whole)
            && parts.iter().all(fits);
        all.then(|| {
            let targets = parts.iter().map(|p| Target::new(b, p, &b.place(p.w), &b.place(p.dst))).collect();
            (Rows::new(b, self.x, self.norm), targets)
        })
    }
}

/// Whether biases and turns of all parts are one: a dispatch binds one buffer for them and has one shape of heads.
fn one_extra(parts: &[Part]) -> bool {
    let mut extras = parts.iter().map(|p| p.then).filter(|t| matches!(t, Then::Bias(_) | Then::Turn { .. }));
    match extras.next() {
        Some(Then::Bias(_)) => extras.next().is_none(),
        first => extras.all(|t| Some(t) == first),
    }
}

/// `dst[i] = table[ids[i]]`, dequantized; `ids` in a column or a row.
pub(super) fn get_rows(b: &Buffers, out: &mut Vec<Dispatch>, dst: Tensor, table: Tensor, ids: Tensor) {
    let ids = b.place(ids);
    for d in b.places(dst) {
        for t in b.places(table) {
            let (weight, first) = located(table, &t);
            let [n, rows, start] = [d.rows, t.rows, t.from].map(|v| v as u32);
            let mut params = weight.to_vec();
            params.extend([first, start, rows, n, ids.at + d.from as u32, d.at]);
            out.push(Dispatch {
                op: Op::GetRows,
                kernel: Kernel { format: Some(table.dtype), ..Kernel::plain(Main::GetRows) },
                params,
                buffers: vec![t.buffer, t.buffer, ids.buffer, d.buffer],
                groups: groups((d.rows * table.cols.div_ceil(32)).div_ceil(256)),
            });
        }
    }
}
