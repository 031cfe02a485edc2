//! `matmul` and `get_rows` of every format, over shapes around the kernels' tiles.
//!
//! Integer products are the same on both sides, so quantized products differ by what the device's divisions do to a scale and now and
//! then to a code (Vulkan allows 2.5 ulp), and by the order of sums.

use super::*;

/// Every format of weights.
fn formats() -> impl Iterator<Item = DType> {
    DType::ALL.into_iter().filter(|dtype| *dtype != DType::I32)
}

/// What results may differ by.
fn tolerance(dtype: DType) -> f64 {
    if dtype.is_quantized() { 1e-6 } else { 1e-7 }
}

/// A small and a larger k for rows of `dtype`.
fn widths(dtype: DType) -> [usize; 2] {
    match dtype.block_len() {
        256 => [256, 1280],
        32 => [32, 1120],
        _ => [33, 1028],
    }
}

/// x·wᵀ, with a bias where `bias`.
fn product(b: &mut dyn Backend, dtype: DType, n: usize, k: usize, m: usize, bias: bool) -> Vec<f32> {
    let w = load(b, dtype, m, k, &random(1, m * k));
    let bias = bias.then(|| load(b, DType::F32, 1, m, &random(3, m)));
    let x = put(b, n, k, &random(2, n * k));
    let dst = b.alloc(n, m, DType::F32).unwrap();
    b.matmul(dst, x, w, bias);
    get(b, dst)
}

/// [n, k, m]: x·wᵀ of all `shapes` on devices of all allowances, each opened once, with a bias in every third.
fn agree_over(dtype: DType, shapes: &[[usize; 3]]) {
    let of = |b: &mut dyn Backend, i: usize| {
        let [n, k, m] = shapes[i];
        product(b, dtype, n, k, m, i.is_multiple_of(3))
    };
    let mut cpu = Cpu::new(CpuOptions { threads: 1, isa: Some(Isa::Scalar) });
    let want: Vec<_> = (0..shapes.len()).map(|i| of(&mut cpu, i)).collect();
    for (name, allow) in allowances() {
        let Some(mut gpu) = gpu(allow) else { return };
        for (i, (shape, want)) in shapes.iter().zip(&want).enumerate() {
            let error = nmse(&of(&mut gpu, i), want);
            assert!(
                error <= tolerance(dtype),
                "{dtype}, [n, k, m] = {shape:?} with {name}: error {error:.2e}"
            );
        }
    }
}

#[test]
fn every_format_over_rows_of_x() {
    for dtype in formats() {
        let [small, large] = widths(dtype);
        let rows = [1, 2, 4, 5, 16, 17, 64, 65, 130].into_iter().enumerate();
        let shapes: Vec<_> = rows.map(|(i, n)| [n, if i % 2 == 0 { small } else { large }, 67]).collect();
        agree_over(dtype, &shapes);
    }
}

#[test]
fn weights_of_any_number_of_rows() {
    agree_over(DType::Q4_K, &[[1, 512, 1], [3, 512, 15], [9, 256, 63]]);
    agree_over(DType::Q6_K, &[[1, 512, 17], [70, 256, 1]]);
    agree_over(DType::F16, &[[1, 512, 33], [3, 512, 1], [33, 64, 129]]);
}

/// Plain numbers whose rows are not whole vectors.
#[test]
fn ragged_rows_of_floats() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let shapes = [(1, 1), (1, 4), (2, 36), (4, 31), (1, 588), (7, 45), (65, 2)];
        agree_over(dtype, &shapes.map(|(n, k)| [n, k, 19]));
    }
}

/// Rows of x wider than the memory of a workgroup come rounded from a dispatch of their own.
#[test]
fn rows_too_wide_for_a_workgroup() {
    for (dtype, n, k) in [(DType::Q4_0, 1, 26_624), (DType::Q4_K, 3, 14_336), (DType::IQ4_XS, 4, 14_336)] {
        agree(&format!("{n}×{k} by {dtype}"), tolerance(dtype), |b| product(b, dtype, n, k, 5, true));
    }
}

