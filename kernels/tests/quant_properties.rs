//! What must hold of every format, on numbers that proptest makes up: bounds on the error that follow from the format's
//! steps, the scalar product against f64, no panic on any bits, and that blocks do not depend on their neighbours.

use proptest::prelude::*;
use pumice_kernels::DType;
use pumice_kernels::quant::{self, ActBlock, F16, error::Deviation};

/// Every format with blocks.
const BLOCKS: [DType; 10] = [
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
    DType::Q4_K,
    DType::Q5_K,
    DType::Q6_K,
    DType::IQ4_NL,
    DType::IQ4_XS,
];

/// Half the spacing of halves, relative (normal ones) and absolute (denormal ones).
const HALF_EPS: f64 = 1.0 / 2048.0;
const HALF_TINY: f64 = 1.0 / 33_554_432.0;

fn quantize(dtype: DType, cols: usize, x: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let mut bytes = vec![0; dtype.row_bytes(x.len()).unwrap()];
    quant::quantize(dtype, cols, x, &mut bytes, importance);
    bytes
}

fn restore(dtype: DType, bytes: &[u8], n: usize) -> Vec<f32> {
    let mut y = vec![0.0; n];
    quant::dequantize(dtype, bytes, &mut y);
    y
}

/// The bound on |x − x̂| (root of the mean square for formats whose search may clip) of a block, from its elements.
fn bound(dtype: DType, x: &[f32]) -> f64 {
    let x = x.iter().map(|&v| f64::from(v));
    let magnitude = x.clone().fold(0.0, |m: f64, v| m.max(v.abs()));
    let low = x.clone().fold(f64::INFINITY, f64::min);
    let high = x.fold(f64::NEG_INFINITY, f64::max);
    // One scale per 32: half a step, or a whole one where the other end of the signed range is one code short; the scale
    // and the minimum as halves.
    let signed = |half: f64| magnitude / half * (1.0 + half * HALF_EPS) + half * HALF_TINY;
    let ranged = |codes: f64| {
        (high - low) * (0.5 / codes + HALF_EPS) + magnitude * HALF_EPS + (codes + 1.0) * HALF_TINY
    };
    // Super-blocks. The search starts from the line that spans the elements, so it ends no worse; each integer is half a
    // unit off at most (a whole one at the end of the signed range), a unit being the largest scale over the largest integer,
    // rounded outward to a half. The largest fitted scale may exceed that of the first line by the factor 1.25.
    let affine = |codes: f64| {
        let range = high.max(0.0) - low.min(0.0);
        let unit_s = 1.25 * range / codes / 63.0 * (1.0 + 2.0 * HALF_EPS) + 2.0 * HALF_TINY;
        let unit_m = 1.25 * magnitude / 63.0 * (1.0 + 2.0 * HALF_EPS) + 2.0 * HALF_TINY;
        range * 0.5 / codes + codes * unit_s / 2.0 + unit_m / 2.0
    };
    // `reach`: the level that the first start maps the largest element to; `worst`: the largest distance of a number within
    // ±reach from a level; `least`: the smallest level that a start maps it to; `integers`: those of the scales.
    let scaled = |reach: f64, worst: f64, least: f64, integers: f64| {
        let unit = 1.25 * magnitude / least / integers * (1.0 + 2.0 * HALF_EPS) + 2.0 * HALF_TINY;
        magnitude * worst / reach + reach * unit
    };
    match dtype {
        DType::Q4_0 => signed(8.0),
        DType::Q5_0 => signed(16.0),
        DType::Q4_1 => ranged(15.0),
        DType::Q5_1 => ranged(31.0),
        DType::Q8_0 => magnitude / 127.0 * (0.5 + 127.0 * HALF_EPS) + 127.0 * HALF_TINY,
        DType::Q4_K => affine(15.0),
        DType::Q5_K => affine(31.0),
        DType::Q6_K => scaled(32.0, 1.0, 28.0, 128.0),
        // −127 to −104 are 23 apart, 89 to 113 24, and 130 is 17 beyond 113.
        DType::IQ4_NL => magnitude * (17.0 / 130.0 + 1.25 * HALF_EPS) + 127.0 * HALF_TINY,
        DType::IQ4_XS => scaled(130.0, 17.0, 107.5, 32.0),
        other => panic!("{other} has no blocks"),
    }
}

