//! Every format on every instruction set of this machine, around the edges of tiles, against the scalar specification.

use super::*;
use crate::quant;

/// A generator of numbers that are alike on every run (xorshift64*, arXiv 1402.6246).
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// In −1..1.
    pub(super) fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Where the halves of a block lie: its scale and, where it has one, its minimum.
fn halves_of(dtype: DType) -> &'static [usize] {
    match dtype {
        DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => &[0, 2],
        DType::Q6_K => &[208],
        _ => &[0],
    }
}

/// Rows of random weights: every bit pattern of codes and small scales occurs, and block scales are ±0.01–0.1.
pub(super) fn weights(dtype: DType, rows: usize, k: usize, rng: &mut Rng) -> Vec<u8> {
    let mut bytes = vec![0; rows * dtype.row_bytes(k).unwrap()];
    if !dtype.is_quantized() {
        let values: Vec<f32> = (0..rows * k).map(|_| rng.float()).collect();
        quant::quantize(dtype, k, &values, &mut bytes, None);
        return bytes;
    }
    let halves = halves_of(dtype);
    bytes.iter_mut().for_each(|b| *b = (rng.next() >> 32) as u8);
    for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
        for &at in halves {
            let magnitude = 0.01 + 0.045 * (rng.float() + 1.0);
            let value = half::f16::from_f32(if rng.next() >> 63 == 0 { magnitude } else { -magnitude });
            block[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
    }
    bytes
}

pub(super) struct Case {
    pub(super) dtype: DType,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) m: usize,
    pub(super) threads: usize,
    pub(super) bias: bool,
}

pub(super) fn product(case: &Case, isa: Isa, x: &[f32], w: &[u8], bias: Option<&[f32]>) -> Vec<f32> {
    let &Case { dtype, n, k, m, threads, .. } = case;
    let pool = Pool::new(threads);
    let mut scratch = Scratch::new(pool.threads());
    let mut out = vec![f32::NAN; n * m];
    matmul(isa, &pool, &mut scratch, Product { out: &mut out, x, w, bias, dtype, n, k, m });
    out
}

/// Σ|wᵢ·xᵢ| as the order of sums sees it: what a rounding is relative to. The minimum and the scaled sum of a group count
/// apart, and each is at most four times the group's largest weight times Σ|x|.
fn magnitude(case: &Case, w: &[f32], x: &[f32]) -> f64 {
    let group = if case.dtype.is_quantized() { 32 } else { 1 };
    let sums = w.chunks(group).zip(x.chunks(group)).map(|(w, x)| {
        let largest = w.iter().fold(0.0f32, |m, w| m.max(w.abs()));
        let factor = if group == 1 { 1.0 } else { 4.0 };
        factor * f64::from(largest) * x.iter().map(|x| f64::from(x.abs())).sum::<f64>()
    });
    sums.sum()
}

/// Whether the format has six bits a weight at most.
fn coarse(dtype: DType) -> bool {
    dtype.block_bytes() * 8 <= 6 * dtype.block_len()
}

/// Columns whose activations share a scale.
fn shared(dtype: DType, isa: Isa) -> usize {
    let four_bits = matches!(dtype, DType::Q4_0 | DType::Q4_1 | DType::Q4_K);
    let more_bits = matches!(dtype, DType::Q5_0 | DType::Q5_1 | DType::Q5_K | DType::Q6_K);
    let by_slab = match isa.name() {
        "avx512-vnni" => coarse(dtype) || dtype == DType::Q6_K,
        "avx2-vnni" => four_bits,
        "avx2" | "neon" | "neon-dotprod" | "neon-i8mm" => four_bits || more_bits,
        _ => false,
    };
    if by_slab { SLAB } else { 32 }
}

