// Attention of few rows: a workgroup for each key head, up to four queries that share it, and stretch of keys.
//
// After `cache.wgsl`. Decoding reads the whole cache for a row, so this is bound by memory, and a device is full only if
// the keys are divided too: `combine.wgsl` merges the stretches. The queries of a workgroup are rows and query heads that
// meet the same key head, so K and V are read once for four of them.
//
// 64 keys at a time. Scores: four lanes a key, each every fourth eight of the row (64 bytes side by side of F16). Output: a lane
// for each eight of columns, so a row of V is read whole, and 256 lanes take 256/LANES keys at once. The values are asked for
// before the scores are summed, so both are on their way together: 128 bytes a lane at d = 128 in F16.
//
// A key and query at d = 128: 256 multiply-adds on 512 bytes of an F16 cache, 64 + 32 bytes of workgroup memory written and
// read. Four barriers for 64 keys. Workgroup memory 9,344 bytes.
//
// Given up: sums over lanes go through workgroup memory also where there are subgroups; it is a fifth of the traffic of
// the cache, from a memory ten times as fast. Values from the fifth key of a lane on (d > 128) are not asked for ahead.

const KEYS = 64u;

// Queries of a workgroup: 1, 2 or 4.
override QUERIES: u32;
// Lanes for a row of V: EIGHTS up to a power of 2, at least 4.
override LANES: u32;
override TEAMS: u32 = 256u / LANES;
override EACH: u32 = LANES / 4u;

// The queries [4][64], and scores of a lane [256]; at the end the outputs of all lanes.
var<workgroup> room: array<vec4<f32>, 512>;
// Scores, then weights, of four queries.
var<workgroup> weights: array<vec4<f32>, 64>;
var<workgroup> tops: array<vec4<f32>, 8>;

// Outputs of this lane.
var<private> out0: mat2x4<f32>;
var<private> out1: mat2x4<f32>;
var<private> out2: mat2x4<f32>;
var<private> out3: mat2x4<f32>;

fn product(x: mat2x4<f32>, at: u32) -> f32 {
    return dot(x[0], room[at]) + dot(x[1], room[at + 1u]);
}

fn accumulate(w: vec4<f32>, x: mat2x4<f32>) {
    out0 += w.x * x;
    if QUERIES > 1u {
        out1 += w.y * x;
    }
    if QUERIES > 2u {
        out2 += w.z * x;
        out3 += w.w * x;
    }
}

// The largest of eight vectors from `at` on.
fn largest(at: u32) -> vec4<f32> {
    var m = weights[at];
    for (var i = 1u; i < 8u; i++) {
        m = max(m, weights[at + i]);
    }
    return m;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let stretch = group.x;
    let head = group.y;
    // Queries are numbered row by row within those that share the key head.
    let first = QUERIES * group.z;
    let count = p.rows * p.group;
    var limits: vec4<u32>;
    for (var i = 0u; i < QUERIES; i++) {
        let row = (first + i) / p.group;
        limits[i] = select(0u, limit(row), first + i < count);
        if t < EIGHTS {
            var x: mat2x4<f32>;
            if first + i < count {
                x = query(row, head * p.group + (first + i) % p.group, t);
            }
            room[64u * i + 2u * t] = x[0];
            room[64u * i + 2u * t + 1u] = x[1];
        }
    }
    let begin = stretch * p.stretch;
    let seen = max(max(limits.x, limits.y), max(limits.z, limits.w));
    let end = min(begin + p.stretch, seen);
    workgroupBarrier();

    let team = t / LANES;
    let lane = min(t % LANES, EIGHTS - 1u);
    var top = vec4<f32>(NO_MAX);
    // The sum of weights of every 64th key.
    var sum: vec4<f32>;
    for (var key = begin; key < end; key += KEYS) {
        // Keys past the end are the last one, with weight 0.
        let row = min(key + t / 4u, end - 1u);
        var score: vec4<f32>;
        for (var c = t % 4u; c < EIGHTS; c += 4u) {
            let x = eight(false, row, head, c);
            score.x += product(x, 2u * c);
            if QUERIES > 1u {
                score.y += product(x, 64u + 2u * c);
            }
            if QUERIES > 2u {
                score.z += product(x, 128u + 2u * c);
                score.w += product(x, 192u + 2u * c);
            }
        }
        let x0 = eight(true, min(key + team, end - 1u), head, lane);
        var x1: mat2x4<f32>;
        var x2: mat2x4<f32>;
        var x3: mat2x4<f32>;
        if EACH > 1u {
            x1 = eight(true, min(key + team + TEAMS, end - 1u), head, lane);
        }
        if EACH > 2u {
            x2 = eight(true, min(key + team + 2u * TEAMS, end - 1u), head, lane);
            x3 = eight(true, min(key + team + 3u * TEAMS, end - 1u), head, lane);
        }
        room[256u + t] = score;
        workgroupBarrier();
        if t < KEYS {
            let at = 256u + 4u * t;
            score = (room[at] + room[at + 1u]) + (room[at + 2u] + room[at + 3u]);
            weights[t] = select(vec4<f32>(MASKED), score, vec4<u32>(key + t) < min(limits, vec4<u32>(end)));
        }
        workgroupBarrier();
        if t < 8u {
            tops[t] = largest(8u * t);
        }
        workgroupBarrier();
        var higher = top;
        for (var i = 0u; i < 8u; i++) {
            higher = max(higher, tops[i]);
        }
        let fade = exp2(top - higher);
        top = higher;
        if t < KEYS {
            let w = exp2(weights[t] - top);
            weights[t] = w;
            sum = fma(sum, fade, w);
        }
        workgroupBarrier();
        out0 *= fade.x;
        out1 *= fade.y;
        out2 *= fade.z;
        out3 *= fade.w;
        accumulate(weights[team], x0);
        if EACH > 1u {
            accumulate(weights[team + TEAMS], x1);
        }
        if EACH > 2u {
            accumulate(weights[team + 2u * TEAMS], x2);
            accumulate(weights[team + 3u * TEAMS], x3);
        }
        for (var j = 4u; j < EACH; j++) {
            let at = team + j * TEAMS;
            accumulate(weights[at], eight(true, min(key + at, end - 1u), head, lane));
        }
    }

    workgroupBarrier();
    if t < KEYS {
        weights[t] = sum;
    }
    workgroupBarrier();
    var total = vec4<f32>();
    for (var i = 0u; i < KEYS; i++) {
        total += weights[i];
    }
    for (var i = 0u; i < QUERIES; i++) {
        var mine = out0;
        switch i {
            case 1u: { mine = out1; }
            case 2u: { mine = out2; }
            case 3u: { mine = out3; }
            default: {}
        }
        workgroupBarrier();
        room[t] = mine[0];
        room[256u + t] = mine[1];
        workgroupBarrier();
        // Lane t takes the t-th four of columns: half of an eight.
        if t < 2u * LANES && first + i < count {
            var sums = vec4<f32>();
            for (var j = 0u; j < TEAMS; j++) {
                sums += room[256u * (t % 2u) + j * LANES + t / 2u];
            }
            let row = (first + i) / p.group;
            let own = head * p.group + (first + i) % p.group;
            write(row, own, stretch, t, sums, total[i]);
            if PARTIAL == 1u && t == 0u {
                write_weights(row, own, stretch, top[i], total[i]);
            }
        }
    }
}
