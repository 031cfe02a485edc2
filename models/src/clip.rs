//! CLIP's vision tower: pixels in, features of the chosen block out (arXiv 2103.00020).
//!
//! The order of rows is PyTorch's: the class row first, at position 0, then the patches row by row. LLaVA takes the
//! stream as it leaves the chosen block, so the norm after the last block (`v.post_ln`), which CLIP applies to its
//! pooled class row only, is never loaded, even where a file has it.
//!
//! Letters in shapes: `p` patches, `n` = 1 + p rows, `ff` width of the MLP.

use bytemuck::cast_slice;
use pumice_kernels::{Backend, DType, Tensor};

use crate::{
    Result,
    config::ClipConfig,
    gguf::File,
    names,
    weights::{LayerNorm, Linear, biased, floats, layer_norm, linear},
};

/// A vision tower on a backend, with its activations.
#[derive(Debug)]
pub struct Clip {
    config: ClipConfig,
    weights: Weights,
    activations: Activations,
}

impl Clip {
    /// Takes the vision tower of `file` to `b`.
    ///
    /// # Errors
    /// The config is faulty, a tensor is missing or misshapen, or memory is short.
    pub fn load(file: &File, b: &mut dyn Backend) -> Result<Self> {
        let config = ClipConfig::read(file)?;
        let weights = Weights::load(file, &config, b)?;
        let activations = Activations::alloc(&config, b)?;
        Ok(Self { config, weights, activations })
    }

    /// What the tower looks like.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// Computes the features of a picture: `pixels` [3, size, size], normalised, channel by channel, row by row. They are
    /// [p, hidden], or [1 + p, hidden] where the class row is kept, and stay until the next call.
    ///
    /// # Panics
    /// Where `pixels` has another length.
    pub fn encode(&self, b: &mut dyn Backend, pixels: &[f32]) -> Tensor {
        let (c, w, a) = (&self.config, &self.weights, &self.activations);
        let size = c.image_size;
        assert_eq!(pixels.len(), c.pixels(), "a picture has [3, {size}, {size}] numbers");

        // h = [class; patches·Wᵀ] + positions
        b.write(a.patches, cast_slice(&patches(pixels, size, c.patch_size)));
        w.patch_embd.apply(b, a.h.rows(1, c.patches()), a.patches);
        b.copy(a.h.rows(0, 1), w.class_embd);
        b.add(a.h, w.position_embd);
        w.pre_ln.apply(b, a.x, a.h);

        for w in &w.blocks {
            // x += Wo·attention(Wq·h, Wk·h, Wv·h) with h = ln1(x); every row sees every row
            w.ln1.apply(b, a.h, a.x);
            w.attn_q.apply(b, a.q, a.h);
            w.attn_k.apply(b, a.k, a.h);
            w.attn_v.apply(b, a.v, a.h);
            b.attention(a.attn, a.q, a.k, a.v, None, c.head_dim());
            w.attn_out.apply(b, a.h, a.attn);
            b.add(a.x, a.h);

            // x += W2·gelu(W1·h) with h = ln2(x)
            w.ln2.apply(b, a.h, a.x);
            w.fc1.apply(b, a.mlp, a.h);
            b.gelu(a.mlp, c.activation);
            w.fc2.apply(b, a.h, a.mlp);
            b.add(a.x, a.h);
        }
        let first = usize::from(!c.keep_class);
        a.x.rows(first, c.feature_rows())
    }
}

/// A tower's weights.
#[derive(Debug)]
pub(crate) struct Weights {
    /// [1, hidden]
    class_embd: Tensor,
    /// [hidden, 3·patch·patch], without bias in CLIP.
    patch_embd: Linear,
    /// [n, hidden]
    position_embd: Tensor,
    /// [1, hidden]
    pre_ln: LayerNorm,
    /// The blocks to run.
    blocks: Vec<Block>,
}

/// The weights of a block. All layers have a bias.
#[derive(Debug)]
struct Block {
    /// [1, hidden]
    ln1: LayerNorm,
    /// [hidden, hidden]
    attn_q: Linear,
    /// [hidden, hidden]
    attn_k: Linear,
    /// [hidden, hidden]
    attn_v: Linear,
    /// [hidden, hidden]
    attn_out: Linear,
    /// [1, hidden]
    ln2: LayerNorm,
    /// Into the MLP, [ff, hidden].
    fc1: Linear,
    /// Out of the MLP, [hidden, ff].
    fc2: Linear,
}

