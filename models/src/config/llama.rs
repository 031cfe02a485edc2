//! The config of a text model of architecture `llama`: LLaMA 1–3, Vicuna, Mistral and their like.

use super::{bounded_head, epsilon, head_width, positive};
use crate::{
    Error, Result,
    gguf::File,
    names::{self, keys},
};

/// Base of the rotary frequencies where the file has none (LLaMA 1 and 2).
const ROPE_BASE: f32 = 10_000.0;

/// A LLaMA's widths, counts and choices.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Rows of the embedding table, and logits per position. The vocabulary may be shorter: some checkpoints pad the
    /// table, and ids past the vocabulary's end must not be sampled.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the MLP.
    pub ff: usize,
    /// Blocks.
    pub blocks: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads` (grouped-query attention where it is less).
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Epsilon of the norms.
    pub eps: f32,
    /// Positions that the model was trained for.
    pub context: usize,
    /// Rotary frequencies, radians per position, one per rotating pair of a head: at most head_dim/2.
    pub inv_freq: Vec<f32>,
    /// Whether logits are made with the embedding table, there being no matrix of their own.
    pub tied: bool,
}

impl LlamaConfig {
    /// Reads the config of a text model, or of a file that holds text and vision.
    ///
    /// # Errors
    /// The file is of another architecture, computes something that Pumice does not, or its keys contradict each other.
    pub fn read(file: &File) -> Result<Self> {
        check_architecture(file)?;
        check_known(file)?;
        let hidden = positive(file, keys::EMBEDDING_LENGTH)?;
        let heads = positive(file, keys::HEAD_COUNT)?;
        let kv_heads = match file.get(keys::HEAD_COUNT_KV) {
            Some(_) => positive(file, keys::HEAD_COUNT_KV)?,
            None => heads,
        };
        if !heads.is_multiple_of(kv_heads) {
            return Err(Error::key(
                file.path(),
                keys::HEAD_COUNT_KV,
                format!("{kv_heads} key heads do not divide {heads} query heads; the file was made wrongly"),
            ));
        }
        let head_dim = head_dim(file, hidden, heads)?;
        let table = file.need_tensor(names::TOKEN_EMBD)?;
        if table.cols() != hidden || table.dims.len() != 2 {
            return Err(Error::tensor(
                file.path(),
                names::TOKEN_EMBD,
                format!(
                    "has dimensions {:?} (fastest first) but {} is {hidden}; the file was made wrongly",
                    table.dims,
                    keys::EMBEDDING_LENGTH
                ),
            ));
        }
        Ok(Self {
            vocab: table.rows(),
            hidden,
            ff: positive(file, keys::FEED_FORWARD_LENGTH)?,
            blocks: positive(file, keys::BLOCK_COUNT)?,
            heads,
            kv_heads,
            head_dim,
            eps: epsilon(file, keys::RMS_EPS)?,
            context: positive(file, keys::CONTEXT_LENGTH)?,
            inv_freq: inv_freq(file, head_dim)?,
            tied: file.tensor(names::OUTPUT).is_none(),
        })
    }

    /// Columns of a row of keys, or of values: kv_heads·head_dim.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Columns of a row of queries: heads·head_dim.
    pub fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }
}

/// Elements of a head, of queries, keys and values alike.
fn head_dim(file: &File, hidden: usize, heads: usize) -> Result<usize> {
    let head_dim = match file.get(keys::KEY_LENGTH) {
        Some(_) => bounded_head(file, keys::KEY_LENGTH, positive(file, keys::KEY_LENGTH)?)?,
        None => head_width(file, keys::EMBEDDING_LENGTH, hidden, keys::HEAD_COUNT, heads)?,
    };
    if let Some(value) = file.usize(keys::VALUE_LENGTH)?.filter(|&v| v != head_dim) {
        return Err(Error::key(
            file.path(),
            keys::VALUE_LENGTH,
            format!(
                "value heads of {value} beside key heads of {head_dim}: Pumice runs models where they are equal"
            ),
        ));
    }
    Ok(head_dim)
}

/// Refuses all architectures but `llama`, and its mixtures of experts.
fn check_architecture(file: &File) -> Result<()> {
    match file.need_str(keys::ARCHITECTURE)? {
        "llama" => {}
        "clip" => {
            return Err(Error::unsupported(
                file.path(),
                "holds only a vision tower (architecture clip); give the text model with -m and this file with --mmproj",
            ));
        }
        other => {
            return Err(Error::unsupported(
                file.path(),
                format!(
                    "is of architecture {other:?}; Pumice runs \"llama\" (LLaMA, Vicuna, Mistral and the LLaVAs made of them)"
                ),
            ));
        }
    }
    match file.usize(keys::EXPERT_COUNT)?.unwrap_or(0) {
        0 => Ok(()),
        n => Err(Error::key(
            file.path(),
            keys::EXPERT_COUNT,
            format!("is {n}: a mixture of experts, which Pumice does not run; take a dense model"),
        )),
    }
}

/// Refuses blocks with a tensor that the forward pass would leave out: its answers would be wrong without a word.
fn check_known(file: &File) -> Result<()> {
    for t in file.tensors() {
        let Some((_, rest)) = t.name.strip_prefix("blk.").and_then(|r| r.split_once('.')) else { continue };
        let known = match rest.rsplit_once('.') {
            Some((part, "weight")) => names::BLK_PARTS.contains(&part),
            Some((part, "bias")) => names::BLK_PARTS.contains(&part) && !part.ends_with("norm"),
            // Frequencies, which some converters of 2023 wrote; they are computed here.
            _ => rest == "attn_rot_embd",
        };
        if !known {
            return Err(Error::tensor(
                file.path(),
                &t.name,
                "is no part of a LLaMA block that Pumice knows; the model computes something that Pumice does not run",
            ));
        }
    }
    Ok(())
}

/// The frequency of each rotating pair, in f32 as PyTorch computes it: 1 / base^(2i/r), divided by the factors of linear
/// scaling (arXiv 2306.15595) or of Llama 3 where the file has them.
fn inv_freq(file: &File, head_dim: usize) -> Result<Vec<f32>> {
    let r = file.usize(keys::ROPE_DIMS)?.unwrap_or(head_dim);
    if r == 0 || r > head_dim || !r.is_multiple_of(2) {
        return Err(Error::key(
            file.path(),
            keys::ROPE_DIMS,
            format!(
                "is {r}, must be even and at most the head's width {head_dim}; the file was made wrongly"
            ),
        ));
    }
    let base = file.f32(keys::ROPE_BASE)?.unwrap_or(ROPE_BASE);
    if !(base.is_finite() && base > 0.0) {
        return Err(Error::key(file.path(), keys::ROPE_BASE, format!("is {base}, must be above 0")));
    }
    let scale = linear_scale(file)?;
    let factors = llama3_factors(file, r / 2)?;
    let freq = |i: usize| 1.0 / base.powf((2 * i) as f32 / r as f32) / scale;
    Ok((0..r / 2).map(|i| freq(i) / factors.as_ref().map_or(1.0, |f| f[i])).collect())
}

/// How far positions are stretched: 1 without scaling.
fn linear_scale(file: &File) -> Result<f32> {
    let kind = file.str(keys::ROPE_SCALING_TYPE)?.unwrap_or("linear");
    if kind == "none" {
        return Ok(1.0);
    }
    if kind != "linear" {
        return Err(Error::key(
            file.path(),
            keys::ROPE_SCALING_TYPE,
            format!("is {kind:?}; Pumice scales positions \"linear\" or not at all, take another model"),
        ));
    }
    let (key, factor) = match file.f32(keys::ROPE_SCALING_FACTOR)? {
        Some(f) => (keys::ROPE_SCALING_FACTOR, f),
        None => (keys::ROPE_SCALE_LINEAR, file.f32(keys::ROPE_SCALE_LINEAR)?.unwrap_or(0.0)),
    };
    match factor {
        // llama.cpp's way to say "none".
        0.0 => Ok(1.0),
        f if f.is_finite() && f > 0.0 => Ok(f),
        f => Err(Error::key(file.path(), key, format!("is {f}, must be above 0; the file was made wrongly"))),
    }
}

/// Llama 3's divisors, one per pair, where the file has them.
fn llama3_factors(file: &File, pairs: usize) -> Result<Option<Vec<f32>>> {
    let Some(t) = file.tensor(names::ROPE_FREQS) else { return Ok(None) };
    let bad = |what: String| Err(Error::tensor(file.path(), names::ROPE_FREQS, what));
    if t.dtype != Some(pumice_kernels::DType::F32) || t.elements() != pairs {
        return bad(format!(
            "is {} of {}, must be {pairs} of F32; the file was made wrongly",
            t.type_name(),
            t.elements()
        ));
    }
    let factors: Vec<f32> = file.bytes(t).as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    match factors.iter().find(|f| !(f.is_finite() && **f > 0.0)) {
        Some(f) => bad(format!("holds {f}, must be above 0; the file was made wrongly")),
        None => Ok(Some(factors)),
    }
}
