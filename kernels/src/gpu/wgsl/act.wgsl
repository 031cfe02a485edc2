// Activations to 8 bits, in blocks of 32: what quantized weights meet (`quant/act.rs`).
//
// q = x·127/amax rounded to nearest, ties to even; d = amax/127. A lane has 16 elements and its neighbour the other 16, so that
// 256 lanes round 4096 elements at once and reads go along the row; two exchanges between neighbours find amax and Σ q.

struct Half {
    // The codes of 16 elements.
    q: vec4<u32>,
    // d and d·Σ q of the block.
    d: vec2<f32>,
}

fn sum4(codes: u32) -> i32 {
    return dot4I8Packed(codes, 0x01010101u);
}

// In uniform control flow, by all lanes.
fn rounded(x: array<vec4<f32>, 4>, local: u32) -> Half {
    // Bits of |x| order as numbers do, with infinities and NaN above all.
    let a = bitcast<vec4<u32>>(abs(x[0]));
    let b = bitcast<vec4<u32>>(abs(x[1]));
    let c = bitcast<vec4<u32>>(abs(x[2]));
    let d = bitcast<vec4<u32>>(abs(x[3]));
    let all = max(max(a, b), max(c, d));
    let most = pair_most(max(max(all.x, all.y), max(all.z, all.w)), local);
    var scale = bitcast<f32>(most) / 127.0;
    var inverse = 127.0 / bitcast<f32>(most);
    if most <= 0x02FE0000u {
        // Up to 3.73e-37 (these bits) 127/amax may be infinite: zeros.
        inverse = 0.0;
        scale = 0.0;
    }
    if most >= 0x7F800000u {
        // Some x is not finite: the fault shows in every product.
        inverse = 0.0;
        scale = bitcast<f32>(most | 0x7FC00000u);
    }
    let q = vec4(
        pack4xI8(vec4<i32>(round(x[0] * inverse))),
        pack4xI8(vec4<i32>(round(x[1] * inverse))),
        pack4xI8(vec4<i32>(round(x[2] * inverse))),
        pack4xI8(vec4<i32>(round(x[3] * inverse))),
    );
    let sum = pair_sum(sum4(q.x) + sum4(q.y) + sum4(q.z) + sum4(q.w), local);
    return Half(q, vec2(scale, scale * f32(sum)));
}
