// Rows of x to 16-bit floats, each with a scale, for `tile_coop.wgsl`: a workgroup for each row.
//
// The scale is the power of 2 that brings the row's largest magnitude into [2^14, 2^15): nothing overflows, and elements down to
// 2^-28 of the largest keep all 11 bits. A row ends with zeros up to a multiple of 32. With NORM the row is normed first, x /
// √(mean(x²) + eps) · norm. Where an element is no finite number the scale is NaN, so that the fault shows. Reads x two or
// three times, from the cache but for the first, and writes half of it.

struct Params {
    rows: u32,
    k: u32,
    // Where x begins and where the weights of the norm begin, in floats.
    x: u32,
    norm: u32,
    eps: f32,
    // Where the halves begin, in words, and the scales.
    halves: u32,
    scales: u32,
}

override NORM: bool = false;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> xs: array<f32>;
@group(0) @binding(2) var<storage, read> norms: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<u32>;

var<workgroup> tops: array<u32, 256>;

fn element(row: u32, i: u32, scale: f32) -> f32 {
    if i >= p.k {
        return 0.0;
    }
    let x = xs[p.x + row * p.k + i];
    if NORM {
        return x * (scale * norms[p.norm + i]);
    }
    return x;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = wide(workgroup);
    if row >= p.rows {
        return;
    }
    var scale = 1.0;
    if NORM {
        var squares = 0.0;
        for (var i = local; i < p.k; i += 256u) {
            let x = xs[p.x + row * p.k + i];
            squares += x * x;
        }
        scale = inverseSqrt(workgroup_sum(squares, local) / f32(p.k) + p.eps);
    }
    // The bits of magnitudes order as they do, with what is no number above all.
    var top = 0u;
    for (var i = local; i < p.k; i += 256u) {
        top = max(top, bitcast<u32>(element(row, i, scale)) & 0x7fffffffu);
    }
    tops[local] = top;
    for (var half = 128u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half {
            tops[local] = max(tops[local], tops[local + half]);
        }
    }
    workgroupBarrier();
    let exponent = tops[0] >> 23u;
    // 2^(exponent − 127 − 14) and its inverse; the least that has one.
    let raise = bitcast<f32>((268u - clamp(exponent, 15u, 254u)) << 23u);
    let words = (p.k + 31u) / 32u * 16u;
    for (var i = local; i < words; i += 256u) {
        let pair = vec2(element(row, 2u * i, scale), element(row, 2u * i + 1u, scale));
        out[p.halves + row * words + i] = pack2x16float(raise * pair);
    }
    if local == 0u {
        let back = bitcast<f32>((clamp(exponent, 15u, 254u) - 14u) << 23u);
        out[p.scales + row] = select(bitcast<u32>(back), 0x7fc00000u, exponent == 255u);
    }
}
