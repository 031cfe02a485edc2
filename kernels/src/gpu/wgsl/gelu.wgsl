// x = gelu(x), in place: a lane for each element.

struct Params {
    len: u32,
    x: u32,
}

// 0: x·Φ(x) by erf; 1: x·σ(1.702·x); 2: by tanh.
override KIND: u32 = 0u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> xs: array<f32>;

// 1 − erf(x) for x ≥ 0, relative error below 1.2e-7 (W. H. Press et al., Numerical Recipes, section 6.2: a Chebyshev
// fit to erfc's logarithm), so that the tail x·Φ(x) of large negative x keeps its digits.
fn erfc(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.5 * x);
    let series = t * (1.00002368 + t * (0.37409196 + t * (0.09678418 + t * (-0.18628806 + t * (0.27886807
        + t * (-1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277))))))));
    return t * exp(-x * x - 1.26551223 + series);
}

// σ(x) = 1/(1 + e⁻ˣ).
fn logistic(x: f32) -> f32 {
    return 1.0 / (1.0 + exp(-x));
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = wide(group) * 256u + local;
    if i >= p.len {
        return;
    }
    let x = xs[p.x + i];
    if KIND == 1u {
        xs[p.x + i] = x * logistic(1.702 * x);
    } else if KIND == 2u {
        // 1/2·(1 + tanh(y)) = σ(2y), which overflows nowhere.
        xs[p.x + i] = x * logistic(1.5957691216057308 * (x + 0.044715 * x * x * x));
    } else {
        let tail = 0.5 * erfc(abs(x) * 0.7071067811865476);
        xs[p.x + i] = x * select(1.0 - tail, tail, x < 0.0);
    }
}
