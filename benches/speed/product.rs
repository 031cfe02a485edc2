//! Products x·wᵀ: one token, which reads weights from memory, and many, which compute.
//!
//! For one token a run goes through as many matrices as no cache holds, as a model goes through its layers.

use criterion::Throughput;
use pumice_kernels::{Backend, Bytes, Cpu, DType, Tensor};

use crate::{
    duel::{Bench, Item, Side},
    machine::{Machine, floats, numbers, weights},
    peer,
};

/// Bytes of the weights that one token meets in a run, at least: several times the last caches of most machines.
const POOL: usize = 192 << 20;
/// Rows of a prompt's batch.
const PROMPT: usize = 512;
/// Rows of a picture of CLIP ViT-L/336: 24·24 patches and the class row.
const PICTURE: usize = 577;
/// ggml's own bound for products of different backends (`test-backend-ops`); 8-bit activations alone cost 2e-5 on either side.
const DIFFER: f64 = 5e-4;

/// x·wᵀ: `w` [m, k] of `dtype`, `copies` times, `x` [n, k].
struct Shape {
    dtype: DType,
    m: usize,
    k: usize,
    n: usize,
    copies: usize,
}

/// Every type, for one token: 4096×4096, the width of a 7B.
pub fn one_token(bench: &mut Bench) {
    for dtype in types() {
        let one = 4096 * dtype.row_bytes(4096).expect("whole blocks");
        let copies = if bench.machine.timed { POOL.div_ceil(one) } else { 1 };
        let shape = Shape { dtype, m: 4096, k: 4096, n: 1, copies };
        let work = Throughput::Bytes((one * copies) as u64);
        item(bench, format!("dot/{dtype}"), work, shape);
    }
}

/// Every type, for a prompt, at the shapes of LLaVA-1.5-7B's blocks; and CLIP's, whose weights are F16.
pub fn many_tokens(bench: &mut Bench) {
    let shapes = [(4096, 4096), (11008, 4096), (4096, 11008)];
    let llama = types().flat_map(|dtype| shapes.map(|(m, k)| (dtype, m, k, PROMPT)));
    let clip = [(1024, 1024), (4096, 1024), (1024, 4096)].map(|(m, k)| (DType::F16, m, k, PICTURE));
    for (dtype, m, k, n) in llama.chain(clip) {
        let n = if bench.machine.timed { n } else { 9 };
        // Operations: a multiplication and an addition for each weight and row.
        let work = Throughput::Elements(2 * (m * k * n) as u64);
        item(bench, format!("matmul/{dtype}/{m}x{k}x{n}"), work, Shape { dtype, m, k, n, copies: 1 });
    }
}

/// The types that weights have.
fn types() -> impl Iterator<Item = DType> {
    DType::ALL.into_iter().filter(|dtype| *dtype != DType::I32)
}

fn item(bench: &mut Bench, name: String, work: Throughput, shape: Shape) {
    let machine = bench.machine;
    let Shape { dtype, m, k, n, copies } = shape;
    let x = numbers(n * k, 1);
    // Made once, for both sides, when the filter lets the item through.
    let made = std::cell::OnceCell::new();
    let matrices = || made.get_or_init(|| weights(dtype, m, k, copies)).as_slice();
    bench.item(Item {
        name,
        work,
        differ: DIFFER,
        ours: Box::new(|| Box::new(Product::new(&machine, dtype, (m, k), matrices(), &x))),
        theirs: Box::new(|| peer::products(machine.threads, dtype, (m, k), matrices(), &x)),
    });
}

/// Pumice's side.
struct Product {
    cpu: Cpu,
    w: Vec<Tensor>,
    x: Tensor,
    out: Tensor,
}

impl Product {
    /// `matrices` [m, k] of `dtype` and `x` [n, k].
    fn new(machine: &Machine, dtype: DType, (m, k): (usize, usize), matrices: &[Bytes], x: &[f32]) -> Self {
        let mut cpu = machine.cpu();
        let w = matrices.iter().map(|w| cpu.load(w.clone(), m, k, dtype).expect("valid weights")).collect();
        let n = x.len() / k;
        let out = cpu.alloc(n, m, DType::F32).expect("memory");
        let x = floats(&mut cpu, n, k, x);
        Self { cpu, w, x, out }
    }
}

impl Side for Product {
    fn name(&self) -> String {
        self.cpu.name()
    }

    fn run(&mut self) {
        for w in &self.w {
            self.cpu.matmul(self.out, self.x, *w, None);
        }
    }

    fn result(&mut self) -> Vec<f32> {
        read(&mut self.cpu, self.out)
    }
}

/// The numbers of `t`.
pub fn read(cpu: &mut Cpu, t: Tensor) -> Vec<f32> {
    let mut values = vec![0.0; t.rows * t.cols];
    cpu.read(&mut values, t).expect("the CPU is not lost");
    values
}
