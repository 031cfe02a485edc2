// Sums over lanes with subgroups: each adds up its own, workgroup memory holds one number of each.

var<workgroup> lanes: array<f32, 64>;

// The sum of `v` over the 256 lanes of a workgroup; every lane gets it. In uniform control flow.
//
// Lanes of a subgroup follow each other in a workgroup of one dimension, as on all devices known; subgroups have 4 lanes
// or more.
fn workgroup_sum(v: f32, local: u32) -> f32 {
    let size = subgroupAdd(1u);
    let part = subgroupAdd(v);
    workgroupBarrier();
    if local % size == 0u {
        lanes[local / size] = part;
    }
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i < 256u / size; i++) {
        total += lanes[i];
    }
    return total;
}
