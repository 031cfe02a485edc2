// dst = x·wᵀ for many rows of x, weights of blocks: tiles of 64 rows of w by up to 64 of x, in 8 bits.
//
// x comes in planes (`quantize.wgsl`). A step takes 64 columns, two groups: half of the lanes fetch and unpack a group of w each,
// half a group of x each, into registers while the step before is computed, then into workgroup memory, 11 KiB. Unpacking is
// paid once for 64 rows of x. A lane has 4 rows of w by COLS of x: with COLS = 4 a step is 256 packed products and 192
// operations in f32 a lane, for 40 reads of 16 bytes from workgroup memory. Rows of w that a lane has lie 16 apart, so that
// lanes read side by side there, and write dst side by side.
//
// A tile reads 64·k weights and 64·k bytes of x: 64 products for a byte of x, 114 for one of weights in 4.5 bits, from a
// cache that holds what neighbouring tiles share.
//
// Given up: a second set of tiles in workgroup memory, which would save one of two barriers a step; splitting k where tiles are
// few (n < 64 and m < 4096).

struct Params {
    weight: Weight,
    // The weight's row that is dst's first column; how many there are; rows of x.
    first: u32,
    rows: u32,
    n: u32,
    // Where the codes of x begin, in vec4s, and its scales, in pairs.
    x: u32,
    x_scales: u32,
    // Where the bias begins; where dst begins and how far its rows lie apart, in floats.
    bias: u32,
    dst: u32,
    stride: u32,
}

// Rows of x for each lane, 1, 2 or 4: a tile has 16 times as many.
override COLS: u32 = 4u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read> xs: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> xs_scales: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read> biases: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

// Of group g of the step, half h, row r of the tile: at (2g + h)·64 + r, scales at 64g + r.
var<workgroup> w_codes: array<vec4<u32>, 256>;
var<workgroup> w_scales: array<vec4<f32>, 128>;
var<workgroup> x_codes: array<vec4<u32>, 256>;
var<workgroup> x_scales: array<vec2<f32>, 128>;

// A group on its way to workgroup memory.
struct Fetched {
    codes: Group,
    scales: vec4<f32>,
}

// Group `j` of what lane `local` fetches: lanes 0–127 of row local/2 of w, the rest of x.
fn fetch(tile: vec2<u32>, j: u32, groups: u32, local: u32) -> Fetched {
    let r = local % 128u / 2u;
    if j >= groups {
        return Fetched(Group(vec4(0u), vec4(0u)), vec4(0.0));
    }
    if local < 128u {
        let group = (p.first + min(tile.x + r, p.rows - 1u)) * groups + j;
        return Fetched(quants(p.weight, group), vec4(scales(p.weight, group), 0.0));
    }
    let group = min(tile.y + r, p.n - 1u) * groups + j;
    let at = p.x + 2u * group;
    return Fetched(Group(xs[at], xs[at + 1u]), vec4(xs_scales[p.x_scales + group], 0.0, 0.0));
}

fn put(f: Fetched, local: u32) {
    let r = local % 128u / 2u;
    let g = local & 1u;
    if local < 128u {
        w_codes[128u * g + r] = f.codes.low;
        w_codes[128u * g + 64u + r] = f.codes.high;
        w_scales[64u * g + r] = f.scales;
    } else {
        x_codes[128u * g + r] = f.codes.low;
        x_codes[128u * g + 64u + r] = f.codes.high;
        x_scales[64u * g + r] = f.scales.xy;
    }
}

// A group of each of a lane's rows of w.
struct Four {
    q0: Group,
    q1: Group,
    q2: Group,
    q3: Group,
    s0: vec3<f32>,
    s1: vec3<f32>,
    s2: vec3<f32>,
    s3: vec3<f32>,
}

// Their products with group g of row c of the tile of x.
fn meet(w: Four, g: u32, c: u32) -> vec4<f32> {
    let low = x_codes[128u * g + c];
    let high = x_codes[128u * g + 64u + c];
    let d = x_scales[64u * g + c];
    return vec4(
        product(w.q0, w.s0, low, high, d),
        product(w.q1, w.s1, low, high, d),
        product(w.q2, w.s2, low, high, d),
        product(w.q3, w.s3, low, high, d),
    );
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let tile = workgroup.xy * vec2(64u, 16u * COLS);
    let groups = p.weight.k / 32u;
    prepare(local);
    workgroupBarrier();

    let r = local % 16u;
    let c0 = local / 16u;
    var sums: array<vec4<f32>, 4>;
    var next = fetch(tile, local & 1u, groups, local);
    for (var j = 0u; j < groups; j += 2u) {
        workgroupBarrier();
        put(next, local);
        workgroupBarrier();
        next = fetch(tile, j + 2u + (local & 1u), groups, local);
        for (var g = 0u; g < 2u; g++) {
            let at = 128u * g + r;
            let scale = 64u * g + r;
            let w = Four(
                Group(w_codes[at], w_codes[at + 64u]),
                Group(w_codes[at + 16u], w_codes[at + 80u]),
                Group(w_codes[at + 32u], w_codes[at + 96u]),
                Group(w_codes[at + 48u], w_codes[at + 112u]),
                w_scales[scale].xyz,
                w_scales[scale + 16u].xyz,
                w_scales[scale + 32u].xyz,
                w_scales[scale + 48u].xyz,
            );
            // Indexed by constants: an array that a loop runs over is in registers only where a driver unrolls the loop.
            sums[0] += meet(w, g, c0);
            if COLS > 1u {
                sums[1] += meet(w, g, c0 + 16u);
            }
            if COLS > 2u {
                sums[2] += meet(w, g, c0 + 32u);
                sums[3] += meet(w, g, c0 + 48u);
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
