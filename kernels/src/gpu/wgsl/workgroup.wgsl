// Sums over lanes without subgroups: trees in workgroup memory. The functions are those of `subgroup.wgsl`.
//
// A workgroup has 256 lanes in one dimension. All functions are called in uniform control flow, by all lanes.

var<workgroup> lanes: array<vec4<f32>, 256>;

// The larger of the two numbers of neighbours 2i and 2i+1; both get it.
fn pair_most(v: u32, local: u32) -> u32 {
    workgroupBarrier();
    lanes[local].x = bitcast<f32>(v);
    workgroupBarrier();
    return max(v, bitcast<u32>(lanes[local ^ 1u].x));
}

// The sum of the two numbers of neighbours 2i and 2i+1; both get it.
fn pair_sum(v: i32, local: u32) -> i32 {
    workgroupBarrier();
    lanes[local].x = bitcast<f32>(v);
    workgroupBarrier();
    return v + bitcast<i32>(lanes[local ^ 1u].x);
}

// The sum of `v` over a team, 32 lanes that begin at a multiple of 32; every lane gets its team's.
fn team_sum(v: vec4<f32>, local: u32) -> vec4<f32> {
    workgroupBarrier();
    lanes[local] = v;
    for (var half = 16u; half > 0u; half >>= 1u) {
        workgroupBarrier();
        if local % 32u < half {
            lanes[local] += lanes[local + half];
        }
    }
    workgroupBarrier();
    return lanes[local & ~31u];
}

// The sum of `v` over the workgroup; every lane gets it.
fn workgroup_sum4(v: vec4<f32>, local: u32) -> vec4<f32> {
    workgroupBarrier();
    lanes[local] = v;
    for (var half = 128u; half > 0u; half >>= 1u) {
        workgroupBarrier();
        if local < half {
            lanes[local] += lanes[local + half];
        }
    }
    workgroupBarrier();
    return lanes[0];
}

fn workgroup_sum(v: f32, local: u32) -> f32 {
    return workgroup_sum4(vec4(v, 0.0, 0.0, 0.0), local).x;
}
