// Merges the stretches of keys that `attention.wgsl` and `attention_split.wgsl` summed apart.
//
// A stretch left Σ 2^(score − max)·v, its max and Σ 2^(score − max): with M the largest max, out = Σ 2^(max − M)·sums / Σ 2^(max − M)·sum.
// A lane for four columns of a row's head; neighbours read side by side. It reads what the stretches wrote, once, and their
// maxima twice: of a decoded row at d = 128, 528 bytes for each stretch and head, a 64th of what 64 keys of an F16 cache take.

struct Params {
    // Rows and heads of the sums, stretches of each.
    rows: u32,
    heads: u32,
    slots: u32,
    // The destination: the first element, elements a row.
    out: u32,
    out_stride: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> parts: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> dst: array<f32>;

// Width of a head.
override HEAD: u32;
override FOURS: u32 = (HEAD + 3u) / 4u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = 64u * wide(group) + local;
    let c = i % FOURS;
    let item = i / FOURS;
    if item >= p.rows * p.heads {
        return;
    }
    let step = FOURS + 1u;
    let first = item * p.slots * step;
    var top = parts[first + FOURS].x;
    for (var j = 1u; j < p.slots; j++) {
        top = max(top, parts[first + j * step + FOURS].x);
    }
    var sums: vec4<f32>;
    var total = 0.0;
    for (var j = 0u; j < p.slots; j++) {
        let own = parts[first + j * step + FOURS];
        let w = exp2(own.x - top);
        sums += w * parts[first + j * step + c];
        total += w * own.y;
    }
    let mean = sums / total;
    let at = p.out + item / p.heads * p.out_stride + item % p.heads * HEAD + 4u * c;
    for (var j = 0u; j < min(4u, HEAD - 4u * c); j++) {
        dst[at + j] = mean[j];
    }
}
