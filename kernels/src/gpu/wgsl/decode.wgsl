// dst = x·wᵀ for up to four rows of x, weights of blocks: what generates a token.
//
// Reading the weights is all that should take time: 18 bytes for 32 weights in 4 bits. A workgroup has 16 rows of the weights, a
// team of 32 lanes two of them, side by side so that RoPE's pairs meet in one lane; a lane has every 32nd group, so that a
// team reads 512 bytes in one go. x is rounded to 8 bits by every workgroup for itself into its own memory, normed before
// where asked: that reads x and the norm from the cache, 32 KiB at k = 4096 beside 36 KiB of weights, and costs a third of the
// instructions, in exchange for a dispatch less. So where there are rows enough for all of a device, a workgroup has 32
// (PAIRS), which halves its share. Where x does not fit there (PLANES) it comes rounded from a dispatch before.
//
// Per group and row of x 8 packed products and 6 operations in f32, per group about 20 to unpack; with packed products in
// hardware that is a fifth or less of what an arithmetic unit can do while its share of the weights arrives.
//
// Given up: splitting k over workgroups (m ≥ 4096 in the models meant, that is 256 workgroups or more); fetching the first weights
// while x is rounded, a microsecond of latency that only a measurement can weigh against its registers; rows of x in 16 bits,
// which would need no rounding but twice the instructions.

// Whether x comes in planes.
override PLANES: bool = false;
// N·k/32, the groups of x in workgroup memory; 1 where they are not there.
override GROUPS: u32 = 1u;

var<workgroup> x_codes: array<vec4<u32>, 2 * GROUPS>;
var<workgroup> x_scales: array<vec2<f32>, GROUPS>;

// Rounds x into workgroup memory: codes of elements 0–15 of all groups, then of 16–31, so that lanes read side by side.
fn round_x(k: u32, local: u32) {
    let scales = norm_scales(k, local);
    round_row(0u, scales.x, k / 32u, local);
    if N > 1u {
        round_row(1u, scales.y, k / 32u, local);
    }
    if N > 2u {
        round_row(2u, scales.z, k / 32u, local);
    }
    if N > 3u {
        round_row(3u, scales.w, k / 32u, local);
    }
}

fn round_row(c: u32, scale: f32, groups: u32, local: u32) {
    for (var first = 0u; first < 2u * groups; first += 256u) {
        let i = first + local;
        let there = i < 2u * groups;
        var x = array(vec4(0.0), vec4(0.0), vec4(0.0), vec4(0.0));
        if there {
            let at = 4u * i;
            x = array(four(c, at, scale), four(c, at + 1u, scale), four(c, at + 2u, scale), four(c, at + 3u, scale));
        }
        let half = rounded(x, local);
        if there {
            x_codes[(2u * c + (i & 1u)) * groups + i / 2u] = half.q;
        }
        if there && (i & 1u) == 0u {
            x_scales[c * groups + i / 2u] = half.d;
        }
    }
}

// Elements 4i..4i+4 of row c of x, normed.
fn four(c: u32, i: u32, scale: f32) -> vec4<f32> {
    let x = bitcast<vec4<f32>>(xs[p.x + c * p.x_stride + i]);
    if NORM {
        return x * (scale * norms[p.norm + i]);
    }
    return x;
}

// Half `half` of the codes of group j of row c of x.
fn codes(c: u32, half: u32, j: u32, groups: u32) -> vec4<u32> {
    if PLANES {
        return xs[p.x + c * p.x_stride + 2u * j + half];
    }
    return x_codes[(2u * c + half) * groups + j];
}

fn scale_of(c: u32, j: u32, groups: u32) -> vec2<f32> {
    if PLANES {
        let at = p.x_scales + c * groups + j;
        let two = norms[at / 2u];
        return select(two.xy, two.zw, (at & 1u) == 1u);
    }
    return x_scales[c * groups + j];
}

// The products of two groups of weights with group j of row c of x.
fn products(q0: Group, s0: vec3<f32>, q1: Group, s1: vec3<f32>, c: u32, j: u32, groups: u32) -> vec2<f32> {
    let low = codes(c, 0u, j, groups);
    let high = codes(c, 1u, j, groups);
    let d = scale_of(c, j, groups);
    return vec2(product(q0, s0, low, high, d), product(q1, s1, low, high, d));
}

// The products of group j of two rows of w with that of each row of x.
fn meet(w: Weight, rows: vec2<u32>, j: u32, groups: u32) -> array<vec2<f32>, 4> {
    let at = rows * groups + j;
    let q0 = quants(w, at.x);
    let q1 = quants(w, at.y);
    let s0 = scales(w, at.x);
    let s1 = scales(w, at.y);
    var sums: array<vec2<f32>, 4>;
    sums[0] = products(q0, s0, q1, s1, 0u, j, groups);
    if N > 1u {
        sums[1] = products(q0, s0, q1, s1, 1u, j, groups);
    }
    if N > 2u {
        sums[2] = products(q0, s0, q1, s1, 2u, j, groups);
    }
    if N > 3u {
        sums[3] = products(q0, s0, q1, s1, 3u, j, groups);
    }
    return sums;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = wide(workgroup);
    let part = part_of(group);
    let w = p.parts[part].weight;
    let v = p.parts[1].weight;
    let groups = w.k / 32u;
    prepare(local);
    if !PLANES {
        round_x(w.k, local);
    }
    workgroupBarrier();

    let row = first_row(part, group, local);
    var a: array<vec2<f32>, 4>;
    var b: array<vec2<f32>, 4>;
    var c: array<vec2<f32>, 4>;
    var d: array<vec2<f32>, 4>;
    for (var j = local % 32u; j < groups; j += 32u) {
        a = plus(a, meet(w, two_rows(part, row), j, groups));
        if BOTH {
            b = plus(b, meet(v, two_rows(1u, row), j, groups));
        }
        if PAIRS > 1u {
            c = plus(c, meet(w, two_rows(part, row + 16u), j, groups));
        }
        if BOTH && PAIRS > 1u {
            d = plus(d, meet(v, two_rows(1u, row + 16u), j, groups));
        }
    }
    finish_teams(part, row, a, b, local);
    if PAIRS > 1u {
        finish_teams(part, row + 16u, c, d, local);
    }
}
