// dst = (x − mean)/√(var + eps) · weight + bias: a workgroup for each row.
//
// The variance is taken of the differences, in a second round: the mean of the squares less the square of the mean loses
// all digits where the mean is large.

struct Params {
    rows: u32,
    k: u32,
    x: u32,
    weight: u32,
    bias: u32,
    dst: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> xs: array<f32>;
@group(0) @binding(2) var<storage, read> weights: array<f32>;
@group(0) @binding(3) var<storage, read> biases: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = wide(group);
    if row >= p.rows {
        return;
    }
    let x = p.x + row * p.k;
    var sum = 0.0;
    for (var i = local; i < p.k; i += 256u) {
        sum += xs[x + i];
    }
    let mean = workgroup_sum(sum, local) / f32(p.k);
    var squares = 0.0;
    for (var i = local; i < p.k; i += 256u) {
        let d = xs[x + i] - mean;
        squares += d * d;
    }
    let scale = inverseSqrt(workgroup_sum(squares, local) / f32(p.k) + p.eps);
    for (var i = local; i < p.k; i += 256u) {
        out[p.dst + row * p.k + i] = (xs[x + i] - mean) * scale * weights[p.weight + i] + biases[p.bias + i];
    }
}
