// Attention of many rows: tiles of 64 queries × 32 keys with a running softmax (arXiv 1805.02867).
//
// After `cache.wgsl`. A workgroup of 256 takes 64 rows of a query head and walks over the keys of a stretch. Lane (t/16, t%16)
// owns four queries: their scores with keys t%16 and t%16 + 16, then columns 4·(t%16).. and 64 + 4·(t%16).. of their
// output, so the running maximum and what the output fades by stay in its registers and only weights cross the workgroup.
//
// Operations of a tile and lane at d = 128: 1024 multiply-adds for the scores on 192 reads of 16 bytes from workgroup memory
// (6 reads for 32), 1024 for the output on 96 (3 for 32), 8 powers of 2. Memory: K and V once for each 64 rows; Q once
// a tile, which is 64·d·4 bytes from the nearest cache. Workgroup memory 16,132 bytes.
//
// Given up: heads wider than 128 are taken in two halves, each of which computes all scores; matrix units are not used (at
// 512 rows attention is 1 % of a 7B layer's work); Q does not stay in workgroup memory, where it has no room.

const QUERIES = 64u;
const KEYS = 32u;

// vec4s of a row of V that is staged: 16 for d ≤ 64, else 32; and rows at a time.
override ROW: u32;
override VALUES: u32 = 256u / ROW;
override SIDES: u32 = (HEAD + 127u) / 128u;

// By turns: 16 columns of Q (64 rows) and of K (32), rows of 5 vec4s so that no two meet in a bank; maxima; rows of V.
var<workgroup> stage: array<vec4<f32>, 480>;
// Weights of four queries: [query / 4][33], by keys.
var<workgroup> weights: array<vec4<f32>, 528>;
var<workgroup> most: u32;

// Columns 16i to 16i + 15 of Q and K, half of them a lane.
fn stage_scores(t: u32, first: u32, head: u32, key: u32, end: u32, i: u32) {
    let r = t / 2u;
    let c = 2u * i + t % 2u;
    var piece: mat2x4<f32>;
    if r < QUERIES {
        if c < EIGHTS && first + r < p.rows {
            piece = query(first + r, head, c);
        }
    } else if c < EIGHTS && key + r - QUERIES < end {
        piece = eight(false, key + r - QUERIES, head / p.group, c);
    }
    stage[5u * r + 2u * (t % 2u)] = piece[0];
    stage[5u * r + 2u * (t % 2u) + 1u] = piece[1];
}

// `VALUES` rows of V from `key` on, zeros from `end` on: what is not there must not be NaN, though its weight is 0.
fn stage_values(t: u32, head: u32, key: u32, end: u32, side: u32) {
    let j = t / (ROW / 2u);
    let c = t % (ROW / 2u);
    var piece: mat2x4<f32>;
    if key + j < end && 16u * side + c < EIGHTS {
        piece = eight(true, key + j, head / p.group, 16u * side + c);
    }
    stage[j * ROW + 2u * c] = piece[0];
    stage[j * ROW + 2u * c + 1u] = piece[1];
}