/// What one weight may be off by, in units of its slab's largest, where several tokens meet it in the way of `isa`, and what a block's sum
/// of activations may be off by, in 8-bit steps of theirs.
///
/// x86/slab.rs: rounded to a 127th of the largest that the codes of the row's slab could stand for, taken as twice the largest there is, by a scale
/// of 256ths of that: half a unit, and (2^bits + 1)/512; Q6_K is exact. x86/avx2/slab.rs: scales are off by half a step of max(a, c′/8)/STEPS, times z + 8; where a
/// block's sum is negative, Σq is taken an eighth of a step too low, and with random codes the largest weight is 4 times that maximum or more, and 16 times a in Q6_K.
fn rounding(dtype: DType, isa: Isa) -> (f64, f64) {
    let iq4 = matches!(dtype, DType::IQ4_NL | DType::IQ4_XS);
    let five_bits = matches!(dtype, DType::Q5_0 | DType::Q5_1 | DType::Q5_K);
    let codes = if iq4 {
        256.0
    } else if five_bits {
        32.0
    } else {
        16.0
    };
    // On Arm (neon/tile.rs) only the scales are rounded: minima stay floats.
    let start = if isa.name().starts_with("neon") { 0.0 } else { 8.0 / 4.0 };
    match (isa.name(), dtype) {
        ("avx512-vnni", DType::Q6_K) => (0.0, 0.0),
        ("avx512-vnni", _) => (2.0 / 127.0 * (0.5 + (codes + 1.0) / 512.0), 0.0),
        (_, DType::Q6_K) => (32.0 / 2.0 / 2000.0 / 16.0, start),
        _ if codes == 16.0 => ((8.0 + 8.0) / 2.0 / 4000.0 / 4.0, start),
        _ => ((16.0 + 8.0) / 2.0 / 2000.0 / 4.0, start),
    }
}

/// What a kernel that sums slabs in integers computes, Σ w·q·d with codes q of 256 columns, and what it may differ by.
fn by_slab((weight, start): (f64, f64), w: &[f32], x: &[f32]) -> (f64, f64) {
    let slabs = w.chunks(SLAB).zip(x.chunks(SLAB)).map(|(w, x)| {
        let amax = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let largest = f64::from(w.iter().fold(0.0f32, |m, w| m.max(w.abs())));
        let d = f64::from(amax) / 127.0;
        let codes = x.iter().map(|x| f64::from((x * (127.0 / amax)).round_ties_even()));
        let (mut sum, mut size) = (0.0, 0.0);
        for (w, q) in w.iter().zip(codes) {
            sum += d * f64::from(*w) * q;
            size += q.abs();
        }
        (sum, d * largest * (size * weight + start))
    });
    slabs.fold((0.0, 0.0), |(sum, bound), (s, b)| (sum + s, bound + b))
}

/// What a product on whole numbers of 16 bits may differ by (x86/int16.rs): half a unit of each factor times the other. Units are those of 256
/// columns: ‖·‖/46300 or the largest magnitude/32700, whichever is larger, and a hair for their own roundings.
fn by_words(w: &[f32], x: &[f32]) -> f64 {
    let unit = |v: &[f32]| {
        let norm = v.iter().map(|v| f64::from(v * v)).sum::<f64>().sqrt();
        let largest = v.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        1.0001 * (norm / 46300.0).max(f64::from(largest) / 32700.0)
    };
    let sum = |v: &[f32]| v.iter().map(|v| f64::from(v.abs())).sum::<f64>();
    let spans = w.chunks(256).zip(x.chunks(256)).map(|(w, x)| {
        let (dw, dx) = (unit(w) / 2.0, unit(x) / 2.0);
        dx * sum(w) + dw * sum(x) + w.len() as f64 * dw * dx
    });
    spans.sum()
}

/// Every ISA against scalar: the integer products are equal, so results differ by f32 roundings alone, at most one per addition
/// on either side: 2·(additions)·2⁻²⁴·Σ|wx|.
fn check(case: &Case, rng: &mut Rng) {
    let &Case { dtype, n, k, m, .. } = case;
    let w = weights(dtype, m, k, rng);
    let x: Vec<f32> = (0..n * k).map(|_| rng.float()).collect();
    let bias: Vec<f32> = (0..m).map(|_| rng.float()).collect();
    let bias = case.bias.then_some(&bias[..]);
    let expected = product(case, Isa::Scalar, &x, &w, bias);
    let mut dequantized = vec![0.0; m * k];
    quant::dequantize(dtype, &w, &mut dequantized);
    let additions = if dtype.is_quantized() { k / 16 * 2 } else { k } + 2;
    for isa in Isa::available().into_iter().skip(1) {
        let got = product(case, isa, &x, &w, bias);
        for token in 0..n {
            for row in 0..m {
                let (w, x) = (&dequantized[row * k..][..k], &x[token * k..][..k]);
                let (got, mut expected) = (got[token * m + row], f64::from(expected[token * m + row]));
                let mut bound = 2.0 * additions as f64 * 2f64.powi(-24) * (magnitude(case, w, x) + 1.0);
                if shared(dtype, isa) == SLAB {
                    let rounding = if n == 1 { (0.0, 0.0) } else { rounding(dtype, isa) };
                    let (sum, steps) = by_slab(rounding, w, x);
                    expected = sum + f64::from(bias.map_or(0.0, |bias| bias[row]));
                    bound += steps;
                }
                if matches!(dtype, DType::F16 | DType::BF16) && n >= 16 && isa.name().starts_with("avx") {
                    bound += by_words(w, x);
                }
                assert!(
                    (f64::from(got) - expected).abs() <= bound,
                    "{dtype} {isa} n={n} k={k} m={m} [{token}][{row}]: {got}, expected {expected} ± {bound:e}"
                );
            }
        }
    }
}