/// x, dst and weights may be rows of larger tensors, and one x may meet several weights.
#[test]
fn views_and_several_weights() {
    for (dtype, n) in
        [(DType::Q5_1, 3), (DType::Q4_0, 20), (DType::Q6_K, 2), (DType::F32, 2), (DType::F16, 9)]
    {
        agree(&format!("views with {dtype}"), tolerance(dtype), |b| {
            let (k, m) = (256, 40);
            let all = load(b, dtype, 2 * m + 3, k, &random(1, (2 * m + 3) * k));
            let x = put(b, n + 5, k, &random(2, (n + 5) * k));
            let dst = put(b, n + 4, m, &random(3, (n + 4) * m));
            let second = b.alloc(n, m, DType::F32).unwrap();
            b.matmul(dst.rows(1, n), x.rows(4, n), all.rows(1, m), None);
            b.matmul(second, x.rows(4, n), all.rows(m + 3, m), None);
            // What is written in between must not be taken for what was rounded before.
            let more = put(b, 1, k, &random(4, k));
            b.add(x.rows(4, n), more);
            b.matmul(dst.rows(1, n).rows(0, 1), x.rows(4, 1), all.rows(0, m), None);
            [get(b, dst), get(b, second)].concat()
        });
    }
}

/// Activations of every size: blocks of zeros, tiny and huge ones beside each other.
#[test]
fn activations_of_all_sizes() {
    let k = 256;
    for n in [1, 6] {
        agree("activations of all sizes", 1e-6, |b| {
            let mut x = random(2, n * k);
            for (i, x) in x.chunks_exact_mut(32).enumerate() {
                let scale = [0.0, 1e-38, 1.0, 1e-30, 1e6, 1e-5][i % 6];
                x.iter_mut().for_each(|x| *x *= scale);
            }
            let w = load(b, DType::Q8_0, 9, k, &random(1, 9 * k));
            let x = put(b, n, k, &x);
            let dst = b.alloc(n, 9, DType::F32).unwrap();
            b.matmul(dst, x, w, None);
            get(b, dst)
        });
    }
}

/// A number that is none shows in all products of its row, and in no other.
#[test]
fn nan_stays_seen() {
    let Some(mut gpu) = gpu(Allow::default()) else { return };
    for (n, bad) in [(1, f32::NAN), (5, f32::INFINITY)] {
        let mut x = random(2, n * 64);
        x[40] = bad;
        let w = load(&mut gpu, DType::Q4_0, 7, 64, &random(1, 7 * 64));
        let x = put(&mut gpu, n, 64, &x);
        let dst = gpu.alloc(n, 7, DType::F32).unwrap();
        gpu.matmul(dst, x, w, None);
        let out = get(&mut gpu, dst);
        assert!(out[..7].iter().all(|v| v.is_nan()), "{n} rows with {bad}: {out:?}");
        assert!(out[7..].iter().all(|v| v.is_finite()), "{n} rows with {bad}: {out:?}");
    }
}

#[test]
fn rows_of_every_format() {
    for dtype in formats() {
        // The very numbers: a decoder's few operations are exact up to the last.
        agree(&format!("rows in {dtype}"), 0.0, |b| {
            // Of weights so small, scales are halves without a leading one, which some conversions take for zero.
            let rows = [(0, 1.0), (1, 1.0), (0, 1e-3), (1, 1e-5)].map(|(width, size)| {
                let k = widths(dtype)[width];
                let data: Vec<_> = random(1, 37 * k).iter().map(|x| x * size).collect();
                let table = load(b, dtype, 37, k, &data);
                let ids = put_ids(b, &[36, 0, 0, 17, 5, 36, 1]);
                let dst = b.alloc(7, k, DType::F32).unwrap();
                b.get_rows(dst, table, ids);
                // Of a part of the ids, into a view.
                b.get_rows(dst.rows(2, 2), table, ids.rows(3, 2));
                get(b, dst)
            });
            // All of one size, so that none hides another's errors.
            let sizes = [1.0, 1.0, 1e3, 1e5];
            rows.iter().zip(sizes).flat_map(|(row, size)| row.iter().map(move |v| v * size)).collect()
        });
    }
}
