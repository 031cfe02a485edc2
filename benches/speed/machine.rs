//! What a run is made with: threads and instructions from the environment, whether it is timed, and the numbers that all items are fed.

use std::env;

use pumice_kernels::{Backend, Bytes, Cpu, CpuOptions, DType, Isa, Tensor, cpu::physical_cores, quant};

/// Rows of weights that differ before they repeat: a prime, so that no two tiles of a kernel look alike.
const PERIOD: usize = 61;

/// Settings of a run.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// Threads that compute, on either side.
    pub threads: usize,
    /// Pumice's instructions.
    pub isa: Isa,
    /// Whether items are timed; otherwise they are run once, to see that they run, and are small.
    pub timed: bool,
}

impl Machine {
    /// This machine, as the environment wants it. Where a variable makes no sense it says so and ends the program.
    pub fn here() -> Self {
        let threads = env::var("PUMICE_BENCH_THREADS").ok();
        let threads = threads.map_or_else(physical_cores, |t| {
            t.parse()
                .ok()
                .filter(|t| *t > 0)
                .unwrap_or_else(|| refuse(&format!("PUMICE_BENCH_THREADS: {t} is no number of threads")))
        });
        let isa = env::var("PUMICE_BENCH_ISA").map_or_else(
            |_| Isa::best(),
            |name| {
                let here = Isa::available();
                let found = here.iter().copied().find(|isa| isa.name() == name);
                let names = || here.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", ");
                found.unwrap_or_else(|| {
                    refuse(&format!("PUMICE_BENCH_ISA: {name} is none of this machine's: {}", names()))
                })
            },
        );
        // As criterion decides.
        let timed = env::args().any(|a| a == "--bench") && !env::args().any(|a| a == "--test");
        Self { threads, isa, timed }
    }

    /// A backend.
    pub fn cpu(&self) -> Cpu {
        Cpu::new(CpuOptions { threads: self.threads, isa: Some(self.isa) })
    }

    /// What computes, in words.
    pub fn name(&self) -> String {
        self.cpu().name()
    }
}

/// Tells what a person asked for and cannot have, and ends the program as one that was called wrongly.
pub fn refuse(what: &str) -> ! {
    eprintln!("{what}");
    std::process::exit(2)
}

/// `count` numbers in −1..1, others for another `seed` (Knuth's multiplier, TAOCP 3.3.4).
pub fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    // The first draws of small seeds are alike.
    draw();
    draw();
    (0..count).map(|_| draw()).collect()
}

/// A matrix [m, k] of `dtype`, `copies` times: valid blocks, of which some rows repeat.
pub fn weights(dtype: DType, m: usize, k: usize, copies: usize) -> Vec<Bytes> {
    let len = dtype.row_bytes(k).expect("k is whole blocks");
    let rows = PERIOD.min(m);
    let mut some = vec![0; rows * len];
    quant::quantize(dtype, k, &numbers(rows * k, 7), &mut some, None);
    let one = some.iter().copied().cycle().take(m * len);
    let all = Bytes::new(one.collect::<Vec<_>>().repeat(copies));
    (0..copies).map(|i| all.slice(i * m * len..(i + 1) * m * len).expect("within")).collect()
}

/// A matrix [rows, cols] of `values`.
pub fn floats(cpu: &mut Cpu, rows: usize, cols: usize, values: &[f32]) -> Tensor {
    let t = cpu.alloc(rows, cols, DType::F32).expect("memory");
    cpu.write(t, bytemuck::cast_slice(values));
    t
}