fn error_of(dtype: DType, x: &[f32], y: &[f32]) -> f64 {
    let e = x.iter().zip(y).map(|(x, y)| f64::from(*x) - f64::from(*y));
    match dtype {
        DType::Q4_0 | DType::Q4_1 | DType::Q5_0 | DType::Q5_1 | DType::Q8_0 => {
            e.fold(0.0, |m: f64, e| m.max(e.abs()))
        }
        _ => (e.map(|e| e * e).sum::<f64>() / x.len() as f64).sqrt(),
    }
}

/// 256 numbers of some scale, with an offset, some of them far out, some zero.
fn numbers() -> impl Strategy<Value = Vec<f32>> {
    let element = prop_oneof![8 => -1.0f32..1.0, 1 => -20.0f32..20.0, 1 => Just(0.0f32)];
    (prop::collection::vec(element, 256), -6.0f32..3.0, prop_oneof![Just(0.0f32), -2.0f32..2.0])
        .prop_map(|(v, exponent, offset)| v.iter().map(|v| (v + offset) * 10.0f32.powf(exponent)).collect())
}

/// Any bits at all: NaN, infinities and denormals among them.
fn bits() -> impl Strategy<Value = Vec<f32>> {
    let special = prop_oneof![
        Just(f32::NAN),
        Just(f32::INFINITY),
        Just(f32::NEG_INFINITY),
        Just(f32::MAX),
        Just(f32::MIN),
        Just(f32::from_bits(1)),
        Just(-0.0f32)
    ];
    let element = prop_oneof![3 => any::<u32>().prop_map(f32::from_bits), 2 => -1.0f32..1.0, 1 => special];
    prop::collection::vec(element, 256)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn errors_stay_within_the_steps(x in numbers()) {
        for dtype in BLOCKS {
            let y = restore(dtype, &quantize(dtype, 256, &x, None), 256);
            for (x, y) in x.chunks(dtype.block_len()).zip(y.chunks(dtype.block_len())) {
                let (error, bound) = (error_of(dtype, x, y), bound(dtype, x));
                // f32 arithmetic on either side: a few units in the last place of 24 bits.
                prop_assert!(error <= bound * (1.0 + 1e-5), "{dtype}: {error:e} beyond {bound:e}");
            }
        }
    }

    #[test]
    fn any_bits_give_a_block(x in bits(), w in bits()) {
        for dtype in BLOCKS {
            for importance in [None, Some(w.as_slice())] {
                let bytes = quantize(dtype, 256, &x, importance);
                prop_assert_eq!(&bytes, &quantize(dtype, 256, &x, importance));
                let searched = importance.is_some() && dtype != DType::Q8_0;
                if searched || matches!(dtype, DType::Q4_K | DType::Q5_K | DType::Q6_K | DType::IQ4_NL | DType::IQ4_XS) {
                    let y = restore(dtype, &bytes, 256);
                    prop_assert!(y.iter().all(|y| y.is_finite()), "{}: {:?}", dtype, y);
                }
            }
        }
    }

    #[test]
    fn blocks_do_not_depend_on_neighbours(x in numbers(), w in prop::collection::vec(0.0f32..4.0, 256)) {
        for dtype in BLOCKS {
            let n = dtype.block_len();
            for importance in [None, Some(w.as_slice())] {
                let together = quantize(dtype, 256, &x, importance);
                let apart = (0..256).step_by(n).flat_map(|i| {
                    quantize(dtype, n, &x[i..i + n], importance.map(|w| &w[i..i + n]))
                });
                prop_assert_eq!(&together, &apart.collect::<Vec<u8>>(), "{}", dtype);
            }
            // Two rows meet the same importances.
            let rows = quantize(dtype, 256, &[x.as_slice(), x.as_slice()].concat(), Some(&w));
            prop_assert_eq!(&rows[..rows.len() / 2], &rows[rows.len() / 2..], "{}", dtype);
        }
    }

    #[test]
    fn equal_importances_are_none(x in numbers()) {
        for dtype in [DType::Q4_K, DType::Q5_K, DType::Q6_K, DType::IQ4_NL, DType::IQ4_XS] {
            prop_assert_eq!(quantize(dtype, 256, &x, Some(&[0.3; 256])), quantize(dtype, 256, &x, None), "{}", dtype);
        }
    }

    #[test]
    fn dot_is_the_product_of_what_the_blocks_stand_for(w in numbers(), x in numbers()) {
        let mut act = [ActBlock::ZERO; 8];
        quant::quantize_act(&x, &mut act);
        for dtype in BLOCKS.into_iter().chain([DType::F32, DType::F16, DType::BF16]) {
            let row = quantize(dtype, 256, &w, None);
            let restored = restore(dtype, &row, 256);
            let terms: Vec<f64> = (0..256)
                .map(|i| f64::from(restored[i]) * f64::from(act[i / 32].d) * f64::from(act[i / 32].q[i % 32]))
                .collect();
            let exact: f64 = terms.iter().sum();
            // With a minimum, scale and minimum cancel in a weight but not in the parts of the product: scale them with the
            // largest weight. 16 roundings of partial sums, a few of each part.
            let most = restored.iter().fold(0.0, |m: f32, w| m.max(w.abs()));
            let size: f64 = (0..256)
                .map(|i| 4.0 * f64::from(most) * f64::from(act[i / 32].d) * f64::from(act[i / 32].q[i % 32]).abs())
                .sum();
            let got = f64::from(quant::dot(dtype, &row, &act));
            let tolerance = 24.0 * f64::from(f32::EPSILON) * size + 1e-35;
            prop_assert!((got - exact).abs() <= tolerance, "{}: {} for {}", dtype, got, exact);
        }
    }

    #[test]
    fn activations_are_rounded_to_the_nearest_code(x in numbers()) {
        let mut act = [ActBlock::ZERO; 8];
        quant::quantize_act(&x, &mut act);
        for (x, a) in x.chunks(32).zip(&act) {
            prop_assert_eq!(a.sum, a.q.iter().map(|&q| i32::from(q)).sum::<i32>());
            for (x, &q) in x.iter().zip(&a.q) {
                let error = (f64::from(*x) - f64::from(a.d) * f64::from(q)).abs();
                // Half a step, and the rounding of x·(127/amax) and of d near 127.
                prop_assert!(error <= f64::from(a.d) * (0.5 + 127.0 * 4.0 * f64::from(f32::EPSILON)));
            }
        }
    }
}

