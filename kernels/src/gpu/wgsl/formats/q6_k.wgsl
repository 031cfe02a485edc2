// Q6_K: value = d·s·(code − 32), s of 16 elements: the one format whose zero point is taken off the codes, because the sums
// of activations are those of 32.

fn prepare(local: u32) {}

fn quants(at: Weight, group: u32) -> Group {
    let q = nibbles(at, group);
    let shifts = vec4(0u, 2u, 4u, 6u);
    let low = (vec4(arena[at.high + 2u * group]) >> shifts) & vec4(0x03030303u);
    let high = (vec4(arena[at.high + 2u * group + 1u]) >> shifts) & vec4(0x03030303u);
    // code + 96 stays below 160, so that no byte carries into the next; less 128 it is code − 32.
    let offset = vec4(0x60606060u);
    let sign = vec4(0x80808080u);
    return Group(((q.low | (low << vec4(4u))) + offset) ^ sign, ((q.high | (high << vec4(4u))) + offset) ^ sign);
}

fn scales(at: Weight, group: u32) -> vec3<f32> {
    let block = at.scales + 5u * (group >> 3u);
    let j = group & 7u;
    let d = unpack2x16float(arena[block + 4u]).x;
    let s = unpack4xI8(arena[block + (j >> 1u)] >> (16u * (j & 1u)));
    return vec3(d * f32(s.x), d * f32(s.y), 0.0);
}
