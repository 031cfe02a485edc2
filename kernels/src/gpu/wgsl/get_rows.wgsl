// dst[i] = table[ids[i]], dequantized: a lane for each 32 elements.
//
// A table larger than a binding lies in several buffers by rows; each gets a dispatch that writes the rows it has. An id that
// no row has leaves its row of dst as it is.

struct Params {
    weight: Weight,
    // The row of the planes that is row `start` of the table, and how many rows follow.
    first: u32,
    start: u32,
    rows: u32,
    n: u32,
    // Where ids begin, where dst begins.
    ids: u32,
    dst: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read> ids: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

// Columns `e`..`e` + 4 of the row that begins at `to`, as far as it goes.
fn store4(v: vec4<f32>, to: u32, e: u32) {
    let left = p.weight.k - min(e, p.weight.k);
    if left > 0u {
        out[to + e] = v.x;
    }
    if left > 1u {
        out[to + e + 1u] = v.y;
    }
    if left > 2u {
        out[to + e + 2u] = v.z;
    }
    if left > 3u {
        out[to + e + 3u] = v.w;
    }
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    prepare(local);
    workgroupBarrier();
    let k = p.weight.k;
    let groups = (k + 31u) / 32u;
    let at = wide(workgroup) * 256u + local;
    let i = at / groups;
    let j = at % groups;
    if i >= p.n {
        return;
    }
    // Ids before `start`, and negative ones, become larger than any number of rows.
    let row = ids[p.ids + i] - p.start;
    if row >= p.rows {
        return;
    }
    let v = values(p.weight, p.first + row, j);
    let to = p.dst + i * k;
    store4(v[0], to, 32u * j);
    store4(v[1], to, 32u * j + 4u);
    store4(v[2], to, 32u * j + 8u);
    store4(v[3], to, 32u * j + 12u);
    store4(v[4], to, 32u * j + 16u);
    store4(v[5], to, 32u * j + 20u);
    store4(v[6], to, 32u * j + 24u);
    store4(v[7], to, 32u * j + 28u);
}
