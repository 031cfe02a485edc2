// dst = x·wᵀ for up to four rows of x, weights of plain numbers, x in f32: k a multiple of 4.
//
// The shape is that of `decode.wgsl`: 16 rows of the weights a workgroup, two a team of 32 lanes, eight elements a lane at a time,
// so that a team reads 512 bytes of F16 in one go. x is read from the cache by every team, and normed on the way where asked:
// x·(norm·w) with the row's scale at the end. Two multiply-adds for two bytes of F16 and row of x: bound by reading the weights.
//
// Given up: x in workgroup memory. It would save each team's second read of x, two vec4s for four of weights in F16.

// The products of elements 8i..8i+8 of row c of x with those of two weights' rows; `whole`: the last four are there.
fn meet(w0: array<vec4<f32>, 2>, w1: array<vec4<f32>, 2>, c: u32, i: u32, whole: bool) -> vec2<f32> {
    let at = p.x + c * p.x_stride + 2u * i;
    let x0 = bitcast<vec4<f32>>(xs[at]);
    let x1 = select(vec4(0.0), bitcast<vec4<f32>>(xs[select(at, at + 1u, whole)]), whole);
    return vec2(dot(w0[0], x0) + dot(w0[1], x1), dot(w1[0], x0) + dot(w1[1], x1));
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = wide(workgroup);
    let part = part_of(group);
    let w = p.parts[part].weight;
    let v = p.parts[1].weight;
    let scales = norm_scales(w.k, local);

    let row = (group - p.parts[part].group) * 16u + local / 32u * 2u;
    // Rows past the last are computed as the last and stored nowhere.
    let last = p.parts[part].rows - 1u;
    let first = vec2(p.parts[part].first) + min(vec2(row, row + 1u), vec2(last));
    let first_up = vec2(p.parts[1].first) + min(vec2(row, row + 1u), vec2(last));
    var a: array<vec2<f32>, 4>;
    var b: array<vec2<f32>, 4>;
    for (var i = local % 32u; 8u * i < w.k; i += 32u) {
        // k is a multiple of 4, so the second half of eight is there whole or not at all.
        let whole = 8u * i + 4u < w.k;
        var w0 = eight(w, first.x, i);
        var w1 = eight(w, first.y, i);
        var v0 = w0;
        var v1 = w1;
        if BOTH {
            v0 = eight(v, first_up.x, i);
            v1 = eight(v, first_up.y, i);
        }
        if NORM {
            let n0 = norms[p.norm + 2u * i];
            let n1 = norms[select(0u, p.norm + 2u * i + 1u, whole)];
            w0 = array(w0[0] * n0, w0[1] * n1);
            w1 = array(w1[0] * n0, w1[1] * n1);
            v0 = array(v0[0] * n0, v0[1] * n1);
            v1 = array(v1[0] * n0, v1[1] * n1);
        }
        a[0] += meet(w0, w1, 0u, i, whole);
        if N > 1u {
            a[1] += meet(w0, w1, 1u, i, whole);
        }
        if N > 2u {
            a[2] += meet(w0, w1, 2u, i, whole);
        }
        if N > 3u {
            a[3] += meet(w0, w1, 3u, i, whole);
        }
        if BOTH {
            b[0] += meet(v0, v1, 0u, i, whole);
            if N > 1u {
                b[1] += meet(v0, v1, 1u, i, whole);
            }
            if N > 2u {
                b[2] += meet(v0, v1, 2u, i, whole);
            }
            if N > 3u {
                b[3] += meet(v0, v1, 3u, i, whole);
            }
        }
    }
    a = array(a[0] * scales.x, a[1] * scales.y, a[2] * scales.z, a[3] * scales.w);
    b = array(b[0] * scales.x, b[1] * scales.y, b[2] * scales.z, b[3] * scales.w);
    finish_teams(part, row, a, b, local);
}
