//! Recipes: which type every tensor of a model takes.
//!
//! A file type such as Q4_K_M is a mix: tensors that hurt most when rounded get more bits. The mixes are llama.cpp's
//! (`llama-quant.cpp`), so that sizes and qualities published for its files hold for ours; a golden table made by its own
//! `llama-quantize` keeps them so. The vision tower has a type of its own, since it is small and its errors reach every
//! image token.

mod file_type;

use pumice_kernels::DType;
use regex::Regex;

pub use file_type::FileType;

use crate::{Error, Result};

/// What the mixes ask about a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelFacts {
    /// LLaMA blocks.
    pub blocks: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Whether the token embeddings make the logits too (no `output.weight`).
    pub tied: bool,
}

/// How a model's tensors are to be stored.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The mix for the text model.
    pub file_type: FileType,
    /// Type of the vision tower's and the projector's matrices; F16 by default.
    pub vision_type: DType,
    /// Gives every matrix of the text model the type that the mix is named for.
    pub pure: bool,
    /// Types by name, the first match wins over everything else.
    pub overrides: Vec<Override>,
}

impl Recipe {
    /// The mix `file_type`, vision in F16, nothing overridden.
    pub fn new(file_type: FileType) -> Self {
        Self { file_type, vision_type: DType::F16, pure: false, overrides: Vec::new() }
    }

    /// The type of tensor `name` with `dims` (columns first).
    ///
    /// # Errors
    /// [`Error::Ragged`] where an override's blocks do not divide the rows.
    pub fn choose(&self, name: &str, dims: &[usize], model: &ModelFacts) -> Result<Choice> {
        if !is_matrix(name, dims) {
            return Ok(Choice::plain(DType::F32));
        }
        let cols = dims[0];
        if let Some(index) = self.overrides.iter().position(|o| o.pattern.is_match(name)) {
            let dtype = self.overrides[index].dtype;
            let fits = dtype.row_bytes(cols).is_some() && (dims.len() == 2 || !dtype.is_quantized());
            return match fits {
                true => Ok(Choice { dtype, wanted: dtype, by_override: Some(index) }),
                false => Err(Error::Ragged { tensor: name.into(), cols, dtype }),
            };
        }
        let wanted = if is_vision(name) { self.vision(dims) } else { self.text(name, cols, model) };
        Ok(Choice { dtype: fitting(wanted, cols), wanted, by_override: None })
    }

    fn vision(&self, dims: &[usize]) -> DType {
        // The patch convolution (four dimensions) has rows of `patch` elements in the file, which no block divides.
        match self.vision_type {
            quantized if dims.len() > 2 && quantized.is_quantized() => DType::F16,
            plain => plain,
        }
    }

    fn text(&self, name: &str, cols: usize, model: &ModelFacts) -> DType {
        let base = self.file_type.dtype();
        if self.pure || !base.is_quantized() {
            return base;
        }
        let makes_logits = name == "output.weight" || (model.tied && name == "token_embd.weight");
        if makes_logits {
            return match base {
                DType::Q8_0 => DType::Q8_0,
                _ if !cols.is_multiple_of(base.block_len()) => DType::Q8_0,
                _ => DType::Q6_K,
            };
        }
        match block_part(name) {
            Some((block, "attn_v")) => self.attn_v(base, block, model),
            Some((block, "ffn_down")) => self.ffn_down(base, block, model),
            _ => base,
        }
    }

    /// Values are few where heads share them (grouped-query attention) and matter more than their size.
    fn attn_v(&self, base: DType, block: usize, model: &ModelFacts) -> DType {
        let shared = model.heads / model.kv_heads.max(1) >= 4;
        let dtype = match self.file_type {
            FileType::IQ4_NL | FileType::IQ4_XS if shared => DType::Q5_K,
            FileType::Q4_K_M | FileType::Q5_K_M if more_bits(block, model.blocks) => DType::Q6_K,
            FileType::Q4_K_S if block < 4 => DType::Q5_K,
            _ => base,
        };
        // llama.cpp calls any LLaMA of 80 blocks "70B" and widens the values that eight heads share there.
        if model.blocks == 80 && dtype == DType::Q4_K { DType::Q5_K } else { dtype }
    }

