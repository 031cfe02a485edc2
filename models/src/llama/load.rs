//! What a LLaMA keeps in memory: weights, cache, activations, each with its shape.
//!
//! The memory plan makes these same calls on a backend that only counts, so a plan cannot differ from a load.

use bytemuck::cast_slice;
use pumice_kernels::{Backend, DType, Tensor};

use super::{LlamaOptions, TOP};
use crate::{
    Error, Result,
    config::LlamaConfig,
    gguf::File,
    names,
    weights::{Linear, floats, linear, matrix},
};

/// A LLaMA's weights.
#[derive(Debug)]
pub(crate) struct Weights {
    /// [vocab, hidden]
    pub token_embd: Tensor,
    /// One per block.
    pub blocks: Vec<Block>,
    /// [1, hidden]
    pub output_norm: Tensor,
    /// [vocab, hidden]; the embedding table where the model is tied.
    pub output: Tensor,
    /// Rotary frequencies in radians per position, [1, at most d/2].
    pub inv_freq: Tensor,
}

/// The weights of a block.
#[derive(Debug)]
pub(crate) struct Block {
    /// [1, hidden]
    pub attn_norm: Tensor,
    /// [h·d, hidden]
    pub attn_q: Linear,
    /// [kv·d, hidden]
    pub attn_k: Linear,
    /// [kv·d, hidden]
    pub attn_v: Linear,
    /// [hidden, h·d]
    pub attn_output: Linear,
    /// [1, hidden]
    pub ffn_norm: Tensor,
    /// [ff, hidden]
    pub ffn_gate: Linear,
    /// [ff, hidden]
    pub ffn_up: Linear,
    /// [hidden, ff]
    pub ffn_down: Linear,
}

impl Weights {
    /// Takes all weights of `file` to `b`.
    pub(crate) fn load(file: &File, c: &LlamaConfig, b: &mut dyn Backend) -> Result<Self> {
        let token_embd = matrix(file, b, names::TOKEN_EMBD, c.vocab, c.hidden)?;
        let mut blocks = Vec::new();
        for i in 0..c.blocks {
            b.layer(Some(i));
            blocks.push(Block::load(file, c, b, i)?);
        }
        b.layer(None);
        let output_norm = floats(file, b, names::OUTPUT_NORM, 1, c.hidden)?;
        let output = if c.tied { token_embd } else { matrix(file, b, names::OUTPUT, c.vocab, c.hidden)? };
        let inv_freq = b.alloc(1, c.inv_freq.len(), DType::F32)?;
        b.write(inv_freq, cast_slice(&c.inv_freq));
        Ok(Self { token_embd, blocks, output_norm, output, inv_freq })
    }
}

impl Block {
    fn load(file: &File, c: &LlamaConfig, b: &mut dyn Backend, i: usize) -> Result<Self> {
        let mut layer = |part: &str, m: usize, k: usize| {
            linear(file, b, &names::blk(i, part), &names::blk_bias(i, part), (m, k))
        };
        let attn_q = layer(names::ATTN_Q, c.q_width(), c.hidden)?;
        let attn_k = layer(names::ATTN_K, c.kv_width(), c.hidden)?;
        let attn_v = layer(names::ATTN_V, c.kv_width(), c.hidden)?;
        let attn_output = layer(names::ATTN_OUTPUT, c.hidden, c.q_width())?;
        let ffn_gate = layer(names::FFN_GATE, c.ff, c.hidden)?;
        let ffn_up = layer(names::FFN_UP, c.ff, c.hidden)?;
        let ffn_down = layer(names::FFN_DOWN, c.hidden, c.ff)?;
        let attn_norm = floats(file, b, &names::blk(i, names::ATTN_NORM), 1, c.hidden)?;
        let ffn_norm = floats(file, b, &names::blk(i, names::FFN_NORM), 1, c.hidden)?;
        Ok(Self { attn_norm, attn_q, attn_k, attn_v, attn_output, ffn_norm, ffn_gate, ffn_up, ffn_down })
    }
}

/// What a block remembers of the positions before.
#[derive(Debug)]
pub(crate) struct Cache {
    /// Keys after the rotation, [ctx, kv·d] of the cache type.
    pub k: Tensor,
    /// Values, [ctx, kv·d] of the cache type.
    pub v: Tensor,
}

