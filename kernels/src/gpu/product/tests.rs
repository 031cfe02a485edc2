//! Products with all that is fused into them, against the same ops one by one on the CPU.

use super::*;
use crate::{
    Backend, Bytes, Cpu, CpuOptions, Isa,
    gpu::{Allow, Gpu, GpuOptions},
    quant,
};

/// Numbers in −1..1, alike for a seed (xorshift64*, arXiv 1402.6246).
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// The tensors of a block's projections, alike on every backend.
struct Block {
    x: Tensor,
    norm: Tensor,
    bias: Tensor,
    /// q, k and v, or gate and up.
    w: [Tensor; 3],
    dst: [Tensor; 3],
    cache: Tensor,
    positions: Tensor,
    freqs: Tensor,
}

/// Heads of 12 elements, of which 8 turn; q has 3 of them, k and v 2.
const HEAD: usize = 12;
const WIDTHS: [usize; 3] = [36, 24, 24];
const POSITIONS: [i32; 5] = [3, 900, 4, 0, 77];

impl Block {
    fn new(b: &mut dyn Backend, dtype: DType, n: usize, k: usize, widths: [usize; 3]) -> Self {
        let mut load = |dtype: DType, rows: usize, cols: usize, seed| {
            let mut bytes = vec![0; rows * dtype.row_bytes(cols).expect("whole blocks")];
            quant::quantize(dtype, cols, &numbers(rows * cols, seed), &mut bytes, None);
            b.load(Bytes::new(bytes), rows, cols, dtype).expect("loads")
        };
        let norm = load(DType::F32, 1, k, 1);
        let bias = load(DType::F32, 1, widths[0], 2);
        let w = [0, 1, 2].map(|i| load(dtype, widths[i], k, 3 + i as u64));
        let mut put = |rows: usize, cols: usize, data: &[f32]| {
            let t = b.alloc(rows, cols, DType::F32).expect("memory");
            b.write(t, bytemuck::cast_slice(data));
            t
        };
        let x = put(n, k, &numbers(n * k, 7));
        let dst = widths.map(|m| put(n, m, &numbers(n * m, 8)));
        let freqs = put(1, 4, &[1.0, 0.3, 0.1, 0.01]);
        let cache = b.alloc(9, widths[1], DType::F16).expect("memory");
        let positions = b.alloc(n, 1, DType::I32).expect("memory");
        b.write(positions, bytemuck::cast_slice(&POSITIONS[..n]));
        Self { x, norm, bias, w, dst, cache, positions, freqs }
    }
}

fn get(b: &mut dyn Backend, t: Tensor) -> Vec<f32> {
    let mut out = vec![f32::NAN; t.rows * t.cols];
    b.read(&mut out, t).expect("reads");
    out
}

/// Runs `f` with GPUs that have all and that lack subgroups or workgroup memory; it gets what the CPU has to compare with.
fn each_gpu(f: impl Fn(&mut Gpu, &mut Cpu)) {
    let none = Allow { subgroups: false, ..Allow::default() };
    let small = Allow { workgroup_bytes: Some(4096 + 500), ..Allow::default() };
    for allow in [Allow::default(), none, small] {
        match Gpu::new(&GpuOptions { allow, ..GpuOptions::default() }) {
            Ok(mut gpu) => f(&mut gpu, &mut Cpu::new(CpuOptions { threads: 1, isa: Some(Isa::Scalar) })),
            Err(error) => return eprintln!("skipped: {error}"),
        }
    }
}

/// Runs `product` at once.
#[track_caller]
fn run(gpu: &mut Gpu, product: &Product) {
    gpu.flush();
    let mut out = Vec::new();
    gpu.scratch.wrote(None);
    let mut c = Context { buffers: &gpu.buffers, facts: &gpu.device.facts, scratch: &mut gpu.scratch };
    assert!(product.dispatches(&mut c, &mut out), "no kernel for {product:?}");
    gpu.encoder.submit(&gpu.device, &gpu.buffers.slots, &out, |_| {});
}

