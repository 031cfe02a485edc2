// dst = x / √(mean(x²) + eps) · weight: a workgroup for each row.

struct Params {
    rows: u32,
    k: u32,
    x: u32,
    weight: u32,
    dst: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> xs: array<f32>;
@group(0) @binding(2) var<storage, read> weights: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = wide(group);
    if row >= p.rows {
        return;
    }
    let x = p.x + row * p.k;
    var squares = 0.0;
    for (var i = local; i < p.k; i += 256u) {
        squares += xs[x + i] * xs[x + i];
    }
    let scale = inverseSqrt(workgroup_sum(squares, local) / f32(p.k) + p.eps);
    for (var i = local; i < p.k; i += 256u) {
        out[p.dst + row * p.k + i] = xs[x + i] * scale * weights[p.weight + i];
    }
}
