// What products of few rows have in common: which weights a dispatch multiplies by, and what becomes of the sums.
//
// A dispatch has up to three parts, weights of one format in one buffer that meet the same x: q, k and v of a layer. A workgroup
// belongs to one part. Each part has its own destination, and there its sums are stored, added, or turned by RoPE on their way
// into a cache; so projections, rotation and cache are one dispatch. With BOTH, parts 0 and 1 are the gate and the up
// projection, a workgroup has the same rows of both and stores silu(gate)·up.
//
// What a lane keeps for each row of x is indexed by constants, here and in the kernels: an array that a loop runs over is in
// registers only where a driver unrolls the loop.

struct Part {
    weight: Weight,
    // The weight's row that is the part's first, how many rows there are, the first workgroup.
    first: u32,
    rows: u32,
    group: u32,
    // Where its sums go, and how far rows of it lie apart, in elements of the destination.
    dst: u32,
    stride: u32,
    // Where its bias begins.
    bias: u32,
    // What becomes of the sums: BIAS, ADD …
    then: u32,
    unused: u32,
}

// Adds the bias; adds to what the destination holds; turns pairs; stores halves, two in a word.
const BIAS: u32 = 1u;
const ADD: u32 = 2u;
const TURN: u32 = 4u;
const HALF: u32 = 8u;

struct Params {
    parts: array<Part, 3>,
    // x: where it begins and how far rows lie apart, in vec4s. With PLANES: of its codes; `x_scales`: where the scales begin, in
    // pairs of floats.
    x: u32,
    x_stride: u32,
    x_scales: u32,
    // Where the weights of the norm begin, in vec4s.
    norm: u32,
    eps: f32,
    // Where (cos, sin) begin: `pairs` of them for each row of x, for the first pairs of each head of `head` elements.
    turns: u32,
    pairs: u32,
    head: u32,
}

// Rows of x.
override N: u32 = 1u;
// Pairs of the weights' rows for each team, 1 or 2: a workgroup has 16 times as many rows. A team's pairs lie 16 rows apart.
override PAIRS: u32 = 1u;
// Whether x is normed first: x / √(mean(x²) + eps) · norm.
override NORM: bool = false;
// Whether parts 0 and 1 are gate and up.
override BOTH: bool = false;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read> xs: array<vec4<u32>>;
// The norm's weights; with PLANES the scales of x.
@group(0) @binding(4) var<storage, read> norms: array<vec4<f32>>;
// Biases or turns.
@group(0) @binding(5) var<storage, read> extra: array<f32>;
@group(0) @binding(6) var<storage, read_write> out0: array<u32>;
@group(0) @binding(7) var<storage, read_write> out1: array<u32>;
@group(0) @binding(8) var<storage, read_write> out2: array<u32>;

// The part that workgroup `group` belongs to.
fn part_of(group: u32) -> u32 {
    return select(0u, 1u, !BOTH && group >= p.parts[1].group) + select(0u, 1u, !BOTH && group >= p.parts[2].group);
}

// The first row that a lane's team has, of a part.
fn first_row(part: u32, group: u32, local: u32) -> u32 {
    return (group - p.parts[part].group) * 16u * PAIRS + local / 32u * 2u;
}

// Rows `row` and `row` + 1 of a part, counted in the weight. Rows past the last are computed as the last and stored nowhere.
fn two_rows(part: u32, row: u32) -> vec2<u32> {
    return vec2(p.parts[part].first) + min(vec2(row, row + 1u), vec2(p.parts[part].rows - 1u));
}

fn plus(a: array<vec2<f32>, 4>, b: array<vec2<f32>, 4>) -> array<vec2<f32>, 4> {
    var sums = a;
    sums[0] += b[0];
    if N > 1u {
        sums[1] += b[1];
    }
    if N > 2u {
        sums[2] += b[2];
    }
    if N > 3u {
        sums[3] += b[3];
    }
    return sums;
}

// 1/√(mean(x²) + eps) of each row of x, or 1. In uniform control flow.
fn norm_scales(k: u32, local: u32) -> vec4<f32> {
    if !NORM {
        return vec4(1.0);
    }
    var squares = vec4(squares_of(0u, k, local), 0.0, 0.0, 0.0);
    if N > 1u {
        squares.y = squares_of(1u, k, local);
    }
    if N > 2u {
        squares.z = squares_of(2u, k, local);
    }
    if N > 3u {
        squares.w = squares_of(3u, k, local);
    }
    return inverseSqrt(workgroup_sum4(squares, local) / f32(k) + p.eps);
}

// A lane's share of Σ x² of row c of x.
fn squares_of(c: u32, k: u32, local: u32) -> f32 {
    var sum = 0.0;
    for (var i = local; i < k / 4u; i += 256u) {
        let v = bitcast<vec4<f32>>(xs[p.x + c * p.x_stride + i]);
        sum += dot(v, v);
    }
    return sum;
}

fn load(part: u32, at: u32) -> u32 {
    switch part {
        case 0u: { return out0[at]; }
        case 1u: { return out1[at]; }
        default: { return out2[at]; }
    }
}

fn store(part: u32, at: u32, word: u32) {
    switch part {
        case 0u: { out0[at] = word; }
        case 1u: { out1[at] = word; }
        default: { out2[at] = word; }
    }
}

// Does with the sums of rows `row` (even) and `row` + 1 of a part, and row `c` of x, what is to be done.
fn finish(part: u32, row: u32, c: u32, sums: vec2<f32>) {
    let rows = p.parts[part].rows;
    if row >= rows {
        return;
    }
    let then = p.parts[part].then;
    let second = row + 1u < rows;
    var v = sums;
    if (then & BIAS) != 0u {
        let bias = p.parts[part].bias + row;
        v.x += extra[bias];
        if second {
            v.y += extra[bias + 1u];
        }
    }
    let pair = (row % p.head) / 2u;
    if (then & TURN) != 0u && pair < p.pairs {
        let at = p.turns + 2u * (c * p.pairs + pair);
        v = vec2(v.x * extra[at] - v.y * extra[at + 1u], v.x * extra[at + 1u] + v.y * extra[at]);
    }
    let at = p.parts[part].dst + c * p.parts[part].stride + row;
    if (then & HALF) != 0u {
        store(part, at / 2u, pack2x16float(v));
        return;
    }
    if (then & ADD) != 0u {
        v.x += bitcast<f32>(load(part, at));
        if second {
            v.y += bitcast<f32>(load(part, at + 1u));
        }
    }
    store(part, at, bitcast<u32>(v.x));
    if second {
        store(part, at + 1u, bitcast<u32>(v.y));
    }
}

// Sums over teams, then `finish`: lane c of a team has the sums of row c of x. `b` is the up projection's. In uniform control flow.
fn finish_teams(part: u32, row: u32, a: array<vec2<f32>, 4>, b: array<vec2<f32>, 4>, local: u32) {
    let lane = local % 32u;
    var mine = team_sum(vec4(a[0], b[0]), local);
    if N > 1u {
        mine = select(mine, team_sum(vec4(a[1], b[1]), local), lane == 1u);
    }
    if N > 2u {
        mine = select(mine, team_sum(vec4(a[2], b[2]), local), lane == 2u);
    }
    if N > 3u {
        mine = select(mine, team_sum(vec4(a[3], b[3]), local), lane == 3u);
    }
    if lane < N {
        let gated = vec2(silu(mine.x) * mine.z, silu(mine.y) * mine.w);
        finish(part, row, lane, select(mine.xy, gated, BOTH));
    }
}
