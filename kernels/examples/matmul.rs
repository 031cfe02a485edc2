//! Times the matrix product: `matmul [--isa avx2] [--threads 1] [--type Q4_K] [--shape 4096x4096] [-n 512] [--reps 5]`.
//!
//! Prompt figures are 10¹² integer or float operations a second, decoding figures 10⁹ weight bytes a second, each the best of some
//! repetitions. With one thread time is that of the processor, not of the wall, so that other programs disturb less; the
//! rate of bare `vpdpbusd` (or of f32 multiply-adds) and of reading memory, measured beside, says what the machine gave.

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

/// Bare `vpdpbusd`, 10¹² operations a second of one core.
#[cfg(target_arch = "x86_64")]
fn probe() -> f64 {
    use std::arch::x86_64::*;
    #[target_feature(enable = "avx512f,avx512vnni")]
    fn run() {
        let mut sums = [_mm512_set1_epi32(1); 24];
        let (u, v) = std::hint::black_box((_mm512_set1_epi32(3), _mm512_set1_epi32(5)));
        for _ in 0..200_000 {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, u, v);
            }
        }
        std::hint::black_box(sums);
    }
    if !Isa::Avx512Vnni.is_available() {
        return f64::NAN;
    }
    // SAFETY: detected.
    200_000.0 * 24.0 * 128.0 * 1e-12 / best(4, cpu_seconds, || unsafe { run() })
}

#[cfg(not(target_arch = "x86_64"))]
fn probe() -> f64 {
    f64::NAN
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
        None => vec![1, 4, 16, 512],
    };
    let clock = if threads == 1 { cpu_seconds } else { wall_seconds };
    let mut rng = Rng(7);
    for dtype in types {
        for &n in &ns {
            // Decoding reads its weights from memory: more than any cache holds.
            let m: usize = if n <= 4 {
                m * (600_000_000 / dtype.row_bytes(m * k).expect("whole blocks")).max(1)
            } else {
                m
            };
            let mut cpu = Cpu::new(CpuOptions { threads, isa });
            let bytes = weights(dtype, m, k, &mut rng);
            let len = m * dtype.row_bytes(k).expect("whole blocks");
            let w = cpu.load(Bytes::new(bytes).slice(0..len).expect("enough"), m, k, dtype).expect("loads");
            let x = cpu.alloc(n, k, DType::F32).expect("memory");
            let values: Vec<f32> =
                (0..n * k).map(|_| (rng.next() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect();
            cpu.write(x, bytemuck::cast_slice(&values));
            let out = cpu.alloc(n, m, DType::F32).expect("memory");
            let seconds = best(reps, clock, || cpu.matmul(out, x, w, None));
            println!(
                "{dtype:6} {m}x{k} n={n:3} {}: {:.3} TOP/s  {:5.1} GB/s   (vpdpbusd {:.2} TOP/s a core)",
                cpu.name(),
                2e-12 * (n * m * k) as f64 / seconds,
                1e-9 * len as f64 / seconds,
                probe()
            );
        }
    }
}
