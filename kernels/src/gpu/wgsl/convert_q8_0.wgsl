// dst = x in blocks of Q8_0: a lane for each block of 32.
//
// Two scales share a word, and the lanes of both may write it at once; so it is written by atomic steps, and with it the whole
// buffer is one of atomics.

struct Params {
    // Blocks.
    len: u32,
    // Where x begins, in floats.
    x: u32,
    // The first block written, counted in the tensor's; where the planes of its codes and scales begin, in words.
    first: u32,
    quants: u32,
    scales: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> xs: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<atomic<u32>>;

// The nearest whole number, ties away from zero, as the format's reference rounds.
fn nearest(v: vec4<f32>) -> vec4<i32> {
    return vec4<i32>(trunc(v + select(vec4(-0.5), vec4(0.5), v >= vec4(0.0))));
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = wide(group) * 256u + local;
    if i >= p.len {
        return;
    }
    let x = p.x + 32u * i;
    var largest = 0.0;
    for (var j = 0u; j < 32u; j++) {
        largest = max(largest, abs(xs[x + j]));
    }
    let d = largest / 127.0;
    var inverse = 0.0;
    if d > 0.0 {
        inverse = 1.0 / d;
    }
    let block = p.first + i;
    for (var j = 0u; j < 8u; j++) {
        let at = x + 4u * j;
        let v = vec4(xs[at], xs[at + 1u], xs[at + 2u], xs[at + 3u]) * inverse;
        let q = clamp(nearest(v), vec4(-127), vec4(127));
        atomicStore(&out[p.quants + 8u * block + j], pack4xI8(q));
    }
    let half = 16u * (block & 1u);
    let word = p.scales + (block >> 1u);
    atomicAnd(&out[word], ~(0xFFFFu << half));
    atomicOr(&out[word], pack2x16float(vec2(d, 0.0)) << half);
}
