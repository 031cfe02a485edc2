// The largest k of each row: a workgroup keeps k of 2048 candidates, until 2048 or fewer are left.
//
// Candidates are sorted whole (a bitonic network, Batcher 1968: 66 steps of 4 exchanges a lane), by a number that orders as
// f32 does and by their place, so the result is exact and the same on every device: numbers are read as bits, which no
// device rounds. Those of 32,000 columns are left after two dispatches for k ≤ 64 (16 · 64 ≤ 2048). For k = 1 nothing is
// sorted: 8 comparisons a lane and 8 steps over the workgroup. Workgroup memory 16,384 bytes.
//
// Given up: selection by digits, which reads its candidates several times for less sorting: one row of logits is small.

struct Params {
    // Candidates of a row, how many are kept of each 2048, and workgroups of a row.
    count: u32,
    k: u32,
    chunks: u32,
    // Where candidates begin: in x, with so many columns a row, or pairs (bits, column) in `work`, counted in words.
    begin: u32,
    stride: u32,
    // Where those kept go, in `work` or in dst.
    to: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> work: array<u32>;
@group(0) @binding(3) var<storage, read_write> dst: array<u32>;

// Whether candidates are the columns of x, and whether those kept are the result.
override FIRST: bool;
override LAST: bool;
// Whether k is 1.
override ONE: bool;

const CHUNK = 2048u;
// The place of nothing: chunks have a last one that may not be full.
const NONE = 0xffffffffu;

// (key, place) of candidates.
var<workgroup> pairs: array<vec2<u32>, 2048>;

// Bits of an f32 to a number that orders alike: −0 as 0, NaN above all. No float gives 0.
fn key(bits: u32) -> u32 {
    let magnitude = bits & 0x7fffffffu;
    if magnitude > 0x7f800000u {
        return 0xffffffffu;
    }
    if magnitude == 0u {
        return 0x80000000u;
    }
    return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}

// Bits and column of candidate i of a row.
fn candidate(row: u32, i: u32) -> vec2<u32> {
    if FIRST {
        return vec2(x[p.begin + row * p.stride + i], i);
    }
    let at = p.begin + 2u * (row * p.count + i);
    return vec2(work[at], work[at + 1u]);
}

// Key and place, which is 0 and NONE past the end.
fn entry(row: u32, i: u32) -> vec2<u32> {
    if i < p.count {
        let c = candidate(row, i);
        if c.y != NONE {
            return vec2(key(c.x), i);
        }
    }
    return vec2(0u, NONE);
}

// Whether a comes before b. Places order as columns do among equals, also after the first round.
fn before(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.x > b.x || (a.x == b.x && a.y < b.y);
}

fn largest(t: u32) {
    for (var half = 128u; half > 0u; half /= 2u) {
        if t < half && before(pairs[t + half], pairs[t]) {
            pairs[t] = pairs[t + half];
        }
        workgroupBarrier();
    }
}

fn sort(t: u32) {
    for (var size = 2u; size <= CHUNK; size *= 2u) {
        for (var step = size / 2u; step > 0u; step /= 2u) {
            for (var n = 0u; n < CHUNK / 512u; n++) {
                let pair = t + 256u * n;
                let i = pair / step * 2u * step + pair % step;
                let a = pairs[i];
                let b = pairs[i + step];
                // Runs of `size` are sorted by turns up and down; the last one is the whole.
                if before(b, a) == ((i & size) == 0u) {
                    pairs[i] = b;
                    pairs[i + step] = a;
                }
            }
            workgroupBarrier();
        }
    }
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let chunk = group.x;
    let row = group.y;
    let first = chunk * CHUNK + t;
    if ONE {
        var best = entry(row, first);
        for (var n = 1u; n < CHUNK / 256u; n++) {
            let other = entry(row, first + 256u * n);
            if before(other, best) {
                best = other;
            }
        }
        pairs[t] = best;
        workgroupBarrier();
        largest(t);
    } else {
        for (var n = 0u; n < CHUNK / 256u; n++) {
            pairs[t + 256u * n] = entry(row, first + 256u * n);
        }
        workgroupBarrier();
        sort(t);
    }
    for (var j = t; j < p.k; j += 256u) {
        let place = pairs[j].y;
        var kept = vec2(0u, NONE);
        if place != NONE {
            kept = candidate(row, place);
        }
        if LAST {
            let at = p.to + 2u * row * p.k + j;
            dst[at] = kept.x;
            dst[at + p.k] = bitcast<u32>(f32(kept.y));
        } else {
            let at = p.to + 2u * ((row * p.chunks + chunk) * p.k + j);
            work[at] = kept.x;
            work[at + 1u] = kept.y;
        }
    }
}
