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
    for (var e = 0u; e < 32u && 32u * j + e < k; e++) {
        out[p.dst + i * k + 32u * j + e] = v[e / 4u][e % 4u];
    }
}
