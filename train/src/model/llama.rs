//! LLaMA as units: `embed`, `layers.N`, `head`, each a function of its unit, so that a step can run and free them one by one.
//!
//! A layer: x += O·attention(RoPE(Q·n(x)), RoPE(K·n(x)), V·n(x)); x += D·(silu(G·n(x)) ⊙ U·n(x)), n the root-mean-square norm (Touvron et al.,
//! 2023). RoPE turns halves of a head, (i, i + head_dim/2), as Hugging Face's checkpoints have it. Only labelled positions meet the head, in
//! chunks, so that logits of the whole `[t, vocab]` never stand. Letters: `b` samples, `t` positions, `d` width, `h` heads, `n` labelled positions.

use tch::{Device, Kind, Tensor};

use super::config::LlamaConfig;
use crate::{Error, Result, data::Batch, unit::Unit};

/// The linear maps of a layer by name, with their `[out, in]`, in the order of the unit's slots.
pub fn linears(cfg: &LlamaConfig) -> [(&'static str, [i64; 2]); 7] {
    let (d, q, kv) = (cfg.hidden, cfg.heads * cfg.head_dim, cfg.kv_heads * cfg.head_dim);
    [
        ("self_attn.q_proj", [q, d]),
        ("self_attn.k_proj", [kv, d]),
        ("self_attn.v_proj", [kv, d]),
        ("self_attn.o_proj", [d, q]),
        ("mlp.gate_proj", [cfg.ff, d]),
        ("mlp.up_proj", [cfg.ff, d]),
        ("mlp.down_proj", [d, cfg.ff]),
    ]
}

/// Names and shapes of layer `n`'s parameters.
pub fn layer_slots(cfg: &LlamaConfig, n: i64) -> Vec<(String, Vec<i64>)> {
    let maps = linears(cfg).map(|(name, shape)| (name, shape.to_vec()));
    let norms = ["input_layernorm", "post_attention_layernorm"].map(|name| (name, vec![cfg.hidden]));
    maps.into_iter().chain(norms).map(|(name, s)| (format!("model.layers.{n}.{name}.weight"), s)).collect()
}

/// Names and shapes of the table.
pub fn embed_slots(cfg: &LlamaConfig) -> Vec<(String, Vec<i64>)> {
    vec![("model.embed_tokens.weight".into(), vec![cfg.vocab, cfg.hidden])]
}

/// Names and shapes of the last norm and, untied, the matrix that makes logits.
pub fn head_slots(cfg: &LlamaConfig) -> Vec<(String, Vec<i64>)> {
    let mut slots = vec![("model.norm.weight".into(), vec![cfg.hidden])];
    if !cfg.tied {
        slots.push(("lm_head.weight".into(), vec![cfg.vocab, cfg.hidden]));
    }
    slots
}

/// A unit of fresh parameters: norms 1, matrices normal with deviation 0.02 (LLaMA's).
pub fn init(name: &str, slots: Vec<(String, Vec<i64>)>, kind: Kind, device: Device) -> Unit {
    let draw = |shape: &[i64]| match shape.len() {
        1 => Tensor::ones(shape, (kind, device)),
        _ => (Tensor::randn(shape, (Kind::Float, device)) * 0.02).to_kind(kind),
    };
    Unit::frozen(name, slots.into_iter().map(|(name, shape)| (name, draw(&shape))).collect())
}

/// What a layer computes with: a plain unit's matrices, or a frozen base with adapters.
pub trait Weights {
    /// The vector `[d]` of the norm `name`.
    fn norm(&self, name: &str) -> Tensor;
    /// `x [b, t, in]` through the matrix `name`, to `[b, t, out]`.
    fn linear(&self, name: &str, x: &Tensor) -> Tensor;
}

impl Weights for Unit {
    fn norm(&self, name: &str) -> Tensor {
        self.get(&format!("{name}.weight")).shallow_clone()
    }

    fn linear(&self, name: &str, x: &Tensor) -> Tensor {
        x.linear(self.get(&format!("{name}.weight")), None::<&Tensor>)
    }
}

/// Cosines and sines of the rotary positions 0..t.
#[derive(Debug)]
pub struct Rope {
    /// `[t, head_dim]` each, a frequency standing in both halves.
    cos: Tensor,
    sin: Tensor,
}

impl Rope {
    /// Tables for `t` positions; computed in f32 and then rounded to `kind`, as `transformers` does.
    pub fn new(cfg: &LlamaConfig, t: i64, kind: Kind, device: Device) -> Self {
        let f: Vec<f32> = cfg.frequencies().into_iter().map(|f| f as f32).collect();
        let angles = Tensor::arange(t, (Kind::Float, Device::Cpu)).outer(&Tensor::from_slice(&f));
        let angles = Tensor::cat(&[&angles, &angles], 1).to_device(device);
        Self { cos: angles.cos().to_kind(kind), sin: angles.sin().to_kind(kind) }
    }

    /// Turns `x [b, h, t, head_dim]`; `t` may be shorter than the tables.
    pub fn turn(&self, x: &Tensor) -> Tensor {
        let size = x.size();
        let half = size[3] / 2;
        let (cos, sin) = (self.cos.narrow(0, 0, size[2]), self.sin.narrow(0, 0, size[2]));
        let turned = Tensor::cat(&[-x.narrow(3, half, half), x.narrow(3, 0, half)], 3);
        x * cos + turned * sin
    }
}

/// Rows `[b, t, d]` of the table for ids `[b, t]` (int64).
pub fn embed(unit: &Unit, ids: &Tensor) -> Tensor {
    Tensor::embedding(unit.get("embed_tokens.weight"), ids, -1, false, false)
}

/// y = x / √(mean(x²) + ε) ⊙ w over the last dimension, in f32 inside.
fn rms_norm(x: &Tensor, w: &Tensor, eps: f64) -> Tensor {
    x.rms_norm(w.size(), Some(w), eps)
}

/// One layer over `x [b, t, d]`; positions are 0..t in each sample, right padding needs no mask.
pub fn layer<W: Weights>(w: &W, cfg: &LlamaConfig, rope: &Rope, x: &Tensor) -> Tensor {
    let size = x.size();
    let (b, t) = (size[0], size[1]);
    let n = rms_norm(x, &w.norm("input_layernorm"), cfg.eps);
    let heads = |name: &str, h: i64| w.linear(name, &n).view([b, t, h, cfg.head_dim]).transpose(1, 2);
    let q = rope.turn(&heads("self_attn.q_proj", cfg.heads));
    let group = cfg.heads / cfg.kv_heads;
    // Each key head serves `group` query heads.
    let shared = |x: Tensor| match group {
        1 => x,
        _ => x.unsqueeze(2).expand([b, cfg.kv_heads, group, t, cfg.head_dim], false).reshape([
            b,
            cfg.heads,
            t,
            cfg.head_dim,
        ]),
    };
    let k = shared(rope.turn(&heads("self_attn.k_proj", cfg.kv_heads)));
    let v = shared(heads("self_attn.v_proj", cfg.kv_heads));
    let a = Tensor::scaled_dot_product_attention(&q, &k, &v, None::<&Tensor>, 0.0, true, None, false);
    let a = a.transpose(1, 2).reshape([b, t, cfg.heads * cfg.head_dim]);
    let x = x + w.linear("self_attn.o_proj", &a);
    let n = rms_norm(&x, &w.norm("post_attention_layernorm"), cfg.eps);
    let gated = w.linear("mlp.gate_proj", &n).silu() * w.linear("mlp.up_proj", &n);
    x + w.linear("mlp.down_proj", &gated)
}

/// The positions whose logits are learned from, and the ids to learn there.
#[derive(Debug)]
pub struct Targets {
    /// `[n]` indices into `[b·t]`: position i where the label of i + 1 counts.
    pub rows: Tensor,
    /// `[n]` the ids.
    pub ids: Tensor,
}

impl Targets {
    /// The labelled positions of a batch, shifted by one.
    ///
    /// # Errors
    /// There is none: nothing could be learned, and the mean of no losses is not a number.
    pub fn new(batch: &Batch, device: Device) -> Result<Self> {
        let (mut rows, mut ids) = (Vec::new(), Vec::new());
        for (i, &label) in batch.labels.iter().enumerate() {
            if label >= 0 && i % batch.t > 0 {
                rows.push(i as i64 - 1);
                ids.push(label);
            }
        }
        if rows.is_empty() {
            let names = batch.rows.join(", ");
            return Err(Error::Data(format!(
                "no position of the batch is labelled, so nothing can be learned from it; rows: {names}"
            )));
        }
        let tensor = |v: &[i64]| Tensor::from_slice(v).to_device(device);
        Ok(Self { rows: tensor(&rows), ids: tensor(&ids) })
    }

    /// How many.
    pub fn len(&self) -> i64 {
        self.ids.size1().unwrap_or(0)
    }

    /// Whether there are none; never after [`Targets::new`].
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The matrix that makes logits: the head's own, or the tied table.
fn output<'a>(head: &'a Unit, tied: Option<&'a Tensor>) -> &'a Tensor {
    tied.unwrap_or_else(|| head.get("lm_head.weight"))
}

/// Logits `[…, vocab]` of `x […, d]`, the last layer's output. `tied` is the table `[vocab, d]` where the head has no matrix.
pub fn logits(head: &Unit, tied: Option<&Tensor>, cfg: &LlamaConfig, x: &Tensor) -> Tensor {
    rms_norm(x, head.get("norm.weight"), cfg.eps).linear(output(head, tied), None::<&Tensor>)
}

/// Σ of −log softmax(logits)\[id\] over rows `x [n, d]`, in f32.
pub fn cross_entropy(
    head: &Unit,
    tied: Option<&Tensor>,
    cfg: &LlamaConfig,
    x: &Tensor,
    ids: &Tensor,
) -> Tensor {
    let logits = logits(head, tied, cfg, x).to_kind(Kind::Float);
    logits.cross_entropy_loss(ids, None::<&Tensor>, tch::Reduction::Sum, -100, 0.0)
}

/// The mean loss (scalar, f32) over the targets of `x [b, t, d]`, by plain autograd, `chunk` rows at a time.
pub fn head_loss(
    head: &Unit,
    tied: Option<&Tensor>,
    cfg: &LlamaConfig,
    x: &Tensor,
    targets: &Targets,
    chunk: i64,
) -> Tensor {
    let rows = x.view([-1, cfg.hidden]).index_select(0, &targets.rows);
    let (parts, ids) = (rows.split(chunk, 0), targets.ids.split(chunk, 0));
    let losses = parts.iter().zip(&ids).map(|(x, ids)| cross_entropy(head, tied, cfg, x, ids));
    losses.reduce(|a, b| a + b).expect("targets are never empty") / targets.len() as f64
}