fn weight_types() -> impl Iterator<Item = DType> {
    DType::ALL.into_iter().filter(|&t| t != DType::I32)
}

#[test]
fn every_isa_agrees_with_scalar_around_tiles() {
    let mut rng = Rng(1);
    for dtype in weight_types() {
        let ks: &[usize] = match dtype.block_len() {
            1 => &[1, 3, 31, 127, 128, 129, 588],
            32 => &[32, 64, 96, 160, 256, 288, 1024],
            _ => &[256, 512, 1280],
        };
        for (i, m) in [1, 15, 16, 31, 32, 33, 65].into_iter().enumerate() {
            for (j, n) in [1, 2, 3, 5, 7, 8, 13, 17, 33].into_iter().enumerate() {
                let k = ks[(i + j) % ks.len()];
                check(&Case { dtype, n, k, m, threads: 1 + j % 3, bias: i % 2 == 0 }, &mut rng);
            }
        }
    }
}

#[test]
fn every_k_of_the_tiles() {
    let mut rng = Rng(2);
    for dtype in weight_types() {
        let step = dtype.block_len();
        for k in (1..=12).map(|i| i * step).chain([1536]) {
            for n in [1, 4] {
                check(&Case { dtype, n, k, m: 35, threads: 1, bias: false }, &mut rng);
            }
        }
    }
}

#[test]
fn several_passes_and_pieces() {
    let mut rng = Rng(3);
    for (dtype, n) in [(DType::F16, 193), (DType::BF16, 194)] {
        check(&Case { dtype, n, k: 588, m: 35, threads: 2, bias: true }, &mut rng);
    }
    for dtype in [DType::Q4_0, DType::F16] {
        check(&Case { dtype, n: PASS + 7, k: 64, m: 70, threads: 2, bias: true }, &mut rng);
        check(&Case { dtype, n: 9, k: 1120, m: 1090, threads: 2, bias: true }, &mut rng);
        check(&Case { dtype, n: 1, k: 1120, m: 1091, threads: 2, bias: true }, &mut rng);
    }
}

/// Blocks of a slab are in units of its largest; those of an earlier slab must not set the unit of a short last one.
#[test]
fn a_short_last_slab_is_scaled_by_itself() {
    let (mut rng, dtype, k) = (Rng(9), DType::Q4_0, SLAB + 32);
    for (n, m) in [(8, 33), (1, 33)] {
        let case = Case { dtype, n, k, m, threads: 1, bias: false };
        let mut w = weights(dtype, m, k, &mut rng);
        for (i, block) in w.chunks_exact_mut(dtype.block_bytes()).enumerate() {
            let scale = if i % 9 == 8 { 0.01 } else { 60_000.0 };
            block[..2].copy_from_slice(&half::f16::from_f32(scale).to_le_bytes());
        }
        let x: Vec<f32> = (0..n * k).map(|i| if i % k < SLAB { 0.0 } else { rng.float() }).collect();
        let want = product(&case, Isa::Scalar, &x, &w, None);
        let most = want.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        assert!(most > 0.0);
        for isa in Isa::available() {
            let got = product(&case, isa, &x, &w, None);
            let far = got.iter().zip(&want).fold(0.0f32, |far, (a, b)| far.max((a - b).abs()));
            // A sum below 0 takes Σx an eighth of a step too low, of 127 · 8; a weight rounded to 8 bits is off by 1 in 254.
            assert!(far < 0.01 * most, "{isa}, {n} rows: {far} of {most}");
        }
    }
}

