// Q4_1: value = d·code + m.

fn prepare(local: u32) {}

fn quants(at: Weight, group: u32) -> Group {
    return nibbles(at, group);
}

fn scales(at: Weight, group: u32) -> vec3<f32> {
    return unpack2x16float(arena[at.scales + group]).xxy;
}
