//! A split of two CPUs against a single one: any sequence of ops, on any rows, gives the same bits, wherever the layers lie. And with a
//! graphics processor as one of the two, where there is one: no op differs from the scalar specification.

use proptest::prelude::*;
use pumice_kernels::{Backend, Bytes, Cpu, CpuOptions, DType, Gelu, Isa, Share, Split, Tensor, quant};

/// Layers of the little model, rows of an activation, columns, and rows of a cache.
const LAYERS: usize = 3;
const ROWS: usize = 6;
const COLS: usize = 64;
const CACHE: usize = 8;
/// Columns of a head.
const HEAD: usize = 32;

/// One op: its kind, the activation it writes, the one it reads, the layer whose weights it takes, and its rows.
#[derive(Debug, Clone, Copy)]
struct Step {
    kind: u8,
    dst: usize,
    src: usize,
    layer: usize,
    first: usize,
    rows: usize,
}

/// Kinds of steps.
const KINDS: u8 = 16;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..KINDS, 0..4usize, 1..4usize, 0..LAYERS, 0..ROWS, 1..=ROWS).prop_map(
        |(kind, dst, other, layer, first, rows)| Step {
            kind,
            dst,
            src: (dst + other) % 4,
            layer,
            first,
            rows: rows.min(ROWS - first),
        },
    );
    prop::collection::vec(step, 1..60)
}

/// Everything that the steps work on.
struct World {
    table: Tensor,
    /// Square weights, norms, keys and values.
    layers: Vec<[Tensor; 4]>,
    output_norm: Tensor,
    output: Tensor,
    inv_freq: Tensor,
    x: [Tensor; 4],
    best: Tensor,
    positions: Tensor,
    ids: Tensor,
}

fn noise(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 2000.0 - 0.5).collect()
}

fn load(b: &mut dyn Backend, dtype: DType, rows: usize, seed: usize) -> Tensor {
    let mut bytes = vec![0; rows * dtype.row_bytes(COLS).unwrap()];
    quant::quantize(dtype, COLS, &noise(rows * COLS, seed), &mut bytes, None);
    b.load(Bytes::new(bytes), rows, COLS, dtype).unwrap()
}

