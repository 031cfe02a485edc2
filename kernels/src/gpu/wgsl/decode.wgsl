// dst = x·wᵀ for up to four rows of x, weights of blocks: what generates a token.
//
// Reading the weights is all that should take time: 18 bytes for 32 weights in 4 bits. A workgroup has 16 rows of the weights, a
// team of 32 lanes two of them, side by side so that RoPE's pairs meet in one lane; a lane has every 32nd group, so that a
// team reads 512 bytes in one go. x is rounded to 8 bits by every workgroup for itself into its own memory, normed before
// where asked: that reads x from the cache a second time and costs a third of a workgroup's instructions at k = 4096, in
// exchange for a dispatch less. Where x does not fit there (PLANES) it comes rounded from a dispatch before.
//
// Per group and row of x 8 packed products and 6 operations in f32, per group about 20 to unpack; with packed products in
// hardware that is a fifth or less of what an arithmetic unit can do while its share of the weights arrives.
//
// Given up: splitting k over workgroups (m ≥ 4096 in the models meant, that is 256 workgroups or more), and rows of x in
// 16 bits, which would need no rounding but twice the instructions.

// Whether x comes in planes.
override PLANES: bool = false;
// N·k/32, the groups of x in workgroup memory; 1 where they are not there.
override GROUPS: u32 = 1u;

var<workgroup> x_codes: array<vec4<u32>, 2 * GROUPS>;
var<workgroup> x_scales: array<vec2<f32>, GROUPS>;

// Rounds x into workgroup memory: codes of elements 0–15 of all groups, then of 16–31, so that lanes read side by side.
fn round_x(k: u32, local: u32) {
    let scales = norm_scales(k, local);
    let groups = k / 32u;
    for (var c = 0u; c < N; c++) {
        for (var first = 0u; first < 2u * groups; first += 256u) {
            let i = first + local;
            var x = array(vec4(0.0), vec4(0.0), vec4(0.0), vec4(0.0));
            if i < 2u * groups {
                for (var e = 0u; e < 4u; e++) {
                    x[e] = bitcast<vec4<f32>>(xs[p.x + c * p.x_stride + 4u * i + e]);
                    if NORM {
                        x[e] *= scales[c] * norms[p.norm + 4u * i + e];
                    }
                }
            }
            let half = rounded(x, local);
            if i < 2u * groups {
                x_codes[(2u * c + (i & 1u)) * groups + i / 2u] = half.q;
                if (i & 1u) == 0u {
                    x_scales[c * groups + i / 2u] = half.d;
                }
            }
        }
    }
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

    let row = (group - p.parts[part].group) * 16u + local / 32u * 2u;
    // Rows past the last are computed as the last and stored nowhere.
    let last = p.parts[part].rows - 1u;
    let first = vec2(p.parts[part].first) + min(vec2(row, row + 1u), vec2(last));
    let first_up = vec2(p.parts[1].first) + min(vec2(row, row + 1u), vec2(last));
    var a: array<vec2<f32>, 4>;
    var b: array<vec2<f32>, 4>;
    for (var j = local % 32u; j < groups; j += 32u) {
        let at = first * groups + j;
        let q0 = quants(w, at.x);
        let q1 = quants(w, at.y);
        let s0 = scales(w, at.x);
        let s1 = scales(w, at.y);
        for (var c = 0u; c < N; c++) {
            let low = codes(c, 0u, j, groups);
            let high = codes(c, 1u, j, groups);
            let d = scale_of(c, j, groups);
            a[c] += vec2(product(q0, s0, low, high, d), product(q1, s1, low, high, d));
        }
        if BOTH {
            let up = first_up * groups + j;
            let q2 = quants(v, up.x);
            let q3 = quants(v, up.y);
            let s2 = scales(v, up.x);
            let s3 = scales(v, up.y);
            for (var c = 0u; c < N; c++) {
                let low = codes(c, 0u, j, groups);
                let high = codes(c, 1u, j, groups);
                let d = scale_of(c, j, groups);
                b[c] += vec2(product(q2, s2, low, high, d), product(q3, s3, low, high, d));
            }
        }
    }
    finish_teams(part, row, a, b, local);
}
