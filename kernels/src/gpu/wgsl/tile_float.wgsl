// dst = x·wᵀ for many rows of x, weights of plain numbers: tiles of 64 rows of w by up to 64 of x, in f32.
//
// A step takes 16 columns: half of the lanes fetch eight elements of w each, half eight of x each, into registers while the
// step before is computed, then into workgroup memory, 8 KiB. A lane has 4 rows of w by COLS of x: with COLS = 4 a step is
// 256 multiply-adds a lane for 32 reads of 16 bytes from workgroup memory. Rows that a lane has lie 16 apart, so that lanes
// read side by side there, and write dst side by side.
//
// It takes any k, aligned or not: x is read by single floats. Adapters with matrix units have a kernel of their own.

struct Params {
    weight: Weight,
    // The weight's row that is dst's first column; how many there are; rows of x.
    first: u32,
    rows: u32,
    n: u32,
    // Where x begins, in floats.
    x: u32,
    // Where the bias begins; where dst begins and how far its rows lie apart, in floats.
    bias: u32,
    dst: u32,
    stride: u32,
}

// Rows of x for each lane, 1, 2 or 4: a tile has 16 times as many.
override COLS: u32 = 4u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read> xs: array<f32>;
@group(0) @binding(4) var<storage, read> biases: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

// Columns 4i..4i+4 of row r of the tile: at 64i + r.
var<workgroup> w_tile: array<vec4<f32>, 256>;
var<workgroup> x_tile: array<vec4<f32>, 256>;

// The element of x at column `i` of a row that begins at `x`.
fn one(x: u32, i: u32) -> f32 {
    return select(0.0, xs[x + min(i, p.weight.k - 1u)], i < p.weight.k);
}

// Elements 8i..8i+8 of what lane `local` fetches: lanes 0–127 of row local/2 of w, the rest of x.
fn fetch(tile: vec2<u32>, i: u32, local: u32) -> array<vec4<f32>, 2> {
    let r = local % 128u / 2u;
    if 8u * i >= p.weight.k {
        return array(vec4(0.0), vec4(0.0));
    }
    if local < 128u {
        return eight(p.weight, p.first + min(tile.x + r, p.rows - 1u), i);
    }
    let x = p.x + min(tile.y + r, p.n - 1u) * p.weight.k;
    let e = 8u * i;
    return array(
        vec4(one(x, e), one(x, e + 1u), one(x, e + 2u), one(x, e + 3u)),
        vec4(one(x, e + 4u), one(x, e + 5u), one(x, e + 6u), one(x, e + 7u)),
    );
}

// Four columns of a lane's four rows of w with those of a row of x.
fn meet(w0: vec4<f32>, w1: vec4<f32>, w2: vec4<f32>, w3: vec4<f32>, x: vec4<f32>) -> vec4<f32> {
    return vec4(dot(w0, x), dot(w1, x), dot(w2, x), dot(w3, x));
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let tile = workgroup.xy * vec2(64u, 16u * COLS);
    let r = local % 16u;
    let c0 = local / 16u;
    var sums: array<vec4<f32>, 4>;
    var next = fetch(tile, local & 1u, local);
    for (var i = 0u; 8u * i < p.weight.k; i += 2u) {
        workgroupBarrier();
        let at = 128u * (local & 1u) + local % 128u / 2u;
        if local < 128u {
            w_tile[at] = next[0];
            w_tile[at + 64u] = next[1];
        } else {
            x_tile[at] = next[0];
            x_tile[at + 64u] = next[1];
        }
        workgroupBarrier();
        next = fetch(tile, i + 2u + (local & 1u), local);
        for (var four = 0u; four < 256u; four += 64u) {
            let w0 = w_tile[four + r];
            let w1 = w_tile[four + r + 16u];
            let w2 = w_tile[four + r + 32u];
            let w3 = w_tile[four + r + 48u];
            // Indexed by constants: an array that a loop runs over is in registers only where a driver unrolls the loop.
            sums[0] += meet(w0, w1, w2, w3, x_tile[four + c0]);
            if COLS > 1u {
                sums[1] += meet(w0, w1, w2, w3, x_tile[four + c0 + 16u]);
            }
            if COLS > 2u {
                sums[2] += meet(w0, w1, w2, w3, x_tile[four + c0 + 32u]);
                sums[3] += meet(w0, w1, w2, w3, x_tile[four + c0 + 48u]);
            }
        }
    }

    let row = tile.x + r;
    let x_row = tile.y + c0;
    store4(sums[0], row, x_row);
    if COLS > 1u {
        store4(sums[1], row, x_row + 16u);
    }
    if COLS > 2u {
        store4(sums[2], row, x_row + 32u);
        store4(sums[3], row, x_row + 48u);
    }
}
