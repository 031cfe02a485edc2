// dst += x, in place; x may be one row for all rows of dst.

struct Params {
    len: u32,
    dst: u32,
    x: u32,
    // Elements of x, after which it begins anew.
    period: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> xs: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = wide(group) * 256u + local;
    if i < p.len {
        out[p.dst + i] += xs[p.x + i % p.period];
    }
}
