//! Errors of our quantizers against llama.cpp's, on data that `golden/quant.py` makes with the same generator.
//!
//! To renew `golden/rmse.md`:
//! `cargo test --release -p pumice-kernels --test quant_rmse -- --ignored --nocapture table > ours.tsv`, then
//! `python quant.py table --ours ours.tsv`.

use pumice_kernels::{DType, quant};

const ROWS: usize = 32;
const WIDTH: usize = 1024;

/// splitmix64, in the order of quant.py's `Random`.
struct Random(u64);

impl Random {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// About normal: the sum of 12 uniforms of 16 bits.
    fn normal(&mut self) -> f64 {
        let mut total = 0;
        for _ in 0..3 {
            let z = self.word();
            total += (0..4).map(|k| (z >> (16 * k) & 0xFFFF) as i64).sum::<i64>();
        }
        (total - 6 * 65535) as f64 / 65536.0
    }

    fn normals(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.normal()).collect()
    }

    fn uniforms(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| (self.word() >> 11) as f64 / (1u64 << 53) as f64).collect()
    }
}

struct Case {
    name: &'static str,
    x: Vec<f32>,
    importance: Option<Vec<f32>>,
}

fn student(n: usize) -> Vec<f64> {
    let mut r = Random(2);
    let [z, a, b, c] = [r.normals(n), r.normals(n), r.normals(n), r.normals(n)];
    let chi = |i: usize| ((a[i] * a[i] + b[i] * b[i] + c[i] * c[i]) / 3.0 + 1e-9).sqrt();
    (0..n).map(|i| z[i] / chi(i) * 0.02).collect()
}

fn cases() -> Vec<Case> {
    const N: usize = ROWS * WIDTH;
    let case = |name, x: Vec<f64>, importance: Option<Vec<f64>>| Case {
        name,
        x: x.into_iter().map(|v| v as f32).collect(),
        importance: importance.map(|w| w.into_iter().map(|v| v as f32).collect()),
    };
    let gains = |r: &mut Random| -> Vec<f64> {
        r.uniforms(WIDTH).into_iter().map(|u| 1.0 + 15.0 * f64::from(u8::from(u < 0.01))).collect()
    };
    let mut out = vec![
        case("normal", Random(1).normals(N).iter().map(|v| v * 0.02).collect(), None),
        case("student-t3", student(N), None),
    ];
    let levels = Random(3).normals(ROWS);
    out.push(case("constant", (0..N).map(|i| levels[i / WIDTH]).collect(), None));

    let mut r = Random(4);
    let gain = gains(&mut r);
    let row: Vec<f64> = r.uniforms(ROWS).into_iter().map(|u| 0.01 + 0.03 * u).collect();
    let x = r.normals(N).into_iter().enumerate().map(|(i, v)| v * row[i / WIDTH] * gain[i % WIDTH]);
    out.push(case("outlier channels", x.collect(), None));

    let x = Random(5).normals(N).into_iter().map(|v| v * 0.02 + 0.015);
    out.push(case("shifted", x.collect(), None));

    let mut r = Random(6);
    let x = r.normals(N).into_iter().map(|v| v * 0.02).collect();
    let base: Vec<f64> = r.normals(WIDTH).into_iter().map(|v| 0.01 + v * v).collect();
    let high = r.uniforms(WIDTH);
    let w = base.iter().zip(high).map(|(b, u)| b * (1.0 + 99.0 * f64::from(u8::from(u < 0.02))));
    out.push(case("normal, importance", x, Some(w.collect())));

    let mut r = Random(7);
    let gain = gains(&mut r);
    let x = r.normals(N).into_iter().enumerate().map(|(i, v)| v * gain[i % WIDTH] * 0.02).collect();
    let w = r.normals(WIDTH).into_iter().map(|v| 0.01 + v * v).collect();
    out.push(case("outliers, importance", x, Some(w)));

    let x = Random(8).normals(N).into_iter().map(|v| v * 1e-4);
    out.push(case("tiny", x.collect(), None));
    out
}

/// Plain rmse, rmse weighted by x², rmse weighted by the importance: quant.py's `errors`.
fn errors(dtype: DType, case: &Case) -> [f64; 3] {
    let mut bytes = vec![0; dtype.row_bytes(WIDTH).unwrap() * ROWS];
    quant::quantize(dtype, WIDTH, &case.x, &mut bytes, case.importance.as_deref());
    let mut restored = vec![0.0; case.x.len()];
    quant::dequantize(dtype, &bytes, &mut restored);
    let [mut plain, mut square, mut squares, mut weighted, mut weights] = [0.0; 5];
    for (i, (x, y)) in case.x.iter().zip(&restored).enumerate() {
        let (x, y) = (f64::from(*x), f64::from(*y));
        let e = (x - y) * (x - y);
        let w = case.importance.as_ref().map_or(1.0, |w| f64::from(w[i % WIDTH]));
        plain += e;
        square += e * x * x;
        squares += x * x;
        weighted += e * w;
        weights += w;
    }
    [(plain / case.x.len() as f64).sqrt(), (square / squares.max(1e-300)).sqrt(), (weighted / weights).sqrt()]
}

