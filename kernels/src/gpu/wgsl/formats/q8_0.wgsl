// Q8_0: value = d·code, codes of 8 bits.

fn prepare(local: u32) {}

fn quants(at: Weight, group: u32) -> Group {
    return Group(arena4[at.quants + 2u * group], arena4[at.quants + 2u * group + 1u]);
}

fn scales(at: Weight, group: u32) -> vec3<f32> {
    let d = half_of(at.scales, group);
    return vec3(d, d, 0.0);
}
