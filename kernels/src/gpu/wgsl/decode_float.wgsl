// dst = x·wᵀ for up to four rows of x, weights of plain numbers, x in f32: k a multiple of 4.
//
// The shape is that of `decode.wgsl`: 16 or 32 rows of the weights a workgroup, two at a time a team of 32 lanes, eight elements a lane,
// so that a team reads 512 bytes of F16 in one go. x is read from the cache by every team, and normed on the way where asked:
// x·(norm·w) with the row's scale at the end. Two multiply-adds for two bytes of F16 and row of x: bound by reading the weights.
//
// Given up: x in workgroup memory. It would save each team's second read of x, two vec4s for four of weights in F16.

// The products of eight elements of two rows of w with elements 8i..8i+8 of row c of x; `whole`: the last four are there.
fn products(w0: array<vec4<f32>, 2>, w1: array<vec4<f32>, 2>, c: u32, i: u32, whole: bool) -> vec2<f32> {
    let at = p.x + c * p.x_stride + 2u * i;
    let x0 = bitcast<vec4<f32>>(xs[at]);
    let x1 = select(vec4(0.0), bitcast<vec4<f32>>(xs[select(at, at + 1u, whole)]), whole);
    return vec2(dot(w0[0], x0) + dot(w0[1], x1), dot(w1[0], x0) + dot(w1[1], x1));
}

// The products of elements 8i..8i+8 of two rows of w with those of each row of x.
fn meet(w: Weight, rows: vec2<u32>, i: u32) -> array<vec2<f32>, 4> {
    // k is a multiple of 4, so the second half of eight is there whole or not at all.
    let whole = 8u * i + 4u < w.k;
    var w0 = eight(w, rows.x, i);
    var w1 = eight(w, rows.y, i);
    if NORM {
        let n0 = norms[p.norm + 2u * i];
        let n1 = norms[select(0u, p.norm + 2u * i + 1u, whole)];
        w0 = array(w0[0] * n0, w0[1] * n1);
        w1 = array(w1[0] * n0, w1[1] * n1);
    }
    var sums: array<vec2<f32>, 4>;
    sums[0] = products(w0, w1, 0u, i, whole);
    if N > 1u {
        sums[1] = products(w0, w1, 1u, i, whole);
    }
    if N > 2u {
        sums[2] = products(w0, w1, 2u, i, whole);
    }
    if N > 3u {
        sums[3] = products(w0, w1, 3u, i, whole);
    }
    return sums;
}

fn scaled(a: array<vec2<f32>, 4>, scales: vec4<f32>) -> array<vec2<f32>, 4> {
    return array(a[0] * scales.x, a[1] * scales.y, a[2] * scales.z, a[3] * scales.w);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = wide(workgroup);
    let part = part_of(group);
    let w = p.parts[part].weight;
    let v = p.parts[1].weight;
    let scales = norm_scales(w.k, local);

    let row = first_row(part, group, local);
    var a: array<vec2<f32>, 4>;
    var b: array<vec2<f32>, 4>;
    var c: array<vec2<f32>, 4>;
    var d: array<vec2<f32>, 4>;
    for (var i = local % 32u; 8u * i < w.k; i += 32u) {
        a = plus(a, meet(w, two_rows(part, row), i));
        if BOTH {
            b = plus(b, meet(v, two_rows(1u, row), i));
        }
        if PAIRS > 1u {
            c = plus(c, meet(w, two_rows(part, row + 16u), i));
        }
        if BOTH && PAIRS > 1u {
            d = plus(d, meet(v, two_rows(1u, row + 16u), i));
        }
    }
    finish_teams(part, row, scaled(a, scales), scaled(b, scales), local);
    if PAIRS > 1u {
        finish_teams(part, row + 16u, scaled(c, scales), scaled(d, scales), local);
    }
}
