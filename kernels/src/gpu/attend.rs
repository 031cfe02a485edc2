//! Attention as dispatches: which kernel, how the keys are divided, and what merges them.
//!
//! Up to four rows go to `attention_split.wgsl`, which reads the cache once for them; more go in tiles of 64 to
//! `attention.wgsl`. Keys are divided into stretches where heads and rows alone do not fill the device, and where a cache
//! over the limit of a binding lies in several buffers: each stretch leaves its sums in the scratch, and `combine.wgsl`
//! merges them. Where there is one stretch the kernel writes the result itself.

use std::ops::Range;

use super::{
    adapter::Kind,
    buffers::{Buffers, row_words},
    dispatch::Dispatch,
    rows::groups,
    shader::{Kernel, Main},
};
use crate::{DType, Tensor, count::Op};

/// Rows up to which they go one by one: for fewer, most lanes of a tile would be idle.
const FEW_ROWS: usize = 4;
/// Queries that share a key head and go together.
const FEW_QUERIES: usize = 4;
/// Rows of a tile: `QUERIES` of attention.wgsl.
const TILE: usize = 64;
/// Columns whose output a workgroup of tiles holds.
const SIDE: usize = 128;
/// Keys of a stretch are a multiple of this: those that `attention_split.wgsl` takes at once.
const KEYS: usize = 64;
/// Stretches at most: what is written and merged stays 1/30 of a cache in F16, however many there are.
const STRETCHES: usize = 64;
/// Bytes of scratch above which rows go one tile after the other.
const ROUND_BYTES: usize = 8 << 20;

/// The operands: see [`crate::Backend::attention`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Attention {
    pub dst: Tensor,
    pub q: Tensor,
    pub k: Tensor,
    pub v: Tensor,
    pub positions: Option<Tensor>,
    /// Keys that the farthest row sees.
    pub keys: usize,
    pub head_dim: usize,
}

/// Some keys, which lie in one buffer.
struct Segment {
    keys: Range<usize>,
    /// Its stretches among those of all segments.
    slots: Range<usize>,
}

/// How an attention is divided.
struct Plan {
    heads: usize,
    /// Query heads that share a key head.
    group: usize,
    /// Whether the rows are few.
    few: bool,
    /// Queries of a workgroup, where they are few.
    queries: usize,
    /// Keys of a stretch.
    stretch: usize,
    segments: Vec<Segment>,
    slots: usize,
    /// Rows that are computed at once.
    rows: usize,
}

/// Workgroups of 256 lanes that keep a device busy: two or more for each processor of a large card, of the 4 to 16 of a
/// laptop's, of each core.
fn enough(kind: Kind) -> usize {
    match kind {
        Kind::Discrete | Kind::Virtual => 256,
        Kind::Integrated | Kind::Other => 64,
        Kind::Software => 16,
    }
}

impl Plan {
    fn new(b: &Buffers, kind: Kind, a: &Attention) -> Self {
        let (heads, key_heads) = (a.q.cols / a.head_dim, a.k.cols / a.head_dim);
        let (rows, group, few) = (a.q.rows, heads / key_heads, a.q.rows <= FEW_ROWS);
        let queries = (rows * group).min(FEW_QUERIES).next_power_of_two();
        let workgroups = match few {
            true => key_heads * (rows * group).div_ceil(queries),
            false => heads * rows.div_ceil(TILE) * a.head_dim.div_ceil(SIDE),
        };
        let wanted = (enough(kind) / workgroups).clamp(1, STRETCHES);
        let stretch = a.keys.div_ceil(wanted).next_multiple_of(KEYS);
        let mut slots = 0;
        let segments = b.stretches(&[a.k.rows(0, a.keys), a.v.rows(0, a.keys)]);
        let segments = segments.into_iter().map(|keys| {
            let first = slots;
            slots += keys.len().div_ceil(stretch);
            Segment { keys, slots: first..slots }
        });
        let segments: Vec<_> = segments.collect();
        let mut plan = Self { heads, group, few, queries, stretch, segments, slots, rows };
        if slots > 1 {
            let most = ROUND_BYTES / plan.row_bytes(a.head_dim);
            plan.rows = if most < TILE { most.max(1) } else { most / TILE * TILE }.min(rows);
        }
        plan
    }

    /// Bytes of the sums of a row.
    fn row_bytes(&self, head_dim: usize) -> usize {
        16 * (head_dim.div_ceil(4) + 1) * self.heads * self.slots
    }
}

/// Bytes of scratch for attention whose queries are [rows, cols], at most but for caches in several buffers: heads are not known
/// when a tensor is made, and are taken to be 8 wide or more.
pub(super) fn scratch_for(rows: usize, cols: usize) -> u64 {
    (rows.min(FEW_ROWS) * 8 * cols * STRETCHES).min(ROUND_BYTES) as u64
}

/// Bytes of scratch for `a`.
pub(super) fn scratch(b: &Buffers, kind: Kind, a: &Attention) -> u64 {
    let plan = Plan::new(b, kind, a);
    if plan.slots == 1 { 0 } else { (plan.rows * plan.row_bytes(a.head_dim)) as u64 }
}