fn bytes(values: &[i32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

impl World {
    /// In the order in which a LLaMA is loaded.
    fn new(b: &mut dyn Backend) -> Self {
        let table = load(b, DType::Q8_0, 10, 1);
        let mut layers = Vec::new();
        for i in 0..LAYERS {
            b.layer(Some(i));
            let w = load(b, [DType::F32, DType::Q4_0, DType::F16][i], COLS, 10 + i);
            layers.push([w, load(b, DType::F32, 1, 20 + i), w, w]);
        }
        b.layer(None);
        let (output_norm, output) = (load(b, DType::F32, 1, 2), load(b, DType::Q8_0, COLS, 3));
        let inv_freq = b.alloc(1, HEAD / 2, DType::F32).unwrap();
        let freqs: Vec<u8> = noise(HEAD / 2, 4).iter().flat_map(|v| v.to_le_bytes()).collect();
        b.write(inv_freq, &freqs);
        for (i, layer) in layers.iter_mut().enumerate() {
            b.layer(Some(i));
            let dtype = [DType::F16, DType::Q8_0, DType::F32][i];
            layer[2] = b.alloc(CACHE, COLS, dtype).unwrap();
            layer[3] = b.alloc(CACHE, COLS, dtype).unwrap();
        }
        b.layer(None);
        let x = [(); 4].map(|()| b.alloc(ROWS, COLS, DType::F32).unwrap());
        let best = b.alloc(ROWS, 6, DType::F32).unwrap();
        let (positions, ids) = (b.alloc(ROWS, 1, DType::I32).unwrap(), b.alloc(ROWS, 1, DType::I32).unwrap());
        Self { table, layers, output_norm, output, inv_freq, x, best, positions, ids }
    }

    /// Does a step; what it reads, if it reads.
    fn step(&self, b: &mut dyn Backend, s: Step, number: usize) -> Vec<f32> {
        let [dst, src] = [s.dst, s.src].map(|i| self.x[i].rows(s.first, s.rows));
        let positions = self.positions.rows(s.first, s.rows);
        let [w, norm, k, v] = self.layers[s.layer];
        match s.kind {
            0 | 1 => b.matmul(dst, src, w, None),
            2 => b.matmul(dst, src, w, Some(norm)),
            3 => b.matmul(dst, src, self.output, None),
            4 => b.rms_norm(dst, src, norm, 1e-5),
            5 => b.layer_norm(dst, src, self.output_norm, self.output_norm, 1e-5),
            6 => b.rope(dst, positions, self.inv_freq, HEAD),
            7 => b.copy(k.rows(s.first, s.rows), src),
            8 => b.copy(v.rows(s.first, s.rows), src),
            9 => b.attention(dst, src, k, v, Some(positions), HEAD),
            10 => b.swiglu(dst, src),
            11 => b.gelu(dst, Gelu::Tanh),
            12 => b.add(dst, src),
            13 => {
                let at: Vec<i32> = (0..s.rows).map(|i| ((i + number) % CACHE) as i32).collect();
                b.write(positions, &bytes(&at));
                b.write(self.ids.rows(s.first, s.rows), &bytes(&at));
                b.get_rows(dst, self.table, self.ids.rows(s.first, s.rows));
            }
            14 => {
                let values = noise(s.rows * COLS, number);
                b.write(dst, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
                b.copy(src, dst);
            }
            _ => {
                let best = self.best.rows(s.first, s.rows);
                b.top_k(best, src, COLS - 1);
                return [read(b, best), read(b, dst)].concat();
            }
        }
        Vec::new()
    }

    /// All that was read, and at the end all that can be.
    fn run(&self, b: &mut dyn Backend, steps: &[Step]) -> Vec<f32> {
        let mut out: Vec<f32> = steps.iter().enumerate().flat_map(|(i, s)| self.step(b, *s, i)).collect();
        let caches = self.layers.iter().flat_map(|[_, _, k, v]| [*k, *v]);
        for t in self.x.into_iter().chain(caches) {
            out.extend(read(b, t));
        }
        out
    }
}

fn read(b: &mut dyn Backend, t: Tensor) -> Vec<f32> {
    let mut out = vec![f32::NAN; t.rows * t.cols];
    b.read(&mut out, t).unwrap();
    out
}

/// Of scalar instructions, whose results depend on no machine.
fn cpu() -> Cpu {
    Cpu::new(CpuOptions { threads: 1, isa: Some(Isa::Scalar) })
}

fn run(b: &mut dyn Backend, steps: &[Step]) -> Vec<u32> {
    World::new(b).run(b, steps).into_iter().map(f32::to_bits).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_ops_on_any_rows_give_the_same_bits(steps in steps()) {
        let one = run(&mut cpu(), &steps);
        for layers in 0..=LAYERS {
            let share = Share { layers, of: LAYERS, tied: false };
            let two = run(&mut Split::new(cpu(), cpu(), share), &steps);
            let differs = one.iter().zip(&two).position(|(a, b)| a != b);
            prop_assert_eq!((differs, two.len()), (None, one.len()), "{} layers on A", layers);
        }
    }
}

/// A graphics processor and a CPU, together checked against another CPU, op by op.
#[cfg(feature = "gpu")]
#[test]
fn with_a_gpu_no_op_differs() {
    use proptest::{
        strategy::ValueTree,
        test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
    };
    use pumice_kernels::{
        Checked,
        gpu::{Gpu, GpuOptions},
    };
    if pumice_kernels::gpu::adapters().is_empty() {
        eprintln!("skipped: this machine has no adapter that wgpu can use (Mesa's lavapipe is one)");
        return;
    }
    let mut runner =
        TestRunner::new_with_rng(Config::default(), TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    for layers in 1..=LAYERS {
        for fused in [false, true] {
            let steps = steps().new_tree(&mut runner).unwrap().current();
            let gpu = Gpu::new(&GpuOptions::default()).unwrap();
            let split = Split::new(gpu, cpu(), Share { layers, of: LAYERS, tied: false });
            let mut b = if fused { Checked::fused(cpu(), split) } else { Checked::new(cpu(), split) };
            let report = b.report();
            World::new(&mut b).run(&mut b, &steps);
            let report = report.lock().unwrap();
            assert!(report.first().is_none(), "{layers} layers on A, fused: {fused}\n{report}");
            assert!(report.calls() > 9, "{report}");
        }
    }
}
