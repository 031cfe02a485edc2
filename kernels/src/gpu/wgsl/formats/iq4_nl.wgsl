// IQ4_NL: value = d·LEVELS[code].

fn scales(at: Weight, group: u32) -> vec3<f32> {
    let d = half_of(at.scales, group);
    return vec3(d, d, 0.0);
}
