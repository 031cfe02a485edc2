// What all kernels share.
//
// Binding 0 of every kernel is its own `Params`: numbers of 4 bytes, filled by the host in the order of the fields. Rows and
// places of operands are counted in elements of the binding's type, from the beginning of the binding.

// A workgroup's number where one dimension may not have enough of them: workgroups are laid out in rows of `WIDE`.
const WIDE: u32 = 32768u;

fn wide(group: vec3<u32>) -> u32 {
    return group.y * WIDE + group.x;
}

// x·σ(x). Below −88 the exponential is infinite and the result −0, as it should be.
fn silu(x: f32) -> f32 {
    return x / (1.0 + exp(-x));
}
