// gate = gate·σ(gate)·up, in place: a lane for each element.

struct Params {
    len: u32,
    gate: u32,
    up: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> ups: array<f32>;
@group(0) @binding(2) var<storage, read_write> gates: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = wide(group) * 256u + local;
    if i < p.len {
        gates[p.gate + i] = silu(gates[p.gate + i]) * ups[p.up + i];
    }
}