fn across(v: vec4<f32>) -> f32 {
    return (v.x + v.y) + (v.z + v.w);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let first = group.x * QUERIES;
    let head = group.y;
    let side = group.z % SIDES;
    let stretch = group.z / SIDES;
    let tq = t / 16u;
    let tk = t % 16u;
    let row = first + 4u * tq;

    var limits = vec4<u32>(limit(row), limit(row + 1u), limit(row + 2u), limit(row + 3u));
    stage[t] = vec4<f32>(vec4<u32>(max(max(limits.x, limits.y), max(limits.z, limits.w))));
    workgroupBarrier();
    if t == 0u {
        var m = 0.0;
        for (var i = 0u; i < 16u; i++) {
            m = max(m, stage[16u * i].x);
        }
        most = u32(m);
    }
    let begin = stretch * p.stretch;
    let end = min(begin + p.stretch, workgroupUniformLoad(&most));
    limits = min(limits, vec4<u32>(end));

    var top = vec4<f32>(NO_MAX);
    var sum: vec4<f32>;
    var low0: vec4<f32>;
    var low1: vec4<f32>;
    var low2: vec4<f32>;
    var low3: vec4<f32>;
    var high0: vec4<f32>;
    var high1: vec4<f32>;
    var high2: vec4<f32>;
    var high3: vec4<f32>;
    for (var key = begin; key < end; key += KEYS) {
        // Sums by fours of columns, of four queries with two keys.
        var a0: vec4<f32>;
        var a1: vec4<f32>;
        var a2: vec4<f32>;
        var a3: vec4<f32>;
        var b0: vec4<f32>;
        var b1: vec4<f32>;
        var b2: vec4<f32>;
        var b3: vec4<f32>;
        for (var i = 0u; 2u * i < EIGHTS; i++) {
            workgroupBarrier();
            if t < 2u * (QUERIES + KEYS) {
                stage_scores(t, first, head, key, end, i);
            }
            workgroupBarrier();
            for (var c = 0u; c < 4u; c++) {
                let ka = stage[5u * (QUERIES + tk) + c];
                let kb = stage[5u * (QUERIES + 16u + tk) + c];
                let q0 = stage[20u * tq + c];
                let q1 = stage[20u * tq + 5u + c];
                let q2 = stage[20u * tq + 10u + c];
                let q3 = stage[20u * tq + 15u + c];
                a0 = fma(q0, ka, a0);
                a1 = fma(q1, ka, a1);
                a2 = fma(q2, ka, a2);
                a3 = fma(q3, ka, a3);
                b0 = fma(q0, kb, b0);
                b1 = fma(q1, kb, b1);
                b2 = fma(q2, kb, b2);
                b3 = fma(q3, kb, b3);
            }
        }
        let masked = vec4<f32>(MASKED);
        var a = vec4<f32>(across(a0), across(a1), across(a2), across(a3));
        var b = vec4<f32>(across(b0), across(b1), across(b2), across(b3));
        a = select(masked, a, vec4<u32>(key + tk) < limits);
        b = select(masked, b, vec4<u32>(key + 16u + tk) < limits);

        workgroupBarrier();
        stage[17u * tq + tk] = max(a, b);
        workgroupBarrier();
        var higher = top;
        for (var i = 0u; i < 16u; i++) {
            higher = max(higher, stage[17u * tq + i]);
        }
        let fade = exp2(top - higher);
        top = higher;
        a = exp2(a - top);
        b = exp2(b - top);
        sum = fma(sum, fade, a + b);
        weights[33u * tq + tk] = a;
        weights[33u * tq + 16u + tk] = b;

        low0 *= fade.x;
        low1 *= fade.y;
        low2 *= fade.z;
        low3 *= fade.w;
        high0 *= fade.x;
        high1 *= fade.y;
        high2 *= fade.z;
        high3 *= fade.w;
        for (var i = 0u; i < KEYS && key + i < end; i += VALUES) {
            workgroupBarrier();
            if t < 128u {
                stage_values(t, head, key + i, end, side);
            }
            workgroupBarrier();
            for (var j = 0u; j < VALUES; j++) {
                let w = weights[33u * tq + i + j];
                let x = stage[j * ROW + tk];
                low0 = fma(vec4<f32>(w.x), x, low0);
                low1 = fma(vec4<f32>(w.y), x, low1);
                low2 = fma(vec4<f32>(w.z), x, low2);
                low3 = fma(vec4<f32>(w.w), x, low3);
                if ROW > 16u {
                    let y = stage[j * ROW + 16u + tk];
                    high0 = fma(vec4<f32>(w.x), y, high0);
                    high1 = fma(vec4<f32>(w.y), y, high1);
                    high2 = fma(vec4<f32>(w.z), y, high2);
                    high3 = fma(vec4<f32>(w.w), y, high3);
                }
            }
        }
    }

    workgroupBarrier();
    stage[17u * tq + tk] = sum;
    workgroupBarrier();
    var total = vec4<f32>();
    for (var i = 0u; i < 16u; i++) {
        total += stage[17u * tq + i];
    }
    let column = 32u * side + tk;
    let low = mat4x4<f32>(low0, low1, low2, low3);
    let high = mat4x4<f32>(high0, high1, high2, high3);
    for (var j = 0u; j < 4u && row + j < p.rows; j++) {
        write(row + j, head, stretch, column, low[j], total[j]);
        if ROW > 16u {
            write(row + j, head, stretch, column + 16u, high[j], total[j]);
        }
        if PARTIAL == 1u && side == 0u && tk == 0u {
            write_weights(row + j, head, stretch, top[j], total[j]);
        }
    }
}
