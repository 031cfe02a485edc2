//! Times the matrix product: `matmul [--isa avx2] [--threads 1] [--type Q4_K] [--shape 4096x4096] [-n 512] [--reps 5] [--cached]`.
//!
//! `--cached` decodes weights that stay in the second cache: what the instructions allow.
//! Prompt figures are 10¹² integer or float operations a second, decoding figures 10⁹ weight bytes a second, each the best of some
//! repetitions. With one thread time is that of the processor, not of the wall, so that other programs disturb less; the
//! rate of the bare int8 multiply and of reading memory, measured between, says what the machine gave.

use std::time::Duration;

use pumice_kernels::{
    Backend, Bytes, DType,
    cpu::{Cpu, CpuOptions, Isa},
};

/// Seconds that this thread has computed.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the struct that it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32).as_secs_f64()
}

fn wall_seconds() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// The least time of `reps` calls, after one that warms up.
fn best(reps: usize, clock: fn() -> f64, mut f: impl FnMut()) -> f64 {
    f();
    (0..reps)
        .map(|_| {
            let start = clock();
            f();
            clock() - start
        })
        .fold(f64::MAX, f64::min)
}

/// The bare int8 multiply of `isa`, 10¹² operations a second of one core: `vpdpbusd` of 512 or 256 bits, `vpmaddubsw`.
#[cfg(target_arch = "x86_64")]
fn probe(isa: Isa) -> f64 {
    use std::arch::x86_64::*;
    const TURNS: usize = 100_000;
    #[target_feature(enable = "avx512f,avx512vnni")]
    fn zmm() {
        let mut sums = [_mm512_set1_epi32(1); 16];
        let (u, v) = std::hint::black_box((_mm512_set1_epi32(3), _mm512_set1_epi32(5)));
        for _ in 0..TURNS {
            sums.iter_mut().for_each(|sum| *sum = _mm512_dpbusd_epi32(*sum, u, v));
        }
        std::hint::black_box(sums);
    }
    #[target_feature(enable = "avxvnni")]
    fn ymm() {
        let mut sums = [_mm256_set1_epi32(1); 12];
        let (u, v) = std::hint::black_box((_mm256_set1_epi32(3), _mm256_set1_epi32(5)));
        for _ in 0..TURNS {
            sums.iter_mut().for_each(|sum| *sum = _mm256_dpbusd_avx_epi32(*sum, u, v));
        }
        std::hint::black_box(sums);
    }
    #[target_feature(enable = "avx2")]
    fn pairs() {
        let mut sums = [_mm256_set1_epi32(1); 12];
        let v = std::hint::black_box(_mm256_set1_epi32(5));
        for _ in 0..TURNS {
            sums.iter_mut().for_each(|sum| *sum = _mm256_maddubs_epi16(*sum, v));
        }
        std::hint::black_box(sums);
    }
    let (operations, run): (f64, unsafe fn()) = match isa.name() {
        "avx512-vnni" => (16.0 * 128.0, zmm),
        "avx2-vnni" => (12.0 * 64.0, ymm),
        "avx2" => (12.0 * 64.0, pairs),
        _ => return f64::NAN,
    };
    // SAFETY: the caller names what this machine has.
    TURNS as f64 * operations * 1e-12 / best(4, cpu_seconds, || unsafe { run() })
}

#[cfg(not(target_arch = "x86_64"))]
fn probe(_: Isa) -> f64 {
    f64::NAN
}

/// `figure` as a share of what a probe of a core gave, with so many digits; nothing where none was made.
fn share(figure: f64, probe: f64, digits: usize) -> String {
    match probe > 0.0 {
        true => format!(" ({:3.0} % of {probe:.digits$} a core)", 100.0 * figure / probe),
        false => String::new(),
    }
}

