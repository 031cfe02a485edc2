// Q4_K: value = d·s·code − dmin·m, s and m of the group.

fn prepare(local: u32) {}

fn quants(at: Weight, group: u32) -> Group {
    return nibbles(at, group);
}

fn scales(at: Weight, group: u32) -> vec3<f32> {
    return six_bits(at, group).xxy;
}
