// dst = x converted to dst's type: a lane for each word of dst.

struct Params {
    // Words of dst.
    len: u32,
    // Where x and dst begin, in words.
    x: u32,
    dst: u32,
}

// Whether F32 becomes F16, two to a word; else words stay as they are.
override TO_F16: bool = false;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> xs: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = wide(group) * 256u + local;
    if i >= p.len {
        return;
    }
    if TO_F16 {
        let at = p.x + 2u * i;
        out[p.dst + i] = pack2x16float(vec2(bitcast<f32>(xs[at]), bitcast<f32>(xs[at + 1u])));
    } else {
        out[p.dst + i] = xs[p.x + i];
    }
}