    fn ffn_down(&self, base: DType, block: usize, model: &ModelFacts) -> DType {
        let first_eighth = block < model.blocks / 8;
        match self.file_type {
            FileType::Q4_K_M | FileType::Q5_K_M if more_bits(block, model.blocks) => DType::Q6_K,
            FileType::Q4_K_S | FileType::IQ4_NL | FileType::IQ4_XS if first_eighth => DType::Q5_K,
            _ => base,
        }
    }
}

/// The type a tensor gets, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The type.
    pub dtype: DType,
    /// The type that the mix asked for; another than `dtype` where its blocks do not divide the rows.
    pub wanted: DType,
    /// The override that decided.
    pub by_override: Option<usize>,
}

impl Choice {
    fn plain(dtype: DType) -> Self {
        Self { dtype, wanted: dtype, by_override: None }
    }
}

/// `PATTERN=TYPE`: tensors whose GGUF name the regular expression finds a match in take the type.
#[derive(Debug, Clone)]
pub struct Override {
    /// The regular expression, searched anywhere in the name: `ffn_down`, `blk\.(0|1)\.`, `^output`.
    pub pattern: Regex,
    /// The type.
    pub dtype: DType,
}

impl std::str::FromStr for Override {
    type Err = Error;

    /// Reads `PATTERN=TYPE`; the last `=` divides.
    fn from_str(text: &str) -> Result<Self> {
        let problem = |problem: String| Error::Pattern { text: text.into(), problem };
        let (pattern, name) = text
            .rsplit_once('=')
            .ok_or_else(|| problem("write PATTERN=TYPE, such as ffn_down=Q6_K".into()))?;
        let dtype = weight_type(name).map_err(|e| problem(e.to_string()))?;
        let pattern = Regex::new(pattern).map_err(|e| problem(e.to_string()))?;
        Ok(Self { pattern, dtype })
    }
}

/// The type of that name that a weight can be stored in.
///
/// # Errors
/// [`Error::Unknown`] for any other name.
pub fn weight_type(name: &str) -> Result<DType> {
    DType::from_name(name.trim()).filter(|t| *t != DType::I32).ok_or_else(|| Error::Unknown {
        what: "type",
        name: name.into(),
        known: DType::ALL
            .into_iter()
            .filter(|t| *t != DType::I32)
            .map(DType::name)
            .collect::<Vec<_>>()
            .join(" "),
    })
}

/// Whether a tensor is a matrix of weights; all else (norms, biases, positions, the class row) stays F32.
fn is_matrix(name: &str, dims: &[usize]) -> bool {
    dims.len() >= 2
        && name.ends_with(".weight")
        && !name.contains("_norm.weight")
        && !name.contains("position_embd")
}

fn is_vision(name: &str) -> bool {
    name.starts_with("v.") || name.starts_with("mm.")
}

/// Block number and part of `blk.N.part.weight`.
fn block_part(name: &str) -> Option<(usize, &str)> {
    let (block, part) = name.strip_prefix("blk.")?.strip_suffix(".weight")?.split_once('.')?;
    Some((block.parse().ok()?, part))
}

/// The first and last eighth of the blocks and every third between (llama.cpp's `use_more_bits`).
fn more_bits(block: usize, blocks: usize) -> bool {
    let eighth = blocks / 8;
    block < eighth || block >= 7 * blocks / 8 || (block - eighth) % 3 == 2
}

/// `wanted`, or where its blocks do not divide rows of `cols` the type that llama.cpp falls back to.
fn fitting(wanted: DType, cols: usize) -> DType {
    if wanted.row_bytes(cols).is_some() {
        return wanted;
    }
    let smaller = match wanted {
        DType::Q4_K => DType::Q5_0,
        DType::Q5_K => DType::Q5_1,
        DType::Q6_K => DType::Q8_0,
        DType::IQ4_XS => DType::IQ4_NL,
        other => other,
    };
    if smaller.row_bytes(cols).is_some() { smaller } else { DType::F16 }
}

#[cfg(test)]
mod tests;
