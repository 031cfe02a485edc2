//! Products of many rows of x: `quantize.wgsl` and `tile.wgsl`, or `tile_float.wgsl`; in matrix units see `coop.rs`.

use super::{Context, Dispatch, Kernel, Main, Op, Rows, Target, coop, groups};
use crate::Tensor;
use crate::gpu::{
    buffers::{STORAGE, Slots},
    device::Device,
    planes::ALIGN,
};

/// Rows of weights of a tile.
const TILE: usize = 64;
/// Bytes for rows of x in 8 bits at most: 3,276 rows of a 7B model at a time; more go in several rounds …
const SCRATCH: u64 = 16 << 20;
/// … and at least, however small bindings are: a row of any model.
const LEAST_SCRATCH: u64 = 128 << 10;

/// Where x lies in 8 bits between two dispatches.
#[derive(Debug, Default)]
pub(in crate::gpu) struct Scratch {
    /// Its buffer, and the bytes of it.
    room: Option<(u32, u64)>,
    /// The x that it holds, whole and not normed.
    holds: Option<(Tensor, Form)>,
}

/// What x is rounded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// 8 bits (`quantize.wgsl`).
    Codes,
    /// 16-bit floats (`halve.wgsl`).
    Halves,
}

impl Scratch {
    /// Makes sure that it is there, before the first weight of blocks is used; false where there is no memory.
    pub fn reserve(&mut self, device: &mut Device, slots: &mut Slots) -> bool {
        if self.room.is_none() {
            let bytes = device.facts.segment_bytes.clamp(LEAST_SCRATCH, SCRATCH);
            self.room = device.buffer("rounded", bytes, STORAGE).map(|buffer| (slots.add(buffer), bytes));
        }
        self.room.is_some()
    }

    /// An op wrote `t`, or, without one, anything may have been written: what was rounded may be old.
    pub fn wrote(&mut self, t: Option<Tensor>) {
        if t.is_none_or(|t| self.holds.is_some_and(|(x, _)| x.buffer == t.buffer)) {
            self.holds = None;
        }
    }

    /// Its buffer and the bytes of it.
    pub(super) fn room(&self) -> (u32, u64) {
        self.room.expect("scratch is reserved when a weight is loaded for which x is rounded")
    }

    /// Holds `x` from now on, `None` for what no other product can use; whether it did already.
    pub(super) fn takes(&mut self, x: Option<(Tensor, Form)>) -> bool {
        let held = x.is_some() && self.holds == x;
        self.holds = x;
        held
    }
}

/// Rows of x in 8 bits: `codes` begin in vec4s, `scales` in pairs of floats.
pub(super) struct Rounded {
    pub buffer: u32,
    pub codes: u32,
    pub scales: u32,
}

/// Bytes of `n` rows of `k` in 8 bits: the codes, aligned, and all.
fn bytes(n: usize, k: usize) -> (u64, u64) {
    let codes = ((n * k) as u64).next_multiple_of(ALIGN);
    (codes, codes + (n * k / 4) as u64)
}

/// Rounds `x`, which the scratch has room for.
pub(super) fn round(c: &mut Context, out: &mut Vec<Dispatch>, x: &Rows) -> Rounded {
    let (buffer, room) = c.scratch.room();
    let (scales, all) = bytes(x.n, x.k);
    assert!(all <= room, "{} rows of {} take {all} bytes in 8 bits, there are {room}", x.n, x.k);
    let rounded = Rounded { buffer, codes: 0, scales: (scales / 8) as u32 };
    if c.scratch.takes(x.norm.is_none().then_some((x.tensor, Form::Codes))) {
        return rounded;
    }
    let (norm, norm_at, eps) = x.norm.unwrap_or((x.buffer, 0, 0.0));
    let constants = if x.norm.is_some() { vec![("NORM", 1)] } else { Vec::new() };
    out.push(Dispatch {
        op: Op::Matmul,
        kernel: Kernel { constants, ..Kernel::plain(Main::Quantize) },
        params: vec![
            x.n as u32,
            x.k as u32,
            x.at / 4,
            norm_at / 4,
            eps.to_bits(),
            rounded.codes,
            rounded.scales,
        ],
        buffers: vec![x.buffer, norm, buffer, buffer],
        groups: groups(x.n),
    });
    rounded
}

/// The product of `x` with each of `targets`.
pub(super) fn product(c: &mut Context, out: &mut Vec<Dispatch>, x: &Rows, targets: &[Target]) {
    let Some(format) = targets.first().map(|t| t.format) else { return };
    let side = coop::takes(c.facts, format, x.n);
    if side.is_none() && !format.is_quantized() {
        out.extend(targets.iter().map(|target| float(x, target)));
        return;
    }
    let (_, room) = c.scratch.room();
    let taken = |n| if side.is_some() { coop::bytes(n, x.k).1 } else { bytes(n, x.k).1 };
    let mut most = x.n;
    while most > 1 && taken(most) > room {
        most = most.div_ceil(2);
    }
    for first in (0..x.n).step_by(most) {
        let n = most.min(x.n - first);
        let at = x.at + (first * x.k) as u32;
        let rows = Rows { tensor: x.tensor.rows(first, n), at, n, ..*x };
        let at = |t: &Target| Target { at: t.at + first as u32 * t.stride, ..*t };
        let targets: Vec<_> = targets.iter().map(at).collect();
        if let Some(side) = side {
            coop::product(c, out, side, &rows, &targets);
            continue;
        }
        let rounded = round(c, out, &rows);
        out.extend(targets.iter().map(|target| quantized(&rows, &rounded, target)));
    }
}

/// Rows of x for each lane of a tile, so that few rows are not computed as 64.
fn columns(n: usize) -> u32 {
    match n {
        0..=16 => 1,
        17..=32 => 2,
        _ => 4,
    }
}

fn constants(n: usize, target: &Target) -> Vec<(&'static str, u32)> {
    let mut constants = vec![("COLS", columns(n))];
    if target.bias.is_some() {
        constants.push(("BIAS", 1));
    }
    if target.add {
        constants.push(("ADD", 1));
    }
    constants
}

fn tiles(n: usize, m: usize) -> [u32; 3] {
    [m.div_ceil(TILE) as u32, n.div_ceil(16 * columns(n) as usize) as u32, 1]
}

fn quantized(x: &Rows, rounded: &Rounded, t: &Target) -> Dispatch {
    let (bias, bias_at) = t.bias.unwrap_or((t.arena, 0));
    let mut params = t.weight.to_vec();
    params.extend([t.first, t.rows as u32, x.n as u32, rounded.codes, rounded.scales]);
    params.extend([bias_at, t.at, t.stride]);
    Dispatch {
        op: Op::Matmul,
        kernel: Kernel { main: Main::Tile, format: Some(t.format), constants: constants(x.n, t) },
        params,
        buffers: vec![t.arena, t.arena, rounded.buffer, rounded.buffer, bias, t.dst],
        groups: tiles(x.n, t.rows),
    }
}

fn float(x: &Rows, t: &Target) -> Dispatch {
    let (bias, bias_at) = t.bias.unwrap_or((t.arena, 0));
    let mut params = t.weight.to_vec();
    params.extend([t.first, t.rows as u32, x.n as u32, x.at, bias_at, t.at, t.stride]);
    Dispatch {
        op: Op::Matmul,
        kernel: Kernel { main: Main::TileFloat, format: Some(t.format), constants: constants(x.n, t) },
        params,
        buffers: vec![t.arena, t.arena, x.buffer, bias, t.dst],
        groups: tiles(x.n, t.rows),
    }
}
