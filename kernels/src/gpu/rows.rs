//! Ops that take rows or elements one by one, as dispatches: norms, RoPE, activations, sums, conversions.

use super::{
    buffers::{Buffers, Place, row_words},
    dispatch::Dispatch,
    shader::{Kernel, Main},
    turns::Table,
};
use crate::{DType, Gelu, Tensor, count::Op};

/// Lanes of a workgroup in all of these kernels.
const LANES: usize = 256;
/// Workgroups in a row of them: `WIDE` of prelude.wgsl.
const WIDE: u32 = 32768;

/// So many workgroups, in rows.
pub(super) fn groups(count: usize) -> [u32; 3] {
    let count = count as u32;
    [count.min(WIDE), count.div_ceil(WIDE).max(1), 1]
}

/// Dispatches of `kernel` for every stretch of rows in which each of `tensors` has one place; the other buffers come from
/// `params` together with the parameters and the number of workgroups.
fn each(
    b: &Buffers,
    tensors: &[Tensor],
    mut dispatch: impl FnMut(usize, &[Place]) -> Option<Dispatch>,
    out: &mut Vec<Dispatch>,
) {
    for rows in b.stretches(tensors) {
        let places: Vec<_> = tensors.iter().map(|t| b.place(t.rows(rows.start, rows.len()))).collect();
        out.extend(dispatch(rows.len(), &places));
    }
}

pub(super) fn rms_norm(
    b: &Buffers,
    out: &mut Vec<Dispatch>,
    dst: Tensor,
    x: Tensor,
    weight: Tensor,
    eps: f32,
) {
    let w = b.place(weight);
    let dispatch = |rows: usize, places: &[Place]| {
        let &[dst, x] = places else { return None };
        Some(Dispatch {
            op: Op::RmsNorm,
            kernel: Kernel::plain(Main::RmsNorm),
            params: vec![rows as u32, weight.cols as u32, x.at, w.at, dst.at, eps.to_bits()],
            buffers: vec![x.buffer, w.buffer, dst.buffer],
            groups: groups(rows),
        })
    };
    each(b, &[dst, x], dispatch, out);
}

pub(super) fn layer_norm(
    b: &Buffers,
    out: &mut Vec<Dispatch>,
    dst: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: f32,
) {
    let (w, bias) = (b.place(weight), b.place(bias));
    let dispatch = |rows: usize, places: &[Place]| {
        let &[dst, x] = places else { return None };
        Some(Dispatch {
            op: Op::LayerNorm,
            kernel: Kernel::plain(Main::LayerNorm),
            params: vec![rows as u32, weight.cols as u32, x.at, w.at, bias.at, dst.at, eps.to_bits()],
            buffers: vec![x.buffer, w.buffer, bias.buffer, dst.buffer],
            groups: groups(rows),
        })
    };
    each(b, &[dst, x], dispatch, out);
}

pub(super) fn rope(b: &Buffers, out: &mut Vec<Dispatch>, x: Tensor, turns: Table, head_dim: usize) {
    for place in b.places(x) {
        let first = turns.first + (place.from * turns.pairs) as u32;
        let pairs = x.cols / 2;
        out.push(Dispatch {
            op: Op::Rope,
            kernel: Kernel::plain(Main::Rope),
            params: vec![
                place.rows as u32,
                pairs as u32,
                head_dim as u32 / 2,
                turns.pairs as u32,
                place.at,
                first,
            ],
            buffers: vec![turns.buffer, place.buffer],
            groups: groups((place.rows * pairs).div_ceil(LANES)),
        });
    }
}

pub(super) fn swiglu(b: &Buffers, out: &mut Vec<Dispatch>, gate: Tensor, up: Tensor) {
    let dispatch = |rows: usize, places: &[Place]| {
        let &[g, u] = places else { return None };
        let len = rows * gate.cols;
        Some(Dispatch {
            op: Op::SwiGlu,
            kernel: Kernel::plain(Main::SwiGlu),
            params: vec![len as u32, g.at, u.at],
            buffers: vec![u.buffer, g.buffer],
            groups: groups(len.div_ceil(LANES)),
        })
    };
    each(b, &[gate, up], dispatch, out);
}

pub(super) fn gelu(b: &Buffers, out: &mut Vec<Dispatch>, x: Tensor, kind: Gelu) {
    let kind = match kind {
        Gelu::Erf => 0,
        Gelu::Quick => 1,
        Gelu::Tanh => 2,
    };
    for place in b.places(x) {
        let len = place.rows * x.cols;
        out.push(Dispatch {
            op: Op::Gelu,
            kernel: Kernel { constants: vec![("KIND", kind)], ..Kernel::plain(Main::Gelu) },
            params: vec![len as u32, place.at],
            buffers: vec![place.buffer],
            groups: groups(len.div_ceil(LANES)),
        });
    }
}

pub(super) fn add(b: &Buffers, out: &mut Vec<Dispatch>, dst: Tensor, x: Tensor) {
    let kernel = |rows: usize, d: Place, x: Place, x_rows: usize| {
        let len = rows * dst.cols;
        Dispatch {
            op: Op::Add,
            kernel: Kernel::plain(Main::Add),
            params: vec![len as u32, d.at, x.at, (x_rows * dst.cols) as u32],
            buffers: vec![x.buffer, d.buffer],
            groups: groups(len.div_ceil(LANES)),
        }
    };
    if x.rows == 1 && dst.rows != 1 {
        let x = b.place(x);
        out.extend(b.places(dst).into_iter().map(|d| kernel(d.rows, d, x, 1)));
        return;
    }
    let dispatch = |rows: usize, places: &[Place]| {
        let &[d, x] = places else { return None };
        Some(kernel(rows, d, x, rows))
    };
    each(b, &[dst, x], dispatch, out);
}

pub(super) fn copy(b: &Buffers, out: &mut Vec<Dispatch>, dst: Tensor, x: Tensor) {
    if dst.dtype == DType::Q8_0 && x.dtype == DType::F32 {
        return copy_q8_0(b, out, dst, x);
    }
    let narrow = dst.dtype != x.dtype;
    let dispatch = |rows: usize, places: &[Place]| {
        let &[d, x] = places else { return None };
        let words = rows * row_words(dst.dtype, dst.cols);
        Some(Dispatch {
            op: Op::Copy,
            kernel: Kernel {
                constants: if narrow { vec![("TO_F16", 1)] } else { Vec::new() },
                ..Kernel::plain(Main::Convert)
            },
            params: vec![words as u32, x.at, d.at],
            buffers: vec![x.buffer, d.buffer],
            groups: groups(words.div_ceil(LANES)),
        })
    };
    each(b, &[dst, x], dispatch, out);
}

fn copy_q8_0(b: &Buffers, out: &mut Vec<Dispatch>, dst: Tensor, x: Tensor) {
    let blocks = dst.cols / DType::Q8_0.block_len();
    let dispatch = |rows: usize, places: &[Place]| {
        let &[d, x] = places else { return None };
        Some(Dispatch {
            op: Op::Copy,
            kernel: Kernel::plain(Main::ConvertQ8_0),
            params: vec![
                (rows * blocks) as u32,
                x.at,
                (d.first * blocks) as u32,
                4 * d.planes.quants,
                d.planes.scales,
            ],
            buffers: vec![x.buffer, d.buffer],
            groups: groups((rows * blocks).div_ceil(LANES)),
        })
    };
    each(b, &[dst, x], dispatch, out);
}
