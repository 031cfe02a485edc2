//! How fast attention and the ops on rows are: `cargo run --release --example ops -p pumice-kernels [-- threads [isa]]`.
//!
//! Shapes are LLaVA-1.5-7B's: a prompt with one picture (620 tokens), a token at depth 1024, CLIP's 577 patches. Each line is
//! the best and the median of 9 runs, in seconds that the calling thread spent on a processor (wall clock where /proc does not
//! tell), so that other programs on the machine count less.

use pumice_kernels::{Backend, Cpu, CpuOptions, DType, Gelu, Isa, Tensor};
use std::time::Instant;

/// Runs of each op: enough for the best to be undisturbed now and then.
const RUNS: usize = 9;

fn main() {
    let mut args = std::env::args().skip(1);
    let threads = args.next().and_then(|t| t.parse().ok()).unwrap_or(0);
    let isa = args.next().and_then(|name| Isa::available().into_iter().find(|isa| isa.name() == name));
    let mut cpu = Cpu::new(CpuOptions { threads, isa });
    println!("{}", cpu.name());
    let h = 32 * 128;

    let (q, out, p) = (random(&mut cpu, 620, h), random(&mut cpu, 620, h), positions(&mut cpu, 0, 620));
    let (k, v) = (cache(&mut cpu, 1024, h, DType::F16), cache(&mut cpu, 1024, h, DType::F16));
    // Causal: half of the scores, for two products of 2 operations each.
    let flops = 2.0 * 620.0 * 621.0 * h as f64;
    let (keys, values) = (k.rows(0, 620), v.rows(0, 620));
    time("attention, prompt of 620, 32×128, f16", flops, "GFLOP/s", || {
        cpu.attention(out, q, keys, values, Some(p), 128)
    });

    let (q1, out1, p1) = (q.rows(0, 1), out.rows(0, 1), positions(&mut cpu, 1023, 1));
    // Enough layers that a cache is out of the processor's when it is read again.
    for dtype in [DType::F16, DType::Q8_0] {
        let layers: Vec<_> =
            (0..32).map(|_| (cache(&mut cpu, 1024, h, dtype), cache(&mut cpu, 1024, h, dtype))).collect();
        let bytes = 32.0 * 2.0 * 1024.0 * dtype.row_bytes(h).unwrap_or(0) as f64;
        time(&format!("attention, a token at 1024, 32 layers, {dtype}"), bytes, "GB/s", || {
            layers.iter().for_each(|(k, v)| cpu.attention(out1, q1, *k, *v, Some(p1), 128));
        });
    }

    let (q, k, v, out) = (
        random(&mut cpu, 577, 1024),
        random(&mut cpu, 577, 1024),
        random(&mut cpu, 577, 1024),
        random(&mut cpu, 577, 1024),
    );
    time("attention, CLIP 577, 16×64, f32", 4.0 * 577.0 * 577.0 * 1024.0, "GFLOP/s", || {
        cpu.attention(out, q, k, v, None, 64)
    });

    let (x, y, w) = (random(&mut cpu, 620, h), random(&mut cpu, 620, h), random(&mut cpu, 1, h));
    let bytes = 2.0 * 4.0 * 620.0 * h as f64;
    time("rms_norm 620×4096", bytes, "GB/s", || cpu.rms_norm(y, x, w, 1e-5));
    time("layer_norm 620×4096", bytes, "GB/s", || cpu.layer_norm(y, x, w, w, 1e-5));
    time("add 620×4096", 1.5 * bytes, "GB/s", || cpu.add(y, x));
    // Copied afresh each time: repeated in place, an activation would end in subnormal numbers.
    time("copy, swiglu 620×4096", 2.5 * bytes, "GB/s", || {
        cpu.copy(y, x);
        cpu.swiglu(y, x);
    });
    for kind in [Gelu::Erf, Gelu::Quick, Gelu::Tanh] {
        time(&format!("copy, gelu {kind:?} 620×4096"), 2.0 * bytes, "GB/s", || {
            cpu.copy(y, x);
            cpu.gelu(y, kind);
        });
    }
    let freqs = random(&mut cpu, 1, 64);
    time("rope 620×32×128", bytes, "GB/s", || cpu.rope(y, p, freqs, 128));
    let (half, q8) = (cache(&mut cpu, 620, h, DType::F16), cache(&mut cpu, 620, h, DType::Q8_0));
    time("copy to f16 620×4096", 0.75 * bytes, "GB/s", || cpu.copy(half, x));
    time("copy to q8_0 620×4096", 0.63 * bytes, "GB/s", || cpu.copy(q8, x));
    time("rms_norm 1×4096", 8.0 * h as f64, "GB/s", || cpu.rms_norm(y.rows(0, 1), x.rows(0, 1), w, 1e-5));
}

/// Prints the best and the median rate of `work`, of which one call does `amount`.
fn time(what: &str, amount: f64, unit: &str, mut work: impl FnMut()) {
    // Calls for a tenth of a second: the kernel counts a thread's time in ticks of some milliseconds.
    let start = Instant::now();
    work();
    let calls = (0.1 / start.elapsed().as_secs_f64()).clamp(1.0, 1e6) as u32;
    let mut seconds: Vec<f64> = (0..RUNS)
        .map(|_| {
            let (start, busy) = (Instant::now(), on_processor());
            (0..calls).for_each(|_| work());
            let seconds = match (busy, on_processor()) {
                (Some(before), Some(after)) => after - before,
                _ => start.elapsed().as_secs_f64(),
            };
            seconds / f64::from(calls)
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    let rate = |s: f64| amount / s / 1e9;
    let (best, median) = (seconds[0], seconds[RUNS / 2]);
    println!("{what:45} {:9.3} ms  best {:6.1} {unit}, median {:6.1}", best * 1e3, rate(best), rate(median));
}

/// Seconds that this thread has been on a processor.
fn on_processor() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').next()?.parse::<f64>().ok().map(|ns| ns / 1e9)
}

/// A matrix of numbers in −1..1.
fn random(cpu: &mut Cpu, rows: usize, cols: usize) -> Tensor {
    let t = cpu.alloc(rows, cols, DType::F32).expect("memory");
    let mut state = 1u32;
    let bytes: Vec<u8> = (0..rows * cols)
        .flat_map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) as f32 / (1u32 << 23) as f32 - 1.0).to_le_bytes()
        })
        .collect();
    cpu.write(t, &bytes);
    t
}

fn cache(cpu: &mut Cpu, rows: usize, cols: usize, dtype: DType) -> Tensor {
    let (x, t) = (random(cpu, rows, cols), cpu.alloc(rows, cols, dtype).expect("memory"));
    cpu.copy(t, x);
    t
}

fn positions(cpu: &mut Cpu, first: i32, n: usize) -> Tensor {
    let t = cpu.alloc(n, 1, DType::I32).expect("memory");
    let bytes: Vec<u8> = (first..first + n as i32).flat_map(i32::to_le_bytes).collect();
    cpu.write(t, &bytes);
    t
}
