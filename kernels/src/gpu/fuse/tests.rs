//! Steps of a block of LLaMA, and what must not be drawn together.

use super::*;
use crate::gpu::turns::Table;

/// Weights of one type lie together; everything is possible.
struct Free;

impl Layout for Free {
    fn together(&self, a: Tensor, b: Tensor) -> bool {
        a.dtype == b.dtype
    }

    fn possible(&self, _: &Product) -> bool {
        true
    }
}

/// Tensor `buffer`, one row of `cols`.
fn row(buffer: u32, cols: usize) -> Tensor {
    Tensor { buffer, first: 0, rows: 1, cols, dtype: DType::F32 }
}

fn weight(buffer: u32, m: usize, k: usize, dtype: DType) -> Tensor {
    Tensor { buffer, first: 0, rows: m, cols: k, dtype }
}

const TURNS: Table = Table { buffer: 99, first: 0, pairs: 32 };
const X: u32 = 0;
const H: u32 = 1;

/// A block, as `models::llama` writes it, at position 5; V's weight is of type `v`.
fn block(layer: u32, v: DType) -> Vec<Step> {
    let w = |i: u32, m, k, dtype| weight(100 * (layer + 1) + i, m, k, dtype);
    let norm = |i| row(100 * (layer + 1) + i, 256);
    let (x, h, q, k, vs, attn) =
        (row(X, 256), row(H, 256), row(2, 256), row(3, 256), row(4, 256), row(5, 256));
    let (gate, up) = (row(6, 512), row(7, 512));
    let cache = |i: u32| Tensor { first: 0, rows: 6, dtype: DType::F16, ..w(20 + i, 8, 256, DType::F16) };
    let last = |t: Tensor| t.rows(5, 1);
    let q4 = DType::Q4_K;
    let matmul = |dst, x, w| Step::Matmul { dst, x, w, bias: None };
    vec![
        Step::RmsNorm { dst: h, x, weight: norm(0), eps: 1e-5 },
        matmul(k, h, w(1, 256, 256, q4)),
        matmul(vs, h, w(2, 256, 256, v)),
        Step::Rope { x: k, turns: TURNS, head_dim: 64 },
        Step::Copy { dst: last(cache(0)), x: k },
        Step::Copy { dst: last(cache(1)), x: vs },
        matmul(q, h, w(3, 256, 256, q4)),
        Step::Rope { x: q, turns: TURNS, head_dim: 64 },
        Step::Attention { dst: attn, q, k: cache(0), v: cache(1), positions: None, keys: 6, head_dim: 64 },
        matmul(h, attn, w(4, 256, 256, q4)),
        Step::Add { dst: x, x: h },
        Step::RmsNorm { dst: h, x, weight: norm(5), eps: 1e-5 },
        matmul(gate, h, w(6, 512, 256, q4)),
        matmul(up, h, w(7, 512, 256, q4)),
        Step::SwiGlu { gate, up },
        matmul(h, gate, w(8, 256, 512, q4)),
        Step::Add { dst: x, x: h },
    ]
}

/// Two blocks and the head, fused: the first block's work.
fn first_block(v: DType) -> Vec<Work> {
    let mut steps = block(0, v);
    steps.extend(block(1, v));
    let all = fuse(steps, &Free);
    // The second begins with what reads its own norm's weight.
    let second = |work: &Work| work.product().is_some_and(|p| p.norm.is_some_and(|n| n.weight.buffer == 200));
    let end = all.iter().position(second).unwrap();
    all[..end].to_vec()
}

fn weights(work: &Work) -> Vec<(u32, u32, bool)> {
    let parts = parts(work.product().unwrap()).iter();
    parts.map(|part| (part.w.buffer, part.dst.buffer, matches!(part.then, Then::Turn { .. }))).collect()
}

fn gated(work: &Work) -> Option<(u32, u32)> {
    match work.product()?.sums {
        Sums::SwiGlu { gate, up, .. } => Some((gate.buffer, up.buffer)),
        Sums::Parts(_) => None,
    }
}

