//! Attention: rows and keys around the tiles, heads of all widths, caches of all types, in one buffer and in several.

use super::*;

/// What is computed: rows, keys, query heads, key heads, width of a head, whether rows see the keys up to their position.
type Shape = (usize, usize, usize, usize, usize, bool);

/// Rows of a cache of `dtype`: the same bytes on every backend. They begin at row 1 of the cache, and rows after them are NaN
/// (F32) or zero.
fn cache(b: &mut dyn Backend, dtype: DType, rows: usize, cols: usize, seed: u64) -> Tensor {
    let cache = b.alloc(rows + 3, cols, dtype).unwrap();
    let mut bytes = vec![0; rows * dtype.row_bytes(cols).unwrap()];
    quant::quantize(dtype, cols, &random(seed, rows * cols), &mut bytes, None);
    b.write(cache.rows(1, rows), &bytes);
    if dtype == DType::F32 {
        b.write(cache.rows(rows + 1, 2), bytemuck::cast_slice(&vec![f32::NAN; 2 * cols]));
    }
    cache.rows(1, rows)
}

#[track_caller]
fn check(dtype: DType, (n, keys, heads, key_heads, d, causal): Shape) {
    // The scalar specification reads the same rounded cache; the rest is order of sums and powers of 2.
    let tolerance = if dtype == DType::F32 { 1e-7 } else { 1e-6 };
    let mask = if causal { "up to its position" } else { "all" };
    let what = format!("attention {dtype}, {n} rows, {keys} keys ({mask}), heads {heads}/{key_heads} of {d}");
    agree(&what, tolerance, |b| {
        let q = put(b, n + 1, heads * d, &random(1, (n + 1) * heads * d)).rows(1, n);
        let (k, v) = (cache(b, dtype, keys, key_heads * d, 2), cache(b, dtype, keys, key_heads * d, 3));
        // The last positions; where there are more rows than keys, in no order.
        let position = |i| if n <= keys { keys - n + i } else { i * 7 % keys };
        let positions = put_ids(b, &(0..n).map(|i| position(i) as i32).collect::<Vec<_>>());
        let dst = b.alloc(n + 2, heads * d, DType::F32).unwrap();
        b.attention(dst.rows(1, n), q, k, v, causal.then_some(positions), d);
        get(b, dst)
    });
}

#[test]
fn few_rows() {
    for (n, keys, heads, key_heads, d, causal) in [
        (1, 1, 2, 2, 8, true),
        (1, 64, 4, 2, 16, true),
        (2, 31, 6, 2, 64, true),
        (1, 577, 2, 2, 80, false),
        (4, 65, 5, 1, 128, true),
        (3, 130, 2, 2, 256, true),
        (1, 33, 2, 1, 20, false),
        (2, 9, 3, 3, 3, true),
    ] {
        check(DType::F32, (n, keys, heads, key_heads, d, causal));
    }
}

#[test]
fn few_rows_and_a_long_cache() {
    check(DType::F32, (1, 1500, 2, 2, 128, true));
    check(DType::F16, (1, 1500, 4, 1, 128, true));
    check(DType::Q8_0, (4, 1500, 2, 2, 64, true));
}

#[test]
fn many_rows() {
    for (n, keys, heads, key_heads, d, causal) in [
        (5, 33, 2, 1, 8, true),
        (16, 32, 3, 3, 16, false),
        (17, 31, 2, 2, 80, false),
        (33, 64, 2, 1, 128, true),
        (65, 577, 1, 1, 64, false),
        (64, 5, 2, 2, 20, true),
        (7, 66, 2, 2, 200, true),
    ] {
        check(DType::F32, (n, keys, heads, key_heads, d, causal));
    }
}

#[test]
fn many_rows_and_a_cache_of_halves_or_bytes() {
    check(DType::F16, (33, 100, 4, 2, 64, true));
    check(DType::Q8_0, (20, 97, 2, 1, 128, true));
    check(DType::F16, (6, 40, 2, 2, 20, true));
    check(DType::Q8_0, (5, 64, 2, 2, 32, false));
}

/// Scores of some hundreds, of which one stands out: a softmax that forgot its maximum would overflow.
#[test]
fn large_scores() {
    for n in [1, 9] {
        agree(&format!("large scores, {n} rows"), 1e-7, |b| {
            let large = |seed| random(seed, 70 * 64).iter().map(|x| 30.0 * x).collect::<Vec<_>>();
            let (q, k) = (put(b, n, 64, &large(1)[..n * 64]), put(b, 70, 64, &large(2)));
            let (v, dst) = (put(b, 70, 64, &random(3, 70 * 64)), b.alloc(n, 64, DType::F32).unwrap());
            b.attention(dst, q, k, v, None, 32);
            get(b, dst)
        });
    }
}

/// One op after another in the same scratch.
#[test]
fn divided_keys_do_not_mix() {
    agree("two attentions", 1e-7, |b| {
        let (q, r) = (put(b, 1, 64, &random(1, 64)), put(b, 6, 64, &random(2, 6 * 64)));
        let (k, v) = (put(b, 700, 64, &random(3, 700 * 64)), put(b, 700, 64, &random(4, 700 * 64)));
        let (x, y) = (b.alloc(1, 64, DType::F32).unwrap(), b.alloc(6, 64, DType::F32).unwrap());
        b.attention(x, q, k, v, None, 64);
        b.attention(y, r, k.rows(0, 600), v.rows(0, 600), None, 64);
        b.add(y, x);
        get(b, y)
    });
}
