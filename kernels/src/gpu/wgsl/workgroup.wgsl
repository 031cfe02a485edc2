// Sums over lanes without subgroups: a tree in workgroup memory.

var<workgroup> lanes: array<f32, 256>;

// The sum of `v` over the 256 lanes of a workgroup; every lane gets it. In uniform control flow.
fn workgroup_sum(v: f32, local: u32) -> f32 {
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
