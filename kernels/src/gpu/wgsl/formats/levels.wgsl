// Codes that choose from 16 uneven values: IQ4_NL and IQ4_XS.
//
// The 16 values, each in all four bytes of a word. In workgroup memory: 16 words lie in 16 banks, so that lanes that look up different
// ones do not wait for each other, as they would in the memory of constants.
var<workgroup> levels: array<u32, 16>;

fn prepare(local: u32) {
    // −127 −104 −83 −65 | −49 −35 −22 −10 | 1 13 25 38 | 53 69 89 113
    let packed = array(0xBFAD9881u, 0xF6EADDCFu, 0x26190D01u, 0x71594535u);
    if local < 16u {
        levels[local] = ((packed[local >> 2u] >> (8u * (local & 3u))) & 255u) * 0x01010101u;
    }
}

// The values of the codes in the low halves of the four bytes.
fn level4(codes: u32) -> u32 {
    return (levels[codes & 15u] & 0xFFu) | (levels[(codes >> 8u) & 15u] & 0xFF00u)
        | (levels[(codes >> 16u) & 15u] & 0xFF0000u) | (levels[(codes >> 24u) & 15u] & 0xFF000000u);
}

fn quants(at: Weight, group: u32) -> Group {
    let q = arena4[at.quants + group];
    let low = vec4(level4(q.x), level4(q.y), level4(q.z), level4(q.w));
    let h = q >> vec4(4u);
    return Group(low, vec4(level4(h.x), level4(h.y), level4(h.z), level4(h.w)));
}
