// Sums over lanes with subgroups: butterflies of shuffles, then one number of each subgroup through workgroup memory.
//
// A workgroup has 256 lanes in one dimension; lanes of a subgroup follow each other in it, as on all devices known.
// Subgroups have any power of two of lanes from 4 on, and the driver may choose how many for each pipeline, so their size is
// asked of the subgroup itself. Barriers stand outside all conditions on it: the same text is right for every size.
// All functions are called in uniform control flow, by all lanes.

var<workgroup> lanes: array<vec4<f32>, 64>;

fn subgroup_lanes() -> u32 {
    return subgroupAdd(1u);
}

// The larger of the two numbers of neighbours 2i and 2i+1; both get it.
fn pair_most(v: u32, local: u32) -> u32 {
    return max(v, subgroupShuffleXor(v, 1u));
}

// The sum of the two numbers of neighbours 2i and 2i+1; both get it.
fn pair_sum(v: i32, local: u32) -> i32 {
    return v + subgroupShuffleXor(v, 1u);
}

// The sum of `v` over a team, 32 lanes that begin at a multiple of 32; every lane gets its team's.
fn team_sum(v: vec4<f32>, local: u32) -> vec4<f32> {
    let size = min(subgroup_lanes(), 32u);
    var part = v;
    for (var mask = 1u; mask < size; mask <<= 1u) {
        part += subgroupShuffleXor(part, mask);
    }
    workgroupBarrier();
    if local % size == 0u {
        lanes[local / size] = part;
    }
    workgroupBarrier();
    let parts = 32u / size;
    var total = lanes[local / 32u * parts];
    for (var i = 1u; i < parts; i++) {
        total += lanes[local / 32u * parts + i];
    }
    return total;
}

// The sum of `v` over the workgroup; every lane gets it.
fn workgroup_sum4(v: vec4<f32>, local: u32) -> vec4<f32> {
    let size = subgroup_lanes();
    let part = subgroupAdd(v);
    workgroupBarrier();
    if local % size == 0u {
        lanes[local / size] = part;
    }
    workgroupBarrier();
    var total = lanes[0];
    for (var i = 1u; i < 256u / size; i++) {
        total += lanes[i];
    }
    return total;
}

fn workgroup_sum(v: f32, local: u32) -> f32 {
    return workgroup_sum4(vec4(v, 0.0, 0.0, 0.0), local).x;
}