#[track_caller]
fn near(what: &str, got: &[f32], want: &[f32]) {
    let square = |x: f64| x * x;
    let off: f64 = got.iter().zip(want).map(|(g, w)| square(f64::from(*g) - f64::from(*w))).sum();
    let all: f64 = want.iter().map(|w| square(f64::from(*w))).sum();
    assert!(off <= 1e-6 * all, "{what}: error {:.2e}", off / all);
}

const FORMATS: [(DType, usize); 5] =
    [(DType::Q4_K, 512), (DType::Q6_K, 256), (DType::Q8_0, 160), (DType::F16, 68), (DType::F32, 36)];

#[test]
fn norm_projections_turns_and_cache() {
    for (dtype, k) in FORMATS {
        for n in [1, 2, 4] {
            each_gpu(|gpu, cpu| {
                let c = Block::new(cpu, dtype, n, k, WIDTHS);
                let h = cpu.alloc(n, k, DType::F32).expect("memory");
                cpu.rms_norm(h, c.x, c.norm, 1e-5);
                for i in 0..3 {
                    cpu.matmul(c.dst[i], h, c.w[i], None);
                }
                cpu.rope(c.dst[0], c.positions, c.freqs, HEAD);
                cpu.rope(c.dst[1], c.positions, c.freqs, HEAD);
                let want = [0, 1, 2].map(|i| get(cpu, c.dst[i]));

                let g = Block::new(gpu, dtype, n, k, WIDTHS);
                gpu.rope(g.dst[0], g.positions, g.freqs, HEAD);
                let Some(crate::gpu::step::Step::Rope { turns, .. }) = gpu.steps.last().copied() else {
                    panic!("the rotation is not recorded")
                };
                let turn = Then::Turn { turns, head_dim: HEAD };
                let part = |i: usize, then| Part { w: g.w[i], dst: g.dst[i], then };
                let k_part = Part { dst: g.cache.rows(2, n), ..part(1, turn) };
                run(
                    gpu,
                    &Product {
                        x: g.x,
                        norm: Some(Norm { weight: g.norm, eps: 1e-5 }),
                        sums: Sums::Parts(vec![part(0, turn), k_part, part(2, Then::Store)]),
                    },
                );
                near("q", &get(gpu, g.dst[0]), &want[0]);
                near("v", &get(gpu, g.dst[2]), &want[2]);
                near("k", &get(gpu, g.cache.rows(2, n)), &want[1]);
            });
        }
    }
}

#[test]
fn gate_and_up() {
    for (dtype, k) in FORMATS {
        for n in [1, 3, 4] {
            each_gpu(|gpu, cpu| {
                let c = Block::new(cpu, dtype, n, k, [35; 3]);
                let h = cpu.alloc(n, k, DType::F32).expect("memory");
                cpu.rms_norm(h, c.x, c.norm, 1e-5);
                cpu.matmul(c.dst[0], h, c.w[0], None);
                cpu.matmul(c.dst[1], h, c.w[1], None);
                cpu.swiglu(c.dst[0], c.dst[1]);
                let want = get(cpu, c.dst[0]);

                let g = Block::new(gpu, dtype, n, k, [35; 3]);
                let sums = Sums::SwiGlu { dst: g.dst[0], gate: g.w[0], up: g.w[1] };
                let norm = Some(Norm { weight: g.norm, eps: 1e-5 });
                run(gpu, &Product { x: g.x, norm, sums });
                near("gate·up", &get(gpu, g.dst[0]), &want);
            });
        }
    }
}

