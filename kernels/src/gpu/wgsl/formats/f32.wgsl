// F32: rows of words, as in the file; they are not padded.

fn prepare(local: u32) {}

fn eight(at: Weight, row: u32, i: u32) -> array<vec4<f32>, 2> {
    let first = at.quants + row * at.k + 8u * i;
    if 8u * i + 8u <= at.k && first % 4u == 0u {
        return array(bitcast<vec4<f32>>(arena4[first / 4u]), bitcast<vec4<f32>>(arena4[first / 4u + 1u]));
    }
    var out = array(vec4(0.0), vec4(0.0));
    for (var e = 0u; e < 8u && 8u * i + e < at.k; e++) {
        out[e / 4u][e % 4u] = bitcast<f32>(arena[first + e]);
    }
    return out;
}
