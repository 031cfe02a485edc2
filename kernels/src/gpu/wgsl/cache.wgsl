// Attention's operands: queries, and keys and values of a cache in F32, F16 or Q8_0, eight elements at a time.
//
// Eight elements are 32, 16 or 8 bytes of a row, so neighbouring lanes read whole lines. Both `attention.wgsl` and
// `attention_split.wgsl` begin with this text. A cache is bound as vectors of four words; a row is found by counting from
// row 0 of its plane, so that a view of rows needs no alignment of its own. Heads whose width is no multiple of 8 (none that
// is in use; tests have them) go element by element.

struct Params {
    // Rows (tokens), query heads, query heads for each key head, keys of this dispatch, and the position of the first key.
    rows: u32,
    heads: u32,
    group: u32,
    keys: u32,
    base: u32,
    // Queries: the first element, elements a row. Likewise the output.
    q: u32,
    q_stride: u32,
    out: u32,
    out_stride: u32,
    // Positions: the first.
    positions: u32,
    // Where the planes begin, in vec4s and (scales of Q8_0) words, and the row of key 0.
    k: u32,
    k_scales: u32,
    k_row: u32,
    v: u32,
    v_scales: u32,
    v_row: u32,
    // Elements of a row of the cache.
    stride: u32,
    // Keys that a workgroup takes; the number of this dispatch's first stretch, and how many there are in all.
    stretch: u32,
    slot: u32,
    slots: u32,
    // log₂e/√d: the softmax takes powers of 2.
    scale: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> k: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> v: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> positions: array<i32>;
// The destination, or where PARTIAL the sums of each stretch: for every row, head and stretch d elements (up to a multiple of 4) of
// Σ 2^(score − max)·v, then max, Σ 2^(score − max), 0, 0.
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

// Width of a head, 1 to 256.
override HEAD: u32;
// Type of the cache: 0 F32, 1 F16, 2 Q8_0.
override CACHE: u32;
// 1: row i sees the keys up to its position; 0: all.
override CAUSAL: u32;
// 1: write sums of a stretch; 0: there is one stretch, write the destination.
override PARTIAL: u32;

override EIGHTS: u32 = (HEAD + 7u) / 8u;
override FOURS: u32 = (HEAD + 3u) / 4u;

// What a masked score is, and the running maximum before the first key: so far apart that 2^(their difference) is 0, and
// finite, so that no difference is ∞ − ∞.
const MASKED = -3.4e38;
const NO_MAX = -1e30;

fn words(values: bool, at: u32) -> vec4<u32> {
    if values {
        return v[at];
    }
    return k[at];
}

fn halves(w: vec2<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(w.x), unpack2x16float(w.y));
}

// The element `at` of a plane that begins at vec4 `plane`: for heads that are not whole eights, and so never Q8_0.
fn element(values: bool, plane: u32, at: u32) -> f32 {
    if CACHE == 0u {
        return bitcast<f32>(words(values, plane + at / 4u)[at % 4u]);
    }
    let pair = unpack2x16float(words(values, plane + at / 8u)[at / 2u % 4u]);
    return select(pair.x, pair.y, at % 2u == 1u);
}

// Elements 8c to 8c + 7 of key head `head` at key `row`; those past the head are 0.
fn eight(values: bool, row: u32, head: u32, c: u32) -> mat2x4<f32> {
    let at = (select(p.k_row, p.v_row, values) + row) * p.stride + head * HEAD + 8u * c;
    let plane = select(p.k, p.v, values);
    if HEAD % 8u != 0u {
        var e: mat2x4<f32>;
        for (var i = 0u; i < min(8u, HEAD - 8u * c); i++) {
            e[i / 4u][i % 4u] = element(values, plane, at + i);
        }
        return e;
    }
    if CACHE == 0u {
        let i = plane + at / 4u;
        return mat2x4<f32>(bitcast<vec4<f32>>(words(values, i)), bitcast<vec4<f32>>(words(values, i + 1u)));
    }
    if CACHE == 1u {
        let w = words(values, plane + at / 8u);
        return mat2x4<f32>(halves(w.xy), halves(w.zw));
    }
    let w = words(values, plane + at / 16u);
    let bytes = select(w.xy, w.zw, (at & 8u) != 0u);
    let group = at / 32u;
    let scale = select(p.k_scales, p.v_scales, values) + group / 2u;
    let pair = unpack2x16float(words(values, scale / 4u)[scale % 4u]);
    let d = select(pair.x, pair.y, (group & 1u) != 0u);
    return mat2x4<f32>(d * vec4<f32>(unpack4xI8(bytes.x)), d * vec4<f32>(unpack4xI8(bytes.y)));
}

// Elements 8c to 8c + 7 of query head `head` of a row, times the scale.
fn query(row: u32, head: u32, c: u32) -> mat2x4<f32> {
    let at = p.q + row * p.q_stride + head * HEAD + 8u * c;
    var e: mat2x4<f32>;
    if HEAD % 8u == 0u {
        e = mat2x4<f32>(q[at / 4u], q[at / 4u + 1u]);
    } else {
        for (var i = 0u; i < min(8u, HEAD - 8u * c); i++) {
            e[i / 4u][i % 4u] = q[(at + i) / 4u][(at + i) % 4u];
        }
    }
    return mat2x4<f32>(p.scale * e[0], p.scale * e[1]);
}

// How many of this dispatch's keys a row sees.
fn limit(row: u32) -> u32 {
    if row >= p.rows {
        return 0u;
    }
    if CAUSAL == 0u {
        return p.keys;
    }
    return u32(clamp(positions[p.positions + row] + 1 - i32(p.base), 0, i32(p.keys)));
}

// Where the sums of a stretch lie.
fn part(row: u32, head: u32, stretch: u32) -> u32 {
    return ((row * p.heads + head) * p.slots + p.slot + stretch) * (4u * FOURS + 4u);
}

// Writes elements 4c to 4c + 3 of a head: sums where PARTIAL, else their quotient by the sum of weights.
fn write(row: u32, head: u32, stretch: u32, c: u32, sums: vec4<f32>, total: f32) {
    if c >= FOURS {
        return;
    }
    if PARTIAL == 1u {
        let at = part(row, head, stretch) + 4u * c;
        for (var i = 0u; i < 4u; i++) {
            out[at + i] = sums[i];
        }
        return;
    }
    let at = p.out + row * p.out_stride + head * HEAD + 4u * c;
    let mean = sums / total;
    for (var i = 0u; i < min(4u, HEAD - 4u * c); i++) {
        out[at + i] = mean[i];
    }
}

// Writes what the sums are relative to.
fn write_weights(row: u32, head: u32, stretch: u32, top: f32, total: f32) {
    let at = part(row, head, stretch) + 4u * FOURS;
    out[at] = top;
    out[at + 1u] = total;
}
