// Rotates adjacent pairs of every head, in place: a lane for each pair.
//
// The turns (cos θ, sin θ) come from the host: a device may err by 2⁻¹¹ in a cosine, and position 4000 would be noise.

struct Params {
    rows: u32,
    // Pairs of a row, of a head, and those of a head that turn.
    pairs: u32,
    head: u32,
    turning: u32,
    // Where x begins, in floats, and the turns of its first row, in pairs.
    x: u32,
    turns: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> turns: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> xs: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let at = wide(group) * 256u + local;
    let row = at / p.pairs;
    let pair = (at % p.pairs) % p.head;
    if row >= p.rows || pair >= p.turning {
        return;
    }
    let turn = turns[p.turns + row * p.turning + pair];
    let i = p.x + 2u * at;
    let a = xs[i];
    let b = xs[i + 1u];
    xs[i] = a * turn.x - b * turn.y;
    xs[i + 1u] = a * turn.y + b * turn.x;
}
