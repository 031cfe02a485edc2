//! Attention: prompts, single tokens, pictures; every cache type; shared key heads.

use super::*;

struct Case {
    /// Rows, and the position of the first (`None`: no mask).
    n: usize,
    first: Option<usize>,
    /// Positions in the cache.
    len: usize,
    heads: usize,
    key_heads: usize,
    d: usize,
}

/// What the op must give, in f64 from the inputs as stored, and the largest |v| (which bounds the output).
fn naive(case: &Case, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f64> {
    let &Case { n, first, len, heads, key_heads, d } = case;
    let mut out = vec![0.0; n * heads * d];
    for row in 0..n {
        let keys = first.map_or(len, |first| first + row + 1);
        for head in 0..heads {
            let q = &q[(row * heads + head) * d..][..d];
            let at = |x: &[f32], j: usize, e: usize| {
                f64::from(x[(j * key_heads + head * key_heads / heads) * d + e])
            };
            let scores: Vec<f64> = (0..keys)
                .map(|j| (0..d).map(|e| f64::from(q[e]) * at(k, j, e)).sum::<f64>() / (d as f64).sqrt())
                .collect();
            let max = scores.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
            for e in 0..d {
                let mean =
                    scores.iter().enumerate().map(|(j, s)| (s - max).exp() * at(v, j, e)).sum::<f64>() / sum;
                out[(row * heads + head) * d + e] = mean;
            }
        }
    }
    out
}

fn check(case: &Case, dtype: DType, spread: f32) {
    let &Case { n, first, len, heads, key_heads, d } = case;
    let mut random = Random((n * 31 + len * 7 + heads + d) as u64);
    let q: Vec<f32> = random.vec(n * heads * d).iter().map(|x| x * spread).collect();
    let (k, v) = (random.vec(len * key_heads * d), random.vec(len * key_heads * d));
    let (kr, vr) = (rounded(dtype, key_heads * d, &k), rounded(dtype, key_heads * d, &v));
    let want = naive(case, &q, &kr, &vr);
    // A score errs by γ(d)·‖q‖‖k‖/√d, and e^ by as much relative; so do weights and their sum. The weighted mean then errs by
    // that share of its largest value, and by γ of the keys, whose running sums fade and are added.
    let norm = |x: &[f32], d: usize| {
        x.chunks(d).map(|x| x.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt()).fold(0.0, f64::max)
    };
    let score = norm(&q, d) * norm(&kr, d) / (d as f64).sqrt();
    let largest = vr.iter().fold(0.0f64, |m, v| m.max(f64::from(v.abs())));
    let bound =
        EPS * (2.0 * (d as f64 / 2.0 + 2.0).min(32.0) * score + (len as f64).min(64.0) + 16.0) * largest;
    each_cpu(|cpu, name| {
        let qt = put(cpu, n, heads * d, &q);
        let (kt, vt) =
            (put_as(cpu, dtype, len, key_heads * d, &k), put_as(cpu, dtype, len, key_heads * d, &v));
        let positions = first.map(|first| (first as i32..(first + n) as i32).collect::<Vec<_>>());
        let positions = positions.map(|p| put_ids(cpu, &p));
        let dst = cpu.alloc(n, heads * d, DType::F32).unwrap();
        cpu.attention(dst, qt, kt, vt, positions, d);
        let what =
            format!("{name}: n {n} from {first:?} of {len}, {heads}/{key_heads} heads of {d}, {dtype}");
        close(&what, &get(cpu, dst), |i| want[i], |_| bound);
    });
}

#[test]
fn prompts() {
    for n in [2, 15, 16, 17, 31, 32, 33, 70] {
        for first in [0, 1, 63, 100] {
            let case = Case { n, first: Some(first), len: first + n + 3, heads: 2, key_heads: 2, d: 64 };
            check(&case, DType::F16, 1.0);
        }
    }
}

#[test]
fn single_tokens() {
    for first in [0, 1, 31, 32, 63, 64, 65, 500] {
        for dtype in [DType::F32, DType::F16, DType::Q8_0] {
            let case = Case { n: 1, first: Some(first), len: first + 1, heads: 4, key_heads: 4, d: 128 };
            check(&case, dtype, 1.0);
        }
    }
}

#[test]
fn pictures() {
    for len in [1, 5, 64, 65, 130] {
        let case = Case { n: len, first: None, len, heads: 3, key_heads: 3, d: 64 };
        check(&case, DType::F32, 1.0);
    }
}

#[test]
fn shared_key_heads_and_odd_widths() {
    for (heads, key_heads, d) in [(4, 1, 32), (8, 2, 96), (6, 3, 160), (2, 2, 256)] {
        for dtype in [DType::F32, DType::F16, DType::Q8_0] {
            for n in [1, 3, 40] {
                check(&Case { n, first: Some(50), len: 100, heads, key_heads, d }, dtype, 1.0);
            }
        }
    }
    for d in [1, 2, 6, 17, 80] {
        for n in [1, 20] {
            check(&Case { n, first: Some(5), len: 30, heads: 2, key_heads: 1, d }, DType::F32, 1.0);
            check(&Case { n, first: Some(5), len: 30, heads: 2, key_heads: 1, d }, DType::F16, 1.0);
        }
    }
}

#[test]
fn scores_that_leave_the_range_of_exp() {
    for n in [1, 40] {
        // Scores of some hundreds: a softmax without its maximum would be ∞/∞.
        check(&Case { n, first: Some(100), len: 150, heads: 2, key_heads: 2, d: 64 }, DType::F16, 40.0);
    }
}

#[test]
fn positions_of_several_conversations() {
    each_cpu(|cpu, name| {
        let mut random = Random(77);
        let (n, len, d) = (20, 90, 32);
        let (q, k, v) = (random.vec(n * d), random.vec(len * d), random.vec(len * d));
        let positions: Vec<i32> = (0..n as i32).map(|i| i * 37 % len as i32).collect();
        let (qt, kt, vt) = (put(cpu, n, d, &q), put(cpu, len, d, &k), put(cpu, len, d, &v));
        let (p, dst) = (put_ids(cpu, &positions), cpu.alloc(n, d, DType::F32).unwrap());
        cpu.attention(dst, qt, kt, vt, Some(p), d);
        let got = get(cpu, dst);
        for (row, &position) in positions.iter().enumerate() {
            let case = Case { n: 1, first: Some(position as usize), len, heads: 1, key_heads: 1, d };
            let want = naive(&case, &q[row * d..][..d], &k, &v);
            close(&format!("{name}: row {row}"), &got[row * d..][..d], |i| want[i], |_| 64.0 * EPS * 3.5);
        }
    });
}
