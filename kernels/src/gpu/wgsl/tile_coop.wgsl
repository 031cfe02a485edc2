// dst = x·wᵀ for many rows of x, in matrix units: f16 factors, f32 sums.
//
// After `coop8.wgsl` or `coop16.wgsl`, whose SIDE is the edge of the matrices. A workgroup is four subgroups that multiply, and
// makes a tile of 8·SIDE rows of x by 4·SIDE of w; a subgroup has a quarter, 4 by 2 matrices of sums, which stay in its
// registers. A step takes 64 columns: halves of x as `halve.wgsl` left them, and two groups of each row of w made to halves, go
// to workgroup memory, then each matrix of x meets two of w and each of w four of x.
//
// With SIDE = 16 a step is 128·64·64 multiply-adds, for 128 groups of weights unpacked, 24 KiB written to and 48 KiB (6 matrices
// for 8 products) read from workgroup memory. A tile reads 64·k weights and 128·k halves. Workgroup memory 31,744 bytes; 14,848
// with SIDE = 8. Rows in it are 72 halves apart: matrices must begin at 16 bytes, and no 8 rows begin in one bank. The step is
// long so that much is on its way at once, and barriers are few.
//
// Sums are of x by powers of 2, taken back when they are written. Subgroups may be narrower than LANES / 4: the workgroup then
// has more than four, and those past the fourth only fetch and write.
//
// Given up: fetching a step ahead, for which registers are short (workgroups beside this one fill the wait); splitting k where
// tiles are few.

struct Params {
    weight: Weight,
    // The weight's row that is dst's first column; how many there are; rows of x.
    first: u32,
    rows: u32,
    n: u32,
    // Where the halves of x begin, in fours, and its scales, in floats.
    x: u32,
    scales: u32,
    // Where the bias begins; where dst begins and how far its rows lie apart, in floats.
    bias: u32,
    dst: u32,
    stride: u32,
}

// Lanes of the workgroup: four subgroups of the widest kind.
override LANES: u32;
// Whether the bias is added; whether the sums are added to what dst holds.
override BIAS: bool = false;
override ADD: bool = false;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read> xs: array<vec4<f16>>;
@group(0) @binding(4) var<storage, read> xs_scales: array<f32>;
@group(0) @binding(5) var<storage, read> biases: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

const X_ROWS = 8u * SIDE;
const W_ROWS = 4u * SIDE;
const PITCH = 72u;

var<workgroup> x_tile: array<f16, X_ROWS * PITCH>;
var<workgroup> w_tile: array<f16, W_ROWS * PITCH>;
// A matrix of sums of each subgroup on its way out.
var<workgroup> edge: array<f32, 4u * SIDE * SIDE>;

// The i-th group of the step that begins with group j, two to a row; zeros past the end.
fn fetch_w(i: u32, tile: u32, j: u32, groups: u32) {
    let r = i / 2u;
    var at = r * PITCH + i % 2u * 32u;
    var v: array<vec4<f32>, 8>;
    if j + i % 2u < groups {
        v = values(p.weight, p.first + min(tile + r, p.rows - 1u), j + i % 2u);
    }
    for (var c = 0u; c < 8u; c++) {
        let h = vec4<f16>(v[c]);
        w_tile[at] = h.x;
        w_tile[at + 1u] = h.y;
        w_tile[at + 2u] = h.z;
        w_tile[at + 3u] = h.w;
        at += 4u;
    }
}

// The i-th four of x in the same step, 16 to a row.
fn fetch_x(i: u32, tile: u32, j: u32, groups: u32) {
    let r = i / 16u;
    let c = 8u * j + i % 16u;
    var h: vec4<f16>;
    if c < 8u * groups {
        h = xs[p.x + min(tile + r, p.n - 1u) * 8u * groups + c];
    }
    let at = r * PITCH + i % 16u * 4u;
    x_tile[at] = h.x;
    x_tile[at + 1u] = h.y;
    x_tile[at + 2u] = h.z;
    x_tile[at + 3u] = h.w;
}