#[test]
fn a_block_is_five_pieces_of_work() {
    let work = first_block(DType::Q4_K);
    assert_eq!(work.len(), 5, "{work:#?}");
    // k and v go to the cache, k and q are turned.
    assert_eq!(weights(&work[0]), [(101, 120, true), (102, 121, false), (103, 2, true)]);
    assert!(matches!(work[1], Work::Step(Step::Attention { .. })));
    let out = work[2].product().unwrap();
    assert_eq!((parts(out)[0].dst.buffer, parts(out)[0].then, out.norm), (X, Then::Add, None));
    let gate = work[3].product().unwrap();
    assert_eq!((gated(&work[3]), gate.x.buffer), (Some((106, 107)), X));
    assert_eq!(gate.norm.unwrap().weight.buffer, 105);
    assert_eq!(weights(&work[4]), [(108, X, false)]);
}

#[test]
fn another_type_of_weight_is_work_of_its_own() {
    let work = first_block(DType::Q6_K);
    assert_eq!(work.len(), 6);
    assert_eq!(weights(&work[0]), [(101, 120, true), (103, 2, true)]);
    assert_eq!(weights(&work[1]), [(102, 121, false)]);
    assert!(work[..2].iter().all(|w| w.product().unwrap().norm.is_some()));
}

/// What the submission leaves must be there to be read.
#[test]
fn the_last_results_are_kept() {
    let mut steps = block(0, DType::Q4_K);
    let (up, h) = (row(7, 512), row(H, 256));
    let all = fuse(steps.clone(), &Free);
    assert!(all.iter().any(|work| work.writes(up)) && all.iter().any(|work| work.writes(h)));
    // Once overwritten, they may go.
    steps.push(Step::RmsNorm { dst: up, x: row(6, 512), weight: row(8, 512), eps: 1e-5 });
    assert!(fuse(steps, &Free).iter().any(|work| gated(work).is_some()));
}

/// Steps that fuse, then a change that forbids it: each makes the list longer.
#[test]
fn nothing_moves_past_what_it_depends_on() {
    let (x, h, y, z) = (row(X, 256), row(H, 256), row(20, 256), row(21, 256));
    let w = weight(30, 256, 256, DType::Q4_K);
    let matmul = |dst, x| Step::Matmul { dst, x, w, bias: None };
    let over = |dst| Step::Copy { dst, x: z };
    let count = |steps: &[Step]| fuse(steps.to_vec(), &Free).len();

    // y += w·x: not where y is read between, nor where the product is read later.
    assert_eq!(count(&[matmul(h, x), Step::Add { dst: y, x: h }, over(h)]), 2);
    assert_eq!(
        count(&[matmul(h, x), Step::Copy { dst: row(22, 256), x: y }, Step::Add { dst: y, x: h }, over(h)]),
        4
    );
    assert_eq!(
        count(&[matmul(h, x), Step::Add { dst: y, x: h }, Step::Copy { dst: row(22, 256), x: h }, over(h)]),
        4
    );
    // x += w·x would be read while it is written.
    assert_eq!(count(&[matmul(h, x), Step::Add { dst: x, x: h }, over(h)]), 3);
    // The norm: not where x changes before the product.
    let norm = Step::RmsNorm { dst: h, x, weight: row(31, 256), eps: 1e-5 };
    assert_eq!(count(&[norm, matmul(y, h), over(h)]), 2);
    assert_eq!(count(&[norm, Step::Add { dst: x, x: z }, matmul(y, h), over(h)]), 4);
    assert_eq!(count(&[norm, matmul(y, h), Step::Copy { dst: row(22, 256), x: h }, over(h)]), 4);
    // Two products of one input: not past a write to it.
    assert_eq!(count(&[matmul(y, x), matmul(z, x)]), 1);
    assert_eq!(count(&[matmul(y, x), over(x), matmul(row(22, 256), x)]), 3);
    assert_eq!(count(&[matmul(y, x), Step::Copy { dst: row(22, 256), x: z }, matmul(z, x)]), 3);
}

/// What no kernel does at once stays as it was.
#[test]
fn what_is_not_possible_stays() {
    struct Nothing;
    impl Layout for Nothing {
        fn together(&self, _: Tensor, _: Tensor) -> bool {
            true
        }

        fn possible(&self, _: &Product) -> bool {
            false
        }
    }
    let steps = block(0, DType::Q4_K);
    let as_they_are: Vec<_> = steps.iter().copied().map(Work::Step).collect();
    assert_eq!(fuse(steps, &Nothing), as_they_are);
}