#[test]
fn activations_that_are_not_finite_show_in_the_product() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = [0.5; 32];
        x[17] = bad;
        let a = ActBlock::new(&x);
        assert!(a.d.is_nan() && a.sum == 0 && a.q == [0; 32]);
        let row = quantize(DType::Q4_0, 32, &[1.0; 32], None);
        assert!(quant::dot(DType::Q4_0, &row, &[a]).is_nan());
    }
}

#[test]
fn activations_too_small_are_zero() {
    assert_eq!(ActBlock::new(&[0.0; 32]), ActBlock::ZERO);
    assert_eq!(ActBlock::new(&[1e-38; 32]), ActBlock::ZERO);
    assert_eq!(ActBlock::new(&[1e-30; 32]).q, [127; 32]);
}

#[test]
fn activations_are_rounded_to_even() {
    let mut x = [0.0; 32];
    x[0] = 127.0;
    x[1..5].copy_from_slice(&[0.5, 1.5, 2.5, -0.5]);
    assert_eq!(ActBlock::new(&x).q[..5], [127, 0, 2, 2, 0]);
}

#[test]
fn rows_of_zeros_stay_zero() {
    for dtype in BLOCKS {
        for importance in [None, Some([1.0; 256].as_slice()), Some([0.0; 256].as_slice())] {
            let bytes = quantize(dtype, 256, &[0.0; 256], importance);
            assert!(restore(dtype, &bytes, 256).iter().all(|&y| y == 0.0), "{dtype}");
        }
    }
}