impl Weights {
    /// Takes the weights of the blocks to run to `b`.
    pub(crate) fn load(file: &File, c: &ClipConfig, b: &mut dyn Backend) -> Result<Self> {
        // gguf-py's names would give the class embedding a suffix; llama.cpp's converters give it none.
        let suffixed = format!("{}.weight", names::V_CLASS_EMBD);
        let class = if file.tensor(&suffixed).is_some() { &suffixed } else { names::V_CLASS_EMBD };
        let class_embd = floats(file, b, class, 1, c.hidden)?;
        let patch_shape = (c.hidden, c.patch_len());
        let patch_embd = linear(file, b, names::V_PATCH_EMBD, names::V_PATCH_EMBD_BIAS, patch_shape)?;
        let position_embd = floats(file, b, names::V_POSITION_EMBD, 1 + c.patches(), c.hidden)?;
        let pre_ln = layer_norm(file, b, names::V_PRE_LN, names::V_PRE_LN_BIAS, c.hidden, c.eps)?;
        let mut blocks = Vec::new();
        for i in 0..c.blocks {
            blocks.push(Block::load(file, c, b, i)?);
        }
        Ok(Self { class_embd, patch_embd, position_embd, pre_ln, blocks })
    }
}

impl Block {
    fn load(file: &File, c: &ClipConfig, b: &mut dyn Backend, i: usize) -> Result<Self> {
        let mut norm = |part: &str| {
            layer_norm(file, b, &names::v_blk(i, part), &names::v_blk_bias(i, part), c.hidden, c.eps)
        };
        let (ln1, ln2) = (norm(names::LN1)?, norm(names::LN2)?);
        let mut layer = |part: &str, m: usize, k: usize| {
            biased(file, b, &names::v_blk(i, part), &names::v_blk_bias(i, part), (m, k))
        };
        let (fc1, fc2) =
            if c.mlp_swapped { (names::FFN_DOWN, names::FFN_UP) } else { (names::FFN_UP, names::FFN_DOWN) };
        Ok(Self {
            ln1,
            attn_q: layer(names::ATTN_Q, c.hidden, c.hidden)?,
            attn_k: layer(names::ATTN_K, c.hidden, c.hidden)?,
            attn_v: layer(names::ATTN_V, c.hidden, c.hidden)?,
            attn_out: layer(names::ATTN_OUT, c.hidden, c.hidden)?,
            ln2,
            fc1: layer(fc1, c.ff, c.hidden)?,
            fc2: layer(fc2, c.hidden, c.ff)?,
        })
    }
}

/// The matrices that encoding writes, all F32.
#[derive(Debug)]
pub(crate) struct Activations {
    /// The picture cut up, [p, 3·patch·patch].
    patches: Tensor,
    /// The residual stream, [n, hidden]; at the end, the features.
    x: Tensor,
    /// The embeddings, then what a half-block takes in (the norm of x) and what it gives back, [n, hidden].
    h: Tensor,
    /// Queries, [n, hidden].
    q: Tensor,
    /// Keys, [n, hidden].
    k: Tensor,
    /// Values, [n, hidden].
    v: Tensor,
    /// What attention gathers, [n, hidden].
    attn: Tensor,
    /// The inside of the MLP, [n, ff].
    mlp: Tensor,
}

impl Activations {
    /// Room for one picture.
    pub(crate) fn alloc(c: &ClipConfig, b: &mut dyn Backend) -> Result<Self> {
        let n = 1 + c.patches();
        Ok(Self {
            patches: b.alloc(c.patches(), c.patch_len(), DType::F32)?,
            x: b.alloc(n, c.hidden, DType::F32)?,
            h: b.alloc(n, c.hidden, DType::F32)?,
            q: b.alloc(n, c.hidden, DType::F32)?,
            k: b.alloc(n, c.hidden, DType::F32)?,
            v: b.alloc(n, c.hidden, DType::F32)?,
            attn: b.alloc(n, c.hidden, DType::F32)?,
            mlp: b.alloc(n, c.ff, DType::F32)?,
        })
    }
}

/// Cuts a picture [3, size, size] into rows of one patch each, [p, 3·patch·patch], in the order of a convolution's
/// weights: channel, then line, then column. A convolution whose stride is its kernel is this and one matmul.
fn patches(pixels: &[f32], size: usize, patch: usize) -> Vec<f32> {
    let mut rows = Vec::with_capacity(pixels.len());
    for top in (0..size).step_by(patch) {
        for left in (0..size).step_by(patch) {
            for channel in pixels.chunks_exact(size * size) {
                for y in top..top + patch {
                    rows.extend_from_slice(&channel[y * size + left..][..patch]);
                }
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::patches;

    #[test]
    fn patches_are_row_major_and_channels_come_first_within_one() {
        // Two channels of 4×4, patches of 2: pixel (channel, y, x) has the value 100·channel + 10·y + x.
        let pixels: Vec<f32> =
            (0..2 * 16).map(|i| (100 * (i / 16) + 10 * (i / 4 % 4) + i % 4) as f32).collect();
        let rows = patches(&pixels, 4, 2);
        let second = [2., 3., 12., 13., 102., 103., 112., 113.];
        let third = [20., 21., 30., 31., 120., 121., 130., 131.];
        assert_eq!(rows.len(), 4 * 8);
        assert_eq!(rows[8..16], second);
        assert_eq!(rows[16..24], third);
    }
}
