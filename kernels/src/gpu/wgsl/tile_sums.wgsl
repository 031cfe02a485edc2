// What a tile's sums become, whatever the weights: stored, with a bias, or added to what dst holds. `tile.wgsl` and
// `tile_float.wgsl` have the parameters and the bindings.

// Whether the bias is added; whether the sums are added to what dst holds.
override BIAS: bool = false;
override ADD: bool = false;

fn store(sum: f32, row: u32, x_row: u32) {
    if x_row >= p.n || row >= p.rows {
        return;
    }
    let at = p.dst + x_row * p.stride + row;
    var v = sum;
    if BIAS {
        v += biases[p.bias + row];
    }
    if ADD {
        v += out[at];
    }
    out[at] = v;
}

// A lane's four rows of w lie 16 apart.
fn store4(sums: vec4<f32>, row: u32, x_row: u32) {
    store(sums.x, row, x_row);
    store(sums.y, row + 16u, x_row);
    store(sums.z, row + 32u, x_row);
    store(sums.w, row + 48u, x_row);
}
