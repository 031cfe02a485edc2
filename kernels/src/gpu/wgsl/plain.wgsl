// What follows from eight elements at a time, for all formats of plain numbers.

fn values(at: Weight, row: u32, j: u32) -> array<vec4<f32>, 8> {
    let a = eight(at, row, 4u * j);
    let b = eight(at, row, 4u * j + 1u);
    let c = eight(at, row, 4u * j + 2u);
    let d = eight(at, row, 4u * j + 3u);
    return array(a[0], a[1], b[0], b[1], c[0], c[1], d[0], d[1]);
}