/// llama.cpp's line of a case and a format: three errors and the checksum of the data.
fn llama(case: &str, dtype: DType) -> ([f64; 3], u64) {
    let line = include_str!("golden/rmse_llama.tsv")
        .lines()
        .map(|l| l.split('\t').collect::<Vec<_>>())
        .find(|p| p[0] == case && p[1] == dtype.name())
        .unwrap_or_else(|| panic!("no figures of {dtype} on {case}"));
    (std::array::from_fn(|i| line[2 + i].parse().unwrap()), line[5].parse().unwrap())
}

const SEARCHED: [DType; 5] = [DType::Q4_K, DType::Q5_K, DType::Q6_K, DType::IQ4_NL, DType::IQ4_XS];

#[test]
fn no_farther_than_llama_cpp() {
    for case in cases() {
        let checksum: u64 = case.x.iter().map(|v| u64::from(v.to_bits())).sum();
        // Formats with a reference are the same bytes without an importance.
        let legacy = [DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1];
        let searched = SEARCHED.into_iter().chain(legacy.into_iter().filter(|_| case.importance.is_some()));
        for dtype in searched {
            let (theirs, expected_checksum) = llama(case.name, dtype);
            assert_eq!(checksum, expected_checksum, "{}: not the data of quant.py", case.name);
            // The objective: the plain error, or that weighted by the importance. They are equal without one.
            let ours = errors(dtype, &case)[2];
            assert!(
                ours <= theirs[2],
                "{dtype} on {}: rmse {ours:.6e}, llama.cpp {:.6e}",
                case.name,
                theirs[2]
            );
        }
    }
}

/// FNV-1a.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// A file quantized here and one quantized on another machine, or by another build, are the same bytes. A deliberate change of
/// the search changes these hashes; take the new ones from the message.
#[test]
fn bytes_are_the_same_on_every_machine() {
    let cases = cases();
    let expected = [
        (DType::Q4_K, 14073467021833066414, 6403073962290900460),
        (DType::Q5_K, 11321604688228948566, 8250172884316066617),
        (DType::Q6_K, 11793994866504430694, 9622494740748063789),
        (DType::IQ4_NL, 8859783023327684755, 7732190644543525494),
        (DType::IQ4_XS, 14999469323996635924, 4505005383221609330),
    ];
    let got = expected.map(|(dtype, ..)| {
        let of = |name: &str| {
            let case = cases.iter().find(|c| c.name == name).unwrap();
            let mut bytes = vec![0; dtype.row_bytes(WIDTH).unwrap() * ROWS];
            quant::quantize(dtype, WIDTH, &case.x, &mut bytes, case.importance.as_deref());
            hash(&bytes)
        };
        (dtype, of("student-t3"), of("outliers, importance"))
    });
    assert_eq!(got, expected);
}

/// Seconds that this thread has computed (Linux): other programs at work do not count.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux, for the measurement");
    stat.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).expect("nanoseconds") / 1e9
}

/// Prints our errors and speeds, tab-separated, for `quant.py table`.
#[test]
#[ignore = "a measurement"]
fn table() {
    let cases = cases();
    let types = [DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q8_0].into_iter().chain(SEARCHED);
    for case in &cases {
        for dtype in types.clone() {
            let [plain, square, weighted] = errors(dtype, case);
            println!("{}\t{dtype}\t{plain:.9e}\t{square:.9e}\t{weighted:.9e}", case.name);
        }
    }
    let x = cases[0].x.repeat(64);
    for dtype in types {
        let mut bytes = vec![0; dtype.row_bytes(WIDTH).unwrap() * ROWS * 64];
        // The clock moves by ticks of some milliseconds.
        let (start, mut passes) = (cpu_seconds(), 0);
        while cpu_seconds() - start < 0.5 {
            quant::quantize(dtype, WIDTH, &x, &mut bytes, None);
            passes += 1;
        }
        let seconds = (cpu_seconds() - start) / f64::from(passes);
        println!("# speed\t{dtype}\t{:.1} M weights/s", x.len() as f64 / seconds / 1e6);
    }
}