/// A block scale or minimum that is no number, or infinite, makes its row none whatever stands beside it; one of 0 is a row's sum of 0; other rows are as they were.
#[test]
fn odd_scales_stay_in_their_rows() {
    let (mut rng, k, m) = (Rng(11), 2 * SLAB, 35);
    for dtype in weight_types().filter(|dtype| dtype.is_quantized()) {
        let halves = halves_of(dtype);
        let rows = weights(dtype, m, k, &mut rng);
        let (row, block) = (rows.len() / m, dtype.block_bytes());
        for n in [1, 4] {
            let case = Case { dtype, n, k, m, threads: 1, bias: false };
            let x: Vec<f32> = (0..n * k).map(|_| rng.float()).collect();
            for isa in Isa::available() {
                let plain = product(&case, isa, &x, &rows, None);
                for (odd, at) in
                    [(half::f16::NAN, 0), (half::f16::INFINITY, 0), (half::f16::NAN, halves.len() - 1)]
                {
                    let mut w = rows.clone();
                    let odd_half = 3 * row + halves[at];
                    w[odd_half..odd_half + 2].copy_from_slice(&odd.to_le_bytes());
                    for block in w[5 * row..6 * row].chunks_exact_mut(block) {
                        halves.iter().for_each(|at| block[*at..*at + 2].fill(0));
                    }
                    let got = product(&case, isa, &x, &w, None);
                    for (i, (got, plain)) in got.iter().zip(&plain).enumerate() {
                        let sound = match i % m {
                            3 => !got.is_finite(),
                            5 => *got == 0.0,
                            _ => got == plain,
                        };
                        assert!(sound, "{dtype} {isa} n={n}, {odd} in row 3: {got} in row {}", i % m);
                    }
                }
            }
        }
    }
}

/// Sums of whole numbers of 16 bits at the limit of 32 bits: all of one size, one far above the others, alternating signs; and numbers that
/// are none, too large or too small to be squared.
#[test]
fn sums_of_words_do_not_overflow() {
    let kinds: [fn(usize) -> f32; 6] = [
        |_| 1.0,
        |i| if i == 77 { 4096.0 } else { 0.25 },
        |i| if i.is_multiple_of(2) { -0.125 } else { 0.125 },
        |i| if i < 2 { -60_000.0 } else { 0.0 },
        |i| 6e-8 * (i % 9) as f32,
        |_| 0.0,
    ];
    // As many tokens as every instruction set wants for them.
    let (n, k, m) = (192, 256 + 40, 2);
    for dtype in [DType::F16, DType::BF16] {
        for (row, x) in kinds.iter().flat_map(|row| kinds.iter().map(move |x| (row, x))) {
            for scale in [1.0, 1e-25, 1e25] {
                let case = Case { dtype, n, k, m, threads: 1, bias: false };
                let values: Vec<f32> = (0..m * k).map(|i| row(i % k)).collect();
                let mut w = vec![0; m * dtype.row_bytes(k).unwrap()];
                quant::quantize(dtype, k, &values, &mut w, None);
                let mut rounded = vec![0.0; m * k];
                quant::dequantize(dtype, &w, &mut rounded);
                let x: Vec<f32> = (0..n * k).map(|i| scale * x(i % k)).collect();
                let want = product(&case, Isa::Scalar, &x, &w, None);
                let allowed = f64::from(scale)
                    * by_words(&rounded[..k], &x[..k].iter().map(|x| x / scale).collect::<Vec<_>>());
                let allowed = allowed + 1e-6 * f64::from(want[0].abs());
                for isa in Isa::available() {
                    for (got, want) in product(&case, isa, &x, &w, None).iter().zip(&want) {
                        let off = f64::from(got - want).abs();
                        assert!(
                            off <= allowed,
                            "{dtype} {isa} × {scale:e}: {got}, expected {want} ± {allowed:e}"
                        );
                    }
                }
            }
        }
    }
    let case = Case { dtype: DType::F16, n, k, m, threads: 1, bias: false };
    let w = weights(DType::F16, m, k, &mut Rng(5));
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let x: Vec<f32> = (0..n * k).map(|i| if i == 3 * k + 9 { odd } else { 1.0 }).collect();
        for isa in Isa::available() {
            let got = product(&case, isa, &x, &w, None);
            assert!(got[3 * m..4 * m].iter().all(|y| !y.is_finite()), "{isa}: {odd}");
            assert!(got[..3 * m].iter().chain(&got[4 * m..]).all(|y| y.is_finite()), "{isa}: {odd}");
        }
    }
}

#[test]
fn activations_round_as_specified() {
    let mut rng = Rng(4);
    let mut blocks: Vec<[f32; 32]> = (0..1000).map(|_| std::array::from_fn(|_| rng.float())).collect();
    blocks.push([0.0; 32]);
    // Ties: amax 127 makes the codes the numbers themselves.
    blocks.push(std::array::from_fn(|i| if i == 0 { 127.0 } else { i as f32 - 15.5 }));
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-38, 1e-45, f32::MAX] {
        blocks.push(std::array::from_fn(|i| if i == 7 { odd } else { 0.0 }));
    }
    for x in blocks {
        let (got, expected) = (quantize(&x), quant::ActBlock::new(&x));
        assert_eq!((got.q, got.sum), (expected.q, expected.sum), "{x:?}");
        assert_eq!(got.d.to_bits(), expected.d.to_bits(), "{x:?}");
    }
}
