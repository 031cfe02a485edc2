//! Products of many rows of x in matrix units: `halve.wgsl`, then `tile_coop.wgsl`.
//!
//! Weights of blocks, F16 and BF16 become halves on the way (11 bits, where x in 8 bits has 7); F32 stays in f32.

use super::{Context, Dispatch, Kernel, Main, Op, Rows, Target, groups, many::Form};
use crate::{
    DType,
    gpu::{device::Facts, planes::ALIGN},
};

/// Lanes of a subgroup at most: four of them make a workgroup.
const SUBGROUP: u32 = 64;

/// The edge of the matrices that products with a weight of `format` are made of, where the device multiplies such.
fn side(facts: &Facts, format: DType) -> Option<u32> {
    // The tiles in workgroup memory: 144 bytes a row and four matrices.
    let fits = |side: u32| 12 * side * 144 + 16 * side * side <= facts.workgroup_bytes;
    let has = |side: u32| facts.cooperative_matrix.contains(&(side, side, side)) && fits(side);
    let lanes = (4..=SUBGROUP).contains(&facts.subgroup_lanes);
    [16, 8].into_iter().find(|&side| format != DType::F32 && lanes && has(side))
}

/// Whether products of many rows with a weight of `format` need room for halves of x.
pub(super) fn possible(facts: &Facts, format: DType) -> bool {
    side(facts, format).is_some()
}

/// The edge of the matrices for `n` rows of x: for fewer than half of a tile of 8·side, the other kernels do less.
pub(super) fn takes(facts: &Facts, format: DType, n: usize) -> Option<u32> {
    side(facts, format).filter(|&side| n >= 4 * side as usize)
}

/// Bytes of the halves of `n` rows of `k`, and of all with their scales.
pub(super) fn bytes(n: usize, k: usize) -> (u64, u64) {
    let halves = (2 * n * k.next_multiple_of(32)) as u64;
    (halves, halves.next_multiple_of(ALIGN) + 4 * n as u64)
}

/// The product of `x`, of which the scratch holds the halves of all rows, with each of `targets`.
pub(super) fn product(c: &mut Context, out: &mut Vec<Dispatch>, side: u32, x: &Rows, targets: &[Target]) {
    let (buffer, _) = c.scratch.room();
    let (halves, _) = bytes(x.n, x.k);
    let scales = (halves.next_multiple_of(ALIGN) / 4) as u32;
    if !c.scratch.takes(x.norm.is_none().then_some((x.tensor, Form::Halves))) {
        out.push(halve(x, buffer, scales));
    }
    let lanes = 4 * c.facts.subgroup_lanes;
    out.extend(targets.iter().map(|target| tile(side, lanes, x, (buffer, scales), target)));
}

fn halve(x: &Rows, buffer: u32, scales: u32) -> Dispatch {
    let (norm, norm_at, eps) = x.norm.unwrap_or((x.buffer, 0, 0.0));
    let constants = if x.norm.is_some() { vec![("NORM", 1)] } else { Vec::new() };
    Dispatch {
        op: Op::Matmul,
        kernel: Kernel { constants, ..Kernel::plain(Main::Halve) },
        params: vec![x.n as u32, x.k as u32, x.at, norm_at, eps.to_bits(), 0, scales],
        buffers: vec![x.buffer, norm, buffer],
        groups: groups(x.n),
    }
}

fn tile(side: u32, lanes: u32, x: &Rows, (buffer, scales): (u32, u32), t: &Target) -> Dispatch {
    let (bias, bias_at) = t.bias.unwrap_or((t.arena, 0));
    let mut params = t.weight.to_vec();
    params.extend([t.first, t.rows as u32, x.n as u32, 0, scales, bias_at, t.at, t.stride]);
    let mut constants = vec![("LANES", lanes)];
    if t.bias.is_some() {
        constants.push(("BIAS", 1));
    }
    if t.add {
        constants.push(("ADD", 1));
    }
    let main = if side == 8 { Main::TileCoop8 } else { Main::TileCoop16 };
    Dispatch {
        op: Op::Matmul,
        kernel: Kernel { main, format: Some(t.format), constants },
        params,
        buffers: vec![t.arena, t.arena, buffer, buffer, bias, t.dst],
        groups: [(t.rows as u32).div_ceil(4 * side), (x.n as u32).div_ceil(8 * side), 1],
    }
}