// Writes a matrix of sums, which lies in this subgroup's part of `edge`, by all of its lanes: row x0.. of x, row w0.. of w.
fn write(begin: u32, lane: u32, lanes: u32, x0: u32, w0: u32) {
    for (var i = lane; i < SIDE * SIDE; i += lanes) {
        let x_row = x0 + i / SIDE;
        let row = w0 + i % SIDE;
        if x_row < p.n && row < p.rows {
            let at = p.dst + x_row * p.stride + row;
            var v = edge[begin + i] * xs_scales[p.scales + x_row];
            if BIAS {
                v += biases[p.bias + row];
            }
            if ADD {
                v += out[at];
            }
            out[at] = v;
        }
    }
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(subgroup_size) lanes: u32,
) {
    let w0 = workgroup.x * W_ROWS;
    let x0 = workgroup.y * X_ROWS;
    // This subgroup's quarter.
    let x_part = subgroup / 2u * 4u * SIDE;
    let w_part = subgroup % 2u * 2u * SIDE;
    let begin = subgroup * SIDE * SIDE;
    let groups = (p.weight.k + 31u) / 32u;

    prepare(local);
    var c0: Sums;
    var c1: Sums;
    var c2: Sums;
    var c3: Sums;
    var d0: Sums;
    var d1: Sums;
    var d2: Sums;
    var d3: Sums;
    for (var j = 0u; j < groups; j += 2u) {
        workgroupBarrier();
        for (var i = local; i < 2u * W_ROWS; i += LANES) {
            fetch_w(i, w0, j, groups);
        }
        for (var i = local; i < 16u * X_ROWS; i += LANES) {
            fetch_x(i, x0, j, groups);
        }
        workgroupBarrier();
        if subgroup < 4u {
            for (var k = 0u; k < 64u; k += SIDE) {
                let wa = coopLoad<Right>(&w_tile[w_part * PITCH + k], PITCH);
                let wb = coopLoad<Right>(&w_tile[(w_part + SIDE) * PITCH + k], PITCH);
                let xa = coopLoadT<Left>(&x_tile[x_part * PITCH + k], PITCH);
                c0 = coopMultiplyAdd(xa, wa, c0);
                d0 = coopMultiplyAdd(xa, wb, d0);
                let xb = coopLoadT<Left>(&x_tile[(x_part + SIDE) * PITCH + k], PITCH);
                c1 = coopMultiplyAdd(xb, wa, c1);
                d1 = coopMultiplyAdd(xb, wb, d1);
                let xc = coopLoadT<Left>(&x_tile[(x_part + 2u * SIDE) * PITCH + k], PITCH);
                c2 = coopMultiplyAdd(xc, wa, c2);
                d2 = coopMultiplyAdd(xc, wb, d2);
                let xd = coopLoadT<Left>(&x_tile[(x_part + 3u * SIDE) * PITCH + k], PITCH);
                c3 = coopMultiplyAdd(xd, wa, c3);
                d3 = coopMultiplyAdd(xd, wb, d3);
            }
        }
    }

    for (var i = 0u; i < 8u; i++) {
        workgroupBarrier();
        if subgroup < 4u {
            switch i {
                case 0u: { coopStoreT(c0, &edge[begin], SIDE); }
                case 1u: { coopStoreT(c1, &edge[begin], SIDE); }
                case 2u: { coopStoreT(c2, &edge[begin], SIDE); }
                case 3u: { coopStoreT(c3, &edge[begin], SIDE); }
                case 4u: { coopStoreT(d0, &edge[begin], SIDE); }
                case 5u: { coopStoreT(d1, &edge[begin], SIDE); }
                case 6u: { coopStoreT(d2, &edge[begin], SIDE); }
                default: { coopStoreT(d3, &edge[begin], SIDE); }
            }
        }
        workgroupBarrier();
        if subgroup < 4u {
            write(begin, lane, lanes, x0 + x_part + i % 4u * SIDE, w0 + w_part + i / 4u * SIDE);
        }
    }
}
