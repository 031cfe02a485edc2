// What follows from codes and scales, for all formats of blocks.

fn unpacked(word: u32, scale: f32, least: f32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(word)) * scale + least;
}

fn values(at: Weight, row: u32, j: u32) -> array<vec4<f32>, 8> {
    let group = row * (at.k / 32u) + j;
    let q = quants(at, group);
    let s = scales(at, group);
    return array(
        unpacked(q.low.x, s.x, s.z),
        unpacked(q.low.y, s.x, s.z),
        unpacked(q.low.z, s.x, s.z),
        unpacked(q.low.w, s.x, s.z),
        unpacked(q.high.x, s.y, s.z),
        unpacked(q.high.y, s.y, s.z),
        unpacked(q.high.z, s.y, s.z),
        unpacked(q.high.w, s.y, s.z),
    );
}

fn dot16(a: vec4<u32>, b: vec4<u32>) -> f32 {
    return f32(dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y) + dot4I8Packed(a.z, b.z) + dot4I8Packed(a.w, b.w));
}

// Σ w·x over a group: 8 packed dot products, which are exact, and 6 operations in f32. `x` has the codes of activations, `d`
// their scale and its product with the sum of the codes.
fn product(w: Group, s: vec3<f32>, low: vec4<u32>, high: vec4<u32>, d: vec2<f32>) -> f32 {
    return (s.x * dot16(w.low, low) + s.y * dot16(w.high, high)) * d.x + s.z * d.y;
}
