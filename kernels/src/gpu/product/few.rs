//! Products of up to four rows of x: `decode.wgsl` and `decode_float.wgsl`.

use super::{Context, Dispatch, FEW, Kernel, Main, Op, PARTS, Rows, Target, groups, many};
use crate::DType;

/// Rows of weights for each workgroup, for each pair that its teams have: `decode.wgsl`.
const ROWS: usize = 16;
/// So many workgroups fill any device, so that the same work may go to half of them.
const ENOUGH: usize = 512;
/// Bits of `Part.then` in parts.wgsl.
const BIAS: u32 = 1;
const ADD: u32 = 2;
const TURN: u32 = 4;
const HALF: u32 = 8;
/// Bytes of workgroup memory for a group of x: 32 codes and two floats.
const GROUP_BYTES: usize = 40;

/// Whether there is a kernel for few rows of `x` and weights of `format`: it reads four elements at a time.
pub(super) fn takes(x: &Rows, format: DType) -> bool {
    format.is_quantized() || x.k.is_multiple_of(4)
}

/// Workgroup memory that `decode.wgsl` takes with `groups` of x in it, in bytes.
pub(in crate::gpu) fn workgroup_bytes(groups: usize, subgroups: bool) -> usize {
    // `lanes` of subgroup.wgsl or workgroup.wgsl, `levels` of levels.wgsl.
    let sums = if subgroups { 1024 } else { 4096 };
    groups * GROUP_BYTES + sums + 64
}

/// The product of `x` with weights that lie in one buffer; with `both` they are gate and up.
pub(super) fn product(c: &mut Context, out: &mut Vec<Dispatch>, x: &Rows, targets: &[Target], both: bool) {
    let format = targets[0].format;
    let workgroups = |rows| parts(targets, both, rows).1;
    let pairs = if workgroups(ROWS) >= ENOUGH { 2 } else { 1 };
    let mut constants = vec![("N", x.n as u32), ("PAIRS", pairs)];
    if both {
        constants.push(("BOTH", 1));
    }
    let mut input = Input::plain(x);
    let main = if format.is_quantized() {
        let x_groups = x.n * x.k / 32;
        if workgroup_bytes(x_groups, c.facts.subgroups) <= c.facts.workgroup_bytes as usize {
            constants.push(("GROUPS", x_groups as u32));
        } else {
            let planes = many::round(c, out, x);
            input =
                Input { codes: planes.codes, scales: planes.scales, ..Input::of_scratch(planes.buffer, x) };
            constants.push(("PLANES", 1));
        }
        Main::Decode
    } else {
        Main::DecodeFloat
    };
    if input.normed {
        constants.push(("NORM", 1));
    }
    let (parts, count) = parts(targets, both, ROWS * pairs as usize);
    let mut params = parts;
    let eps = x.norm.map_or(0.0, |norm| norm.2);
    let (turns, head) = targets.iter().find_map(|t| t.turn).map_or((None, 2), |(t, head)| (Some(t), head));
    params.extend([input.codes, input.stride, input.scales, input.norm_at, eps.to_bits()]);
    params.extend([turns.map_or(0, |t| 2 * t.first), turns.map_or(0, |t| t.pairs as u32), head as u32]);
    let arena = targets[0].arena;
    let extra = targets.iter().find_map(|t| t.bias).map(|(buffer, _)| buffer).or(turns.map(|t| t.buffer));
    let mut buffers = vec![arena, arena, input.buffer, input.norm, extra.unwrap_or(arena)];
    let dsts = |i: usize| targets.get(i).unwrap_or(&targets[0]).dst;
    buffers.extend((0..PARTS).map(dsts));
    out.push(Dispatch {
        op: Op::Matmul,
        kernel: Kernel { main, format: Some(format), constants },
        params,
        buffers,
        groups: groups(count),
    });
    debug_assert!(x.n <= FEW, "{} rows are not few", x.n);
}

/// Where a kernel finds x: fields of `Params` in parts.wgsl, and buffers.
struct Input {
    buffer: u32,
    codes: u32,
    stride: u32,
    scales: u32,
    norm: u32,
    norm_at: u32,
    normed: bool,
}

impl Input {
    /// As it is, to be normed by the kernel.
    fn plain(x: &Rows) -> Self {
        let (norm, norm_at, _) = x.norm.unwrap_or((x.buffer, 0, 0.0));
        Self {
            buffer: x.buffer,
            codes: x.at / 4,
            stride: (x.k / 4) as u32,
            scales: 0,
            norm,
            norm_at: norm_at / 4,
            normed: x.norm.is_some(),
        }
    }

    /// Rounded, in `buffer`.
    fn of_scratch(buffer: u32, x: &Rows) -> Self {
        let stride = (x.k / 16) as u32;
        Self { buffer, codes: 0, stride, scales: 0, norm: buffer, norm_at: 0, normed: false }
    }
}

/// `parts` of parts.wgsl, and how many workgroups of `rows` rows they need.
fn parts(targets: &[Target], both: bool, rows: usize) -> (Vec<u32>, usize) {
    let mut params = Vec::new();
    let mut next = 0;
    for target in targets {
        let then = [
            (target.bias.is_some(), BIAS),
            (target.add, ADD),
            (target.turn.is_some(), TURN),
            (target.half, HALF),
        ];
        let then: u32 = then.iter().filter(|(is, _)| *is).map(|(_, bit)| bit).sum();
        params.extend(target.weight);
        params.extend([target.first, target.rows as u32, next as u32, target.at, target.stride]);
        params.extend([target.bias.map_or(0, |(_, at)| at), then, 0]);
        next += target.rows.div_ceil(rows);
    }
    for _ in targets.len()..PARTS {
        params.extend([0; 4]);
        // No workgroup has so high a number.
        params.extend([0, 0, u32::MAX, 0, 0, 0, 0, 0]);
    }
    (params, if both { targets[0].rows.div_ceil(rows) } else { next })
}
