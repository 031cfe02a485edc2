// F16: rows padded with zeros to a multiple of 32.

fn prepare(local: u32) {}

fn eight(at: Weight, row: u32, i: u32) -> array<vec4<f32>, 2> {
    let width = (at.k + 31u) / 32u * 4u;
    if i >= width {
        return array(vec4(0.0), vec4(0.0));
    }
    let q = arena4[at.quants + row * width + i];
    return array(
        vec4(unpack2x16float(q.x), unpack2x16float(q.y)),
        vec4(unpack2x16float(q.z), unpack2x16float(q.w)),
    );
}