impl Cache {
    /// A cache for each block.
    pub(crate) fn alloc(c: &LlamaConfig, o: &LlamaOptions, b: &mut dyn Backend) -> Result<Vec<Self>> {
        let mut cache = Vec::new();
        for i in 0..c.blocks {
            b.layer(Some(i));
            let k = b.alloc(o.ctx, c.kv_width(), o.cache_type)?;
            let v = b.alloc(o.ctx, c.kv_width(), o.cache_type)?;
            cache.push(Self { k, v });
        }
        b.layer(None);
        Ok(cache)
    }
}

/// The matrices that a forward pass writes, `n` rows each (a batch when allocated). All F32 but ids and positions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Activations {
    /// The residual stream, [n, hidden].
    pub x: Tensor,
    /// What a half-block takes in (the norm of x) and, later, what it gives back, [n, hidden].
    pub h: Tensor,
    /// Queries, [n, h·d].
    pub q: Tensor,
    /// Keys, [n, kv·d].
    pub k: Tensor,
    /// Values, [n, kv·d].
    pub v: Tensor,
    /// What attention gathers, [n, h·d].
    pub attn: Tensor,
    /// The MLP's gate, then gate ⊙ up, [n, ff].
    pub gate: Tensor,
    /// The MLP's other half, [n, ff].
    pub up: Tensor,
    /// Positions of the rows, [n, 1] I32.
    pub positions: Tensor,
    /// Token ids, [n, 1] I32.
    pub ids: Tensor,
    /// [rows that logits were planned for, vocab]
    pub logits: Tensor,
    /// The largest logits of a row, then their ids, [1, 2·at most TOP].
    pub top: Tensor,
}

impl Activations {
    /// Room for a batch.
    pub(crate) fn alloc(c: &LlamaConfig, o: &LlamaOptions, b: &mut dyn Backend) -> Result<Self> {
        let n = o.batch;
        Ok(Self {
            x: b.alloc(n, c.hidden, DType::F32)?,
            h: b.alloc(n, c.hidden, DType::F32)?,
            q: b.alloc(n, c.q_width(), DType::F32)?,
            k: b.alloc(n, c.kv_width(), DType::F32)?,
            v: b.alloc(n, c.kv_width(), DType::F32)?,
            attn: b.alloc(n, c.q_width(), DType::F32)?,
            gate: b.alloc(n, c.ff, DType::F32)?,
            up: b.alloc(n, c.ff, DType::F32)?,
            positions: b.alloc(n, 1, DType::I32)?,
            ids: b.alloc(n, 1, DType::I32)?,
            logits: b.alloc(o.logit_rows, c.vocab, DType::F32)?,
            top: b.alloc(1, 2 * TOP.min(c.vocab), DType::F32)?,
        })
    }

    /// `n` rows from row `first` on.
    pub(crate) fn rows(self, first: usize, n: usize) -> Self {
        Self {
            x: self.x.rows(first, n),
            h: self.h.rows(first, n),
            q: self.q.rows(first, n),
            k: self.k.rows(first, n),
            v: self.v.rows(first, n),
            attn: self.attn.rows(first, n),
            gate: self.gate.rows(first, n),
            up: self.up.rows(first, n),
            positions: self.positions.rows(first, n),
            ..self
        }
    }

    /// Of these rows the last `n`.
    pub(crate) fn last(self, n: usize) -> Self {
        self.rows(self.x.rows - n, n)
    }
}

impl LlamaOptions {
    /// The options as they take effect with this model.
    ///
    /// # Errors
    /// The cache cannot be of the type asked for.
    pub(crate) fn resolve(&self, c: &LlamaConfig) -> Result<Self> {
        let ctx = if self.ctx == 0 { c.context } else { self.ctx };
        let fits = match self.cache_type {
            DType::F32 | DType::F16 => true,
            DType::Q8_0 => c.head_dim.is_multiple_of(DType::Q8_0.block_len()),
            _ => false,
        };
        if !fits {
            return Err(Error::CacheType { asked: self.cache_type, head_dim: c.head_dim });
        }
        // A batch larger than the cache can never be full.
        let batch = self.batch.clamp(1, ctx);
        Ok(Self { ctx, batch, logit_rows: self.logit_rows.max(1), ..*self })
    }
}
