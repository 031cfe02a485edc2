// Rows of x to planes of 8 bits: a workgroup for each row, 16 elements a lane.
//
// The codes of group j of a row are two vec4s, elements 0–15 and 16–31, at 2j and 2j+1; its scales a pair (d, d·Σ q). Reads 4
// bytes an element and writes 1.25. With NORM the row is normed first, x / √(mean(x²) + eps) · norm, which reads it twice, the
// second time from the cache.

struct Params {
    rows: u32,
    k: u32,
    // Where x begins and where the weights of the norm begin, in vec4s.
    x: u32,
    norm: u32,
    eps: f32,
    // Where the codes begin, in vec4s, and the scales, in pairs.
    codes: u32,
    scales: u32,
}

override NORM: bool = false;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> xs: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> norms: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> codes: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> scales: array<vec2<f32>>;

// Elements 4i..4i+4 of the row that begins at `x0`, normed.
fn four(x0: u32, i: u32, scale: f32) -> vec4<f32> {
    if NORM {
        return xs[x0 + i] * (scale * norms[p.norm + i]);
    }
    return xs[x0 + i];
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = wide(workgroup);
    if row >= p.rows {
        return;
    }
    let x0 = p.x + row * (p.k / 4u);
    var scale = 1.0;
    if NORM {
        var squares = 0.0;
        for (var i = local; i < p.k / 4u; i += 256u) {
            squares += dot(xs[x0 + i], xs[x0 + i]);
        }
        scale = inverseSqrt(workgroup_sum(squares, local) / f32(p.k) + p.eps);
    }
    let halves = p.k / 16u;
    for (var first = 0u; first < halves; first += 256u) {
        let i = first + local;
        var x = array(vec4(0.0), vec4(0.0), vec4(0.0), vec4(0.0));
        if i < halves {
            let at = 4u * i;
            x = array(four(x0, at, scale), four(x0, at + 1u, scale), four(x0, at + 2u, scale), four(x0, at + 3u, scale));
        }
        let half = rounded(x, local);
        if i < halves {
            codes[p.codes + row * halves + i] = half.q;
            if (i & 1u) == 0u {
                scales[p.scales + (row * halves + i) / 2u] = half.d;
            }
        }
    }
}