/// Dispatches of `a`; `scratch` is asked for where the keys are divided.
pub(super) fn attention(
    b: &Buffers,
    kind: Kind,
    scratch: impl Fn() -> u32,
    out: &mut Vec<Dispatch>,
    a: &Attention,
) {
    let plan = Plan::new(b, kind, a);
    for rows in b.stretches(&[a.dst, a.q]) {
        for first in rows.clone().step_by(plan.rows) {
            let rows = first..rows.end.min(first + plan.rows);
            if plan.slots == 1 {
                let [segment] = &plan.segments[..] else { continue };
                out.push(sums(b, &plan, a, rows, segment, None));
                continue;
            }
            let scratch = scratch();
            for segment in &plan.segments {
                out.push(sums(b, &plan, a, rows.clone(), segment, Some(scratch)));
            }
            out.push(combine(b, &plan, a, rows, scratch));
        }
    }
}

/// Rows `rows` with the keys of a segment: the result, or sums of each stretch in the scratch.
fn sums(
    b: &Buffers,
    plan: &Plan,
    a: &Attention,
    rows: Range<usize>,
    segment: &Segment,
    scratch: Option<u32>,
) -> Dispatch {
    let Attention { k, v, head_dim, .. } = *a;
    let (n, keys) = (rows.len(), segment.keys.len());
    let (q, dst) = (b.place(a.q.rows(rows.start, n)), b.place(a.dst.rows(rows.start, n)));
    // Where all keys are seen, positions are not read.
    let (positions, position) = match a.positions {
        Some(positions) => {
            let place = b.place(positions);
            (place.buffer, place.at + rows.start as u32)
        }
        None => (q.buffer, 0),
    };
    let (k_buffer, k_planes) = planes(b, k.rows(segment.keys.start, keys));
    let (v_buffer, v_planes) = planes(b, v.rows(segment.keys.start, keys));
    let mut params = vec![
        n as u32,
        plan.heads as u32,
        plan.group as u32,
        keys as u32,
        segment.keys.start as u32,
        q.at,
        a.q.cols as u32,
        dst.at,
        a.dst.cols as u32,
        position,
    ];
    params.extend(k_planes);
    params.extend(v_planes);
    let scale = std::f32::consts::LOG2_E / (head_dim as f32).sqrt();
    params.extend([k.cols as u32, plan.stretch as u32, segment.slots.start as u32, plan.slots as u32]);
    params.push(scale.to_bits());
    let stretches = segment.slots.len();
    let groups = match plan.few {
        true => [stretches, plan.heads / plan.group, (n * plan.group).div_ceil(plan.queries)],
        false => [n.div_ceil(TILE), plan.heads, stretches * head_dim.div_ceil(SIDE)],
    };
    Dispatch {
        op: Op::Attention,
        kernel: kernel(plan, a, scratch.is_some()),
        params,
        buffers: vec![q.buffer, k_buffer, v_buffer, positions, scratch.unwrap_or(dst.buffer)],
        groups: groups.map(|count| count as u32),
    }
}

fn kernel(plan: &Plan, a: &Attention, partial: bool) -> Kernel {
    let cache = match a.k.dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::Q8_0 => 2,
        other => panic!("attention: a cache of {other}"),
    };
    let mut constants = vec![
        ("HEAD", a.head_dim as u32),
        ("CACHE", cache),
        ("CAUSAL", a.positions.is_some().into()),
        ("PARTIAL", partial.into()),
    ];
    if plan.few {
        let lanes = a.head_dim.div_ceil(8).next_power_of_two().max(4);
        constants.extend([("QUERIES", plan.queries as u32), ("LANES", lanes as u32)]);
        return Kernel { constants, ..Kernel::plain(Main::AttentionSplit) };
    }
    constants.push(("ROW", if a.head_dim <= SIDE / 2 { 16 } else { 32 }));
    Kernel { constants, ..Kernel::plain(Main::Attention) }
}

/// The buffer of rows of a cache; where its planes begin, in vec4s and words, and which of its rows is the first.
fn planes(b: &Buffers, t: Tensor) -> (u32, [u32; 3]) {
    let place = b.place(t);
    let first = place.first as u32;
    if t.dtype == DType::Q8_0 {
        return (place.buffer, [place.planes.quants, place.planes.scales, first]);
    }
    let begin = place.at - first * row_words(t.dtype, t.cols) as u32;
    assert!(begin.is_multiple_of(4), "attention: a cache begins at word {begin}");
    (place.buffer, [begin / 4, 0, first])
}

/// Merges what the stretches left of `rows`.
fn combine(b: &Buffers, plan: &Plan, a: &Attention, rows: Range<usize>, scratch: u32) -> Dispatch {
    let dst = b.place(a.dst.rows(rows.start, rows.len()));
    let lanes = rows.len() * plan.heads * a.head_dim.div_ceil(4);
    Dispatch {
        op: Op::Attention,
        kernel: Kernel { constants: vec![("HEAD", a.head_dim as u32)], ..Kernel::plain(Main::Combine) },
        params: vec![rows.len() as u32, plan.heads as u32, plan.slots as u32, dst.at, a.dst.cols as u32],
        buffers: vec![scratch, dst.buffer],
        groups: groups(lanes.div_ceil(64)),
    }
}