/// Reading `bytes` once with one core, 10⁹ bytes a second.
fn read(bytes: &[u8]) -> f64 {
    let sum = || {
        let mut sums = [0u64; 64];
        for block in bytes.as_chunks::<512>().0 {
            #[cfg(target_arch = "x86_64")]
            for line in (0..512).step_by(64) {
                use std::arch::x86_64::*;
                // SAFETY: a prefetch of any address is harmless.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(block.as_ptr().wrapping_add(4096 + line).cast()) };
            }
            for (sum, bytes) in sums.iter_mut().zip(block.as_chunks::<8>().0) {
                *sum ^= u64::from_le_bytes(*bytes);
            }
        }
        std::hint::black_box(sums);
    };
    1e-9 * bytes.len() as f64 / best(2, cpu_seconds, sum)
}

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// Rows of valid weights: 64 different ones, repeated.
fn weights(dtype: DType, rows: usize, cols: usize, rng: &mut Rng) -> Vec<u8> {
    let values: Vec<f32> =
        (0..8 * cols).map(|_| (rng.next() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect();
    let mut bytes = vec![0; 8 * dtype.row_bytes(cols).expect("whole blocks")];
    pumice_kernels::quant::quantize(dtype, cols, &values, &mut bytes, None);
    bytes.repeat(rows.div_ceil(8))
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1)).cloned();
    let number = |name: &str, default: usize| option(name).and_then(|v| v.parse().ok()).unwrap_or(default);
    let isa = option("--isa").and_then(|name| Isa::available().into_iter().find(|isa| isa.name() == name));
    let (threads, reps) = (number("--threads", 1), number("--reps", 5));
    let types: Vec<DType> = match option("--type") {
        Some(names) => names.split(',').filter_map(DType::from_name).collect(),
        None => DType::ALL.into_iter().filter(|&t| t != DType::I32).collect(),
    };
    let shape = option("--shape").unwrap_or("4096x4096".into());
    let (m, k) = shape
        .split_once('x')
        .and_then(|(m, k)| Some((m.parse().ok()?, k.parse().ok()?)))
        .expect("--shape MxK");
    let ns: Vec<usize> = match option("-n") {
        Some(list) => list.split(',').filter_map(|n| n.parse().ok()).collect(),
        None => vec![1, 8, 64, 512],
    };
    let cached = args.iter().any(|a| a == "--cached");
    let reps = if cached { 100 * reps } else { reps };
    let clock = if threads == 1 { cpu_seconds } else { wall_seconds };
    let mut rng = Rng(7);
    for dtype in types {
        for &n in &ns {
            // Decoding reads its weights from memory: more than any cache holds.
            let m: usize = if cached {
                (700_000 * threads).div_ceil(dtype.row_bytes(k).expect("whole blocks"))
            } else if n <= 4 {
                m * (600_000_000 / dtype.row_bytes(m * k).expect("whole blocks")).max(1)
            } else {
                m
            };
            let mut cpu = Cpu::new(CpuOptions { threads, isa });
            let bytes = weights(dtype, m, k, &mut rng);
            let len = m * dtype.row_bytes(k).expect("whole blocks");
            let bytes = Bytes::new(bytes).slice(0..len).expect("enough");
            let w = cpu.load(bytes.clone(), m, k, dtype).expect("loads");
            let x = cpu.alloc(n, k, DType::F32).expect("memory");
            let values: Vec<f32> =
                (0..n * k).map(|_| (rng.next() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect();
            cpu.write(x, bytemuck::cast_slice(&values));
            let out = cpu.alloc(n, m, DType::F32).expect("memory");
            // Twice, a probe before, between and after: the machine may slow down meanwhile.
            let (mut seconds, mut peak, mut rate) = (f64::MAX, 0.0f64, 0.0f64);
            for _ in 0..2 {
                peak = peak.max(probe(cpu.isa()));
                rate = if n <= 4 { rate.max(read(&bytes)) } else { f64::NAN };
                seconds = seconds.min(best(reps, clock, || cpu.matmul(out, x, w, None)));
            }
            peak = peak.max(probe(cpu.isa()));
            let (ops, gb) = (2e-12 * (n * m * k) as f64 / seconds, 1e-9 * len as f64 / seconds);
            println!(
                "{dtype:6} {m}x{k} n={n:3} {}: {ops:.3} TOP/s{}  {gb:5.1} GB/s{}",
                cpu.name(),
                share(ops, peak, 2),
                share(gb, rate, 1),
            );
        }
    }
}
