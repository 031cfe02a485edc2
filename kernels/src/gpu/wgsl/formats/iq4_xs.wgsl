// IQ4_XS: value = d·(s − 32)·LEVELS[code], s of 6 bits.

fn scales(at: Weight, group: u32) -> vec3<f32> {
    let block = at.scales + 2u * (group >> 3u);
    let j = group & 7u;
    let first = arena[block];
    let low = (arena[block + 1u] >> (4u * j)) & 15u;
    let high = (first >> (16u + 2u * j)) & 3u;
    let d = unpack2x16float(first).x * (f32(low | (high << 4u)) - 32.0);
    return vec3(d, d, 0.0);
}