#[test]
fn an_important_column_is_kept_best() {
    let x: Vec<f32> = (0..256).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.01).collect();
    let mut w = [1.0; 256];
    w[40] = 1e5;
    for dtype in BLOCKS.into_iter().filter(|&t| t != DType::Q8_0) {
        let error = |w: Option<&[f32]>| (restore(dtype, &quantize(dtype, 256, &x, w), 256)[40] - x[40]).abs();
        let (with, without) = (error(Some(&w)), error(None));
        assert!(with < 0.002 && with <= without, "{dtype}: {with} with, {without} without");
    }
}

#[test]
fn weights_beyond_a_half_saturate() {
    let x: Vec<f32> = (0..256).map(|i| if i % 2 == 0 { 1e30 } else { -1e30 }).collect();
    for dtype in [DType::Q4_K, DType::Q5_K, DType::Q6_K, DType::IQ4_NL, DType::IQ4_XS] {
        let y = restore(dtype, &quantize(dtype, 256, &x, None), 256);
        assert!(
            y.iter().zip(&x).all(|(y, x)| y.is_finite() && y.abs() > 1e6 && (*y > 0.0) == (*x > 0.0)),
            "{dtype}"
        );
    }
}

#[test]
fn deviation_counts_all_elements_and_merges() {
    let x: Vec<f32> = (0..4096).map(|i| (i as f32 * 0.37).sin()).collect();
    let bytes = quantize(DType::Q4_0, 2048, &x, None);
    let whole = Deviation::of(DType::Q4_0, &x, &bytes);
    let half = bytes.len() / 2;
    let parts = Deviation::of(DType::Q4_0, &x[..2048], &bytes[..half]).with(Deviation::of(
        DType::Q4_0,
        &x[2048..],
        &bytes[half..],
    ));
    assert_eq!((whole.count, whole.max), (parts.count, parts.max));
    assert!((whole.noise - parts.noise).abs() < 1e-12 * whole.noise);
    let y = restore(DType::Q4_0, &bytes, 4096);
    let rmse = (x.iter().zip(&y).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>() / 4096.0).sqrt();
    assert!((whole.rmse() - rmse).abs() < 1e-9);
    // A step of 1/8 and uniform errors: 10·log₁₀(½ / (1/8)²·12) = 26 dB, less where sines crowd at the clipped end.
    assert!((20.0..27.0).contains(&whole.snr_db()), "{}", whole.snr_db());
    assert_eq!(Deviation::of(DType::F32, &[1.0], &1.0f32.to_le_bytes()).snr_db(), f64::INFINITY);
}

#[test]
fn halves_round_and_saturate() {
    assert_eq!(F16::new(1.0).get(), 1.0);
    assert_eq!(F16::new(1.0 + 1.0 / 2048.0).get(), 1.0);
    assert_eq!(F16::new(1e9).get(), f32::INFINITY);
    assert_eq!(F16::finite(-1e9).get(), -65504.0);
}

#[test]
#[should_panic(expected = "300 elements in rows of 300 do not make 144 bytes of Q4_K")]
fn ragged_rows_panic_with_both_lengths() {
    quant::quantize(DType::Q4_K, 300, &[0.0; 300], &mut [0; 144], None);
}
