// F32: rows of words, as in the file; they are not padded.

fn prepare(local: u32) {}

// The word at `i`, zero past the end of the row.
fn word_before(i: u32, end: u32) -> f32 {
    return select(0.0, bitcast<f32>(arena[min(i, end - 1u)]), i < end);
}

fn eight(at: Weight, row: u32, i: u32) -> array<vec4<f32>, 2> {
    let first = at.quants + row * at.k + 8u * i;
    let end = at.quants + (row + 1u) * at.k;
    if first + 8u <= end && first % 4u == 0u {
        return array(bitcast<vec4<f32>>(arena4[first / 4u]), bitcast<vec4<f32>>(arena4[first / 4u + 1u]));
    }
    return array(
        vec4(
            word_before(first, end),
            word_before(first + 1u, end),
            word_before(first + 2u, end),
            word_before(first + 3u, end),
        ),
        vec4(
            word_before(first + 4u, end),
            word_before(first + 5u, end),
            word_before(first + 6u, end),
            word_before(first + 7u, end),
        ),
    );
}