#[test]
fn sums_and_biases_of_few_and_many_rows() {
    for (dtype, k) in FORMATS {
        for n in [1, 5] {
            each_gpu(|gpu, cpu| {
                let normed = n == 1 || dtype.is_quantized();
                let c = Block::new(cpu, dtype, n, k, WIDTHS);
                let h = cpu.alloc(n, k, DType::F32).expect("memory");
                let more = cpu.alloc(n, WIDTHS[1], DType::F32).expect("memory");
                if normed {
                    cpu.rms_norm(h, c.x, c.norm, 1e-5);
                } else {
                    cpu.copy(h, c.x);
                }
                cpu.matmul(c.dst[0], h, c.w[0], Some(c.bias));
                cpu.matmul(more, h, c.w[1], None);
                cpu.add(c.dst[1], more);
                let want = [0, 1].map(|i| get(cpu, c.dst[i]));

                let g = Block::new(gpu, dtype, n, k, WIDTHS);
                let part = |i: usize, then| Part { w: g.w[i], dst: g.dst[i], then };
                let norm = normed.then_some(Norm { weight: g.norm, eps: 1e-5 });
                let sums = Sums::Parts(vec![part(0, Then::Bias(g.bias)), part(1, Then::Add)]);
                run(gpu, &Product { x: g.x, norm, sums });
                near("with bias", &get(gpu, g.dst[0]), &want[0]);
                near("added", &get(gpu, g.dst[1]), &want[1]);
            });
        }
    }
}

/// So many rows that a workgroup takes twice as many.
#[test]
fn many_rows_of_weights() {
    for (dtype, k) in [(DType::Q8_0, 64), (DType::F32, 12)] {
        each_gpu(|gpu, cpu| {
            let widths = [8199, 8199, 20];
            let c = Block::new(cpu, dtype, 2, k, widths);
            let all = |b: &mut dyn Backend, block: &Block| [0, 1, 2].map(|i| get(b, block.dst[i])).concat();
            cpu.matmul(c.dst[0], c.x, c.w[0], Some(c.bias));
            cpu.matmul(c.dst[1], c.x, c.w[1], None);
            cpu.matmul(c.dst[2], c.x, c.w[2], None);
            let want = all(cpu, &c);

            let g = Block::new(gpu, dtype, 2, k, widths);
            let part = |i: usize, then| Part { w: g.w[i], dst: g.dst[i], then };
            let parts = vec![part(0, Then::Bias(g.bias)), part(1, Then::Store), part(2, Then::Store)];
            run(gpu, &Product { x: g.x, norm: None, sums: Sums::Parts(parts) });
            near("three weights", &all(gpu, &g), &want);

            cpu.matmul(c.dst[0], c.x, c.w[0], None);
            cpu.swiglu(c.dst[0], c.dst[1]);
            let want = get(cpu, c.dst[0]);
            let sums = Sums::SwiGlu { dst: g.dst[0], gate: g.w[0], up: g.w[1] };
            run(gpu, &Product { x: g.x, norm: None, sums });
            near("gate·up", &get(gpu, g.dst[0]), &want);
        });
    }
}

#[test]
fn what_no_kernel_does() {
    each_gpu(|gpu, _| {
        let g = Block::new(gpu, DType::Q4_0, 2, 64, [24; 3]);
        let other = Block::new(gpu, DType::Q5_0, 2, 64, [24; 3]);
        gpu.flush();
        let part = |w, dst, then| Part { w, dst, then };
        let possible = |parts: Vec<Part>| {
            Product { x: g.x, norm: None, sums: Sums::Parts(parts) }.possible(&gpu.buffers)
        };
        assert!(possible(vec![part(g.w[0], g.dst[0], Then::Store), part(g.w[1], g.dst[1], Then::Add)]));
        assert!(!possible(vec![part(g.w[0], g.dst[0], Then::Store), part(other.w[1], g.dst[1], Then::Add)]));
        assert!(!possible(vec![part(g.w[0], g.cache.rows(0, 2), Then::Add)]), "sums in halves");
        assert!(!possible(vec![part(g.w[0], g.x, Then::Store)]), "a buffer read and written");
        assert!(!possible(vec![]));
    });
}
