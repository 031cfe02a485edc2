// Weights in planes: what decoders (`formats/`) read, and what they have in common. See `planes.rs` for the layout.
//
// A group is 32 elements of a row, numbered row by row. Every decoder has
//     fn prepare(local)                    fills tables in workgroup memory; a barrier must follow before the first group
//     fn values(at, row, j)                elements 32j..32j+32 of a row
// those of blocks (with `quantized.wgsl`) also
//     fn quants(at, group) -> Group        the codes
//     fn scales(at, group) -> vec3<f32>    a of elements 0–15, a of elements 16–31, c: value = a·code + c
// and those of plain numbers
//     fn eight(at, row, i)                 elements 8i..8i+8 of a row, zeros past its end

struct Weight {
    // Where the planes begin: of codes in vec4s (F32: in words), of high bits and of scales in words.
    quants: u32,
    high: u32,
    scales: u32,
    // Columns.
    k: u32,
}

// 32 signed bytes: elements 0–15 and 16–31.
struct Group {
    low: vec4<u32>,
    high: vec4<u32>,
}

// The buffer that the weight lies in, twice.
@group(0) @binding(1) var<storage, read> arena4: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> arena: array<u32>;

// A half of each group: two in a word.
fn half_of(plane: u32, group: u32) -> f32 {
    let pair = unpack2x16float(arena[plane + (group >> 1u)]);
    return select(pair.x, pair.y, (group & 1u) == 1u);
}

// The 4-bit codes of a group.
fn nibbles(at: Weight, group: u32) -> Group {
    let q = arena4[at.quants + group];
    return Group(q & vec4(0x0F0F0F0Fu), (q >> vec4(4u)) & vec4(0x0F0F0F0Fu));
}

// The 5-bit codes of a group.
fn five_bits(at: Weight, group: u32) -> Group {
    let q = nibbles(at, group);
    let bits = vec4(arena[at.high + group]);
    let low = (bits >> vec4(0u, 1u, 2u, 3u)) & vec4(0x01010101u);
    let high = (bits >> vec4(4u, 5u, 6u, 7u)) & vec4(0x01010101u);
    return Group(q.low | (low << vec4(4u)), q.high | (high << vec4(4u)));
}

// The scale and the least value of a group of Q4_K and Q5_K: (d·s, −dmin·m), s and m of 6 bits.
fn six_bits(at: Weight, group: u32) -> vec2<f32> {
    let block = arena4[(at.scales >> 2u) + (group >> 3u)];
    let d = unpack2x16float(block.x);
    let j = group & 7u;
    let shift = 8u * (j & 3u);
    let low = vec2(block.y, block.z) >> vec2(shift);
    let both = block.w >> shift;
    let later = (vec2(both, both >> 4u) & vec2(15u)) | ((low >> vec2(2u)) & vec2(48u));
    let s = select(later, low & vec2(63u), j < 4u);
    return vec2(d.x, -d.y) * vec2<f32>(s);
}
