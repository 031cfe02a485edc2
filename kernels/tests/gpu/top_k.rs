//! The largest of each row: the same bits as on the CPU, in the same order.

use super::*;

/// Columns of `x` [n, m]: of the first `among`, the largest k.
#[track_caller]
fn check(x: &[f32], n: usize, m: usize, among: usize, k: usize) {
    let run = |b: &mut dyn Backend| {
        let (x, dst) = (put(b, n, m, x), b.alloc(n + 1, 2 * k, DType::F32).unwrap());
        b.top_k(dst.rows(1, n), x, among);
        get(b, dst).into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let want = run(&mut Cpu::new(CpuOptions { threads: 1, isa: Some(Isa::Scalar) }));
    for (name, allow) in allowances() {
        let Some(mut gpu) = gpu(allow) else { return };
        let got = run(&mut gpu);
        let differs = got.iter().zip(&want).position(|(g, w)| g != w);
        assert!(
            differs.is_none(),
            "{k} of {among} of {m} columns, {n} rows, {name}: differs at {differs:?}: {:?}",
            differs.map(|at| (f32::from_bits(got[at]), f32::from_bits(want[at])))
        );
    }
}

/// Around the 2048 candidates of a workgroup and the 256 rows of a dispatch.
#[test]
fn shapes() {
    for (n, m, among, k) in [
        (1, 5, 5, 1),
        (2, 5, 3, 3),
        (3, 2048, 2048, 64),
        (2, 2049, 2049, 7),
        (300, 10, 9, 4),
        (1, 5000, 5000, 1024),
    ] {
        check(&random(1, n * m), n, m, among, k);
    }
}

#[test]
fn a_vocabulary() {
    let x = random(1, 2 * 32064);
    for k in [1, 40, 64] {
        check(&x, 2, 32064, 32000, k);
    }
    check(&random(2, 70_000), 1, 70_000, 70_000, 64);
}

/// Many equals, zeros of both signs, infinities and what is no number.
#[test]
fn order_of_what_is_equal_or_no_number() {
    let mut x: Vec<f32> = random(1, 5000).iter().map(|x| x.round()).collect();
    for k in [1, 64] {
        check(&x, 1, 5000, 5000, k);
    }
    x.iter_mut().for_each(|x| *x = x.min(0.0));
    x.iter_mut().step_by(3).for_each(|x| *x = -*x);
    check(&x, 1, 5000, 5000, 64);
    for (at, odd) in [(4100, f32::NAN), (77, f32::INFINITY), (3000, -f32::NAN), (78, f32::NEG_INFINITY)] {
        x[at] = odd;
    }
    for k in [1, 3, 64] {
        check(&x, 1, 5000, 5000, k);
    }
    check(&[f32::NEG_INFINITY; 40], 1, 40, 40, 40);
}
