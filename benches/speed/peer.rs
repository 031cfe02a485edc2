//! The peer: ggml, llama.cpp's arithmetic, given the same bytes as Pumice and as many threads.
//!
//! What it is asked to do is what llama.cpp asks of it: flash attention, threads that live from one graph to the next, weights repacked where its
//! CPU device offers that, as llama.cpp loads them, and plain, as it has them with `--no-repack`.

mod clip;
mod llama;
mod model;
mod open;
mod session;

use pumice_kernels::{Bytes, DType};

use crate::{attention, duel::Side};
pub use clip::clip_block;
pub use model::whole_model;
pub use open::open;
use session::{Node, Session};

/// Who it is, and what it was built for; says so where that is less than the machine has.
pub fn about() -> Option<String> {
    session::be_silent();
    let (version, built) = session::built();
    let missing = missing(&built);
    if !missing.is_empty() {
        eprintln!(
            "ggml was built without {}, which this machine has, so its times are not its best. To build it again: cargo clean -p llama-cpp-sys-2 \
             --release, then with CMAKE_C_FLAGS and CMAKE_CXX_FLAGS unset (.cargo/config.toml has them)",
            missing.join(", ")
        );
    }
    Some(format!("{version} ({})", built.join(" ")))
}

/// What the machine has and `built` lacks, of the instructions that ggml's products use.
#[cfg(target_arch = "x86_64")]
fn missing(built: &[&'static str]) -> Vec<&'static str> {
    let here = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("avx_vnni", is_x86_feature_detected!("avxvnni")),
        ("avx512", is_x86_feature_detected!("avx512f")),
        ("avx512_vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512_bf16", is_x86_feature_detected!("avx512bf16")),
    ];
    here.into_iter().filter(|(name, has)| *has && !built.contains(name)).map(|(name, _)| name).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn missing(_: &[&'static str]) -> Vec<&'static str> {
    Vec::new()
}

/// A graph that has been made, and the node that is its result.
struct Ggml {
    session: Session,
    out: Node,
    how: &'static str,
}

impl Side for Ggml {
    fn name(&self) -> String {
        format!("ggml{}", self.how)
    }

    fn run(&mut self) {
        self.session.compute();
    }

    fn result(&mut self) -> Vec<f32> {
        self.session.read(self.out)
    }

    fn rest(&mut self) {
        self.session.rest();
    }
}

/// x·wᵀ for each of `matrices` [m, k] of `dtype`, with `x` [n, k]: plain, and repacked where ggml does that.
pub fn products(
    threads: usize,
    dtype: DType,
    (m, k): (usize, usize),
    matrices: &[Bytes],
    x: &[f32],
) -> Vec<Box<dyn Side>> {
    let n = x.len() / k;
    let plain = (false, ", plain");
    let repacked = session::repacks(dtype, m, k).then_some((true, ", repacked"));
    let sides = [plain].into_iter().chain(repacked).map(|(packed, how)| {
        let mut session = Session::new(threads);
        let x = session.leaf(DType::F32, &[k, n], floats(x));
        let outs: Vec<Node> = matrices
            .iter()
            .map(|w| {
                let w = match packed {
                    true => session.packed_leaf(dtype, &[k, m], w.clone()),
                    false => session.leaf(dtype, &[k, m], w.clone()),
                };
                session.mul_mat(w, x)
            })
            .collect();
        session.ready(&outs);
        let out = *outs.last().expect("a matrix");
        Box::new(Ggml { session, out, how }) as Box<dyn Side>
    });
    sides.collect()
}

/// Attention over caches as llama.cpp lays them out, masked where causal; CLIP's keys and values are rounded to F16 first, as it does.
pub fn attention(
    threads: usize,
    shape: attention::Shape,
    q: &[f32],
    k: &[u8],
    v: &[u8],
) -> Vec<Box<dyn Side>> {
    let attention::Shape { n, len, heads, d, cache, causal } = shape;
    let mut session = Session::new(threads);
    let row = heads * d;
    let q = session.leaf(DType::F32, &[row, n], floats(q));
    let mut cached = |bytes: &[u8]| session.leaf(cache, &[row, len], Bytes::new(bytes.to_vec()));
    let (k, v) = (cached(k), cached(v));
    let mask = causal.then(|| {
        let hidden = |i: usize, at: usize| if at > len - n + i { f32::NEG_INFINITY } else { 0.0 };
        let values: Vec<f32> = (0..n * len).map(|j| hidden(j / len, j % len)).collect();
        let mut bytes = vec![0; 2 * values.len()];
        pumice_kernels::quant::quantize(DType::F16, values.len(), &values, &mut bytes, None);
        session.leaf(DType::F16, &[len, n], Bytes::new(bytes))
    });
    let out = heads_of(&mut session, (q, k, v), mask, (n, len, heads, d));
    session.ready(&[out]);
    vec![Box::new(Ggml { session, out, how: ", flash attention" })]
}

/// Attention of `q` [n, h·d] over `k` and `v` [len, h·d]; the result is [n, h·d].
fn heads_of(
    session: &mut Session,
    (q, k, v): (Node, Node, Node),
    mask: Option<Node>,
    (n, len, heads, d): (usize, usize, usize, usize),
) -> Node {
    // A head's rows one after the other, by strides.
    let mut by_head = |x: Node, rows: usize| {
        let x = session.reshape(x, &[d, heads, rows]);
        session.permute(x, [0, 2, 1, 3])
    };
    let (q, k, v) = (by_head(q, n), by_head(k, len), by_head(v, len));
    let mut half = |x: Node| if session.is_f32(x) { session.cast(x, DType::F16) } else { x };
    let (k, v) = (half(k), half(v));
    let out = session.flash_attention((q, k, v), mask, 1.0 / (d as f32).sqrt());
    session.reshape(out, &[heads * d, n])
}

/// The bytes of `x`.
fn floats(x: &[f32]) -> Bytes {
    Bytes::new(bytemuck::cast_slice(x).to_vec())
}
