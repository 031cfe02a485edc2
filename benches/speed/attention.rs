//! Attention: a prompt, a token at a depth, and CLIP's.

use criterion::Throughput;
use pumice_kernels::{Backend, Cpu, DType, Tensor, quant};

use crate::{
    duel::{Bench, Item, Side},
    machine::{Machine, floats, numbers},
    peer,
    product::read,
};

/// Both sides hold keys and values in the same 16 or 8 bits; ggml rounds queries, and in places sums, to 16 bits or less as well.
const DIFFER: f64 = 5e-4;

/// softmax(q·kᵀ/√d)·v for every head.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Queries.
    pub n: usize,
    /// Keys.
    pub len: usize,
    /// Heads.
    pub heads: usize,
    /// Elements of a head.
    pub d: usize,
    /// Type of keys and values.
    pub cache: DType,
    /// Whether query i of n sees keys 0..=len − n + i only.
    pub causal: bool,
}

/// Everything that a model's attention is asked for.
pub fn all(bench: &mut Bench) {
    let (n, len, clip) = if bench.machine.timed { (512, 1024, 577) } else { (16, 32, 33) };
    let llama = |n, len, cache| Shape { n, len, heads: 32, d: 128, cache, causal: true };
    for cache in [DType::F16, DType::Q8_0] {
        item(bench, format!("attention/prompt_{cache}"), llama(n, n, cache));
        item(bench, format!("attention/token_at_{len}_{cache}"), llama(1, len, cache));
    }
    let picture = Shape { n: clip, len: clip, heads: 16, d: 64, cache: DType::F32, causal: false };
    item(bench, "attention/clip".into(), picture);
}

fn item(bench: &mut Bench, name: String, shape: Shape) {
    let machine = bench.machine;
    let Shape { n, len, heads, d, cache, causal } = shape;
    // Each pair of a query and a key that it sees takes two products of d.
    let pairs = if causal { n * (2 * len - n + 1) / 2 } else { n * len };
    let row = heads * d;
    let q = numbers(n * row, 1);
    let cached = |seed| {
        let mut bytes = vec![0; len * cache.row_bytes(row).expect("whole blocks")];
        quant::quantize(cache, row, &numbers(len * row, seed), &mut bytes, None);
        bytes
    };
    let (k, v) = (cached(2), cached(3));
    bench.item(Item {
        name,
        work: Throughput::Elements((4 * pairs * row) as u64),
        differ: DIFFER,
        ours: Box::new(|| Box::new(Attention::new(&machine, shape, &q, &k, &v))),
        theirs: Box::new(|| peer::attention(machine.threads, shape, &q, &k, &v)),
    });
}

/// Pumice's side.
struct Attention {
    cpu: Cpu,
    out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Option<Tensor>,
    d: usize,
}

impl Attention {
    /// `q` [n, heads·d], `k` and `v` the bytes of [len, heads·d].
    fn new(machine: &Machine, shape: Shape, q: &[f32], k: &[u8], v: &[u8]) -> Self {
        let mut cpu = machine.cpu();
        let Shape { n, len, heads, d, cache, causal } = shape;
        let row = heads * d;
        let mut cached = |bytes: &[u8]| {
            let t = cpu.alloc(len, row, cache).expect("memory");
            cpu.write(t, bytes);
            t
        };
        let (k, v) = (cached(k), cached(v));
        let positions = causal.then(|| {
            let t = cpu.alloc(n, 1, DType::I32).expect("memory");
            let values: Vec<i32> = (len - n..len).map(|p| p as i32).collect();
            cpu.write(t, bytemuck::cast_slice(&values));
            t
        });
        let out = cpu.alloc(n, row, DType::F32).expect("memory");
        let q = floats(&mut cpu, n, row, q);
        Self { cpu, out, q, k, v, positions, d }
    }
}

impl Side for Attention {
    fn name(&self) -> String {
        self.cpu.name()
    }

    fn run(&mut self) {
        self.cpu.attention(self.out, self.q, self.k, self.v, self.positions, self.d);
    }

    fn result(&mut self) -> Vec<f32> {
        read(&mut self.cpu, self.out)
    }
}
