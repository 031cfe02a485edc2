// BF16, the high halves of floats: rows padded with zeros to a multiple of 32.

fn prepare(local: u32) {}

fn eight(at: Weight, row: u32, i: u32) -> array<vec4<f32>, 2> {
    let width = (at.k + 31u) / 32u * 4u;
    if i >= width {
        return array(vec4(0.0), vec4(0.0));
    }
    let q = arena4[at.quants + row * width + i];
    let low = bitcast<vec4<f32>>(q << vec4(16u));
    let high = bitcast<vec4<f32>>(q & vec4(0xFFFF0000u));
    return array(vec4(low.x, high.x, low.y, high.y), vec4(low.z, high.z, low.w, high.w));
}
