//! The widths that parameters, FLOPs and memory follow from: LLaMA, CLIP, projector.

use std::path::Path;

use serde_json::Value;

use crate::{
    Error, Result,
    recipe::{Lora, Preset, ProjectorType},
};

/// Widths of a LLaVA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Width of the residual stream.
    pub hidden: u64,
    /// Width of the MLP.
    pub ff: u64,
    /// Layers.
    pub blocks: u64,
    /// Query heads.
    pub heads: u64,
    /// Key and value heads.
    pub kv_heads: u64,
    /// Width of a head.
    pub head_dim: u64,
    /// Rows of the embedding table.
    pub vocab: u64,
    /// Whether logits are made with the embedding table.
    pub tied: bool,
    /// The vision tower.
    pub vision: Vision,
}

/// Widths of a CLIP vision tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vision {
    /// Width of its stream.
    pub hidden: u64,
    /// Width of its MLP.
    pub ff: u64,
    /// Layers.
    pub blocks: u64,
    /// Side of a patch, pixels.
    pub patch: u64,
    /// Side of a picture, pixels.
    pub image: u64,
}

impl Vision {
    /// ViT-L/14 on pictures of `image` pixels.
    pub fn large(image: u64) -> Self {
        Self { hidden: 1024, ff: 4096, blocks: 24, patch: 14, image }
    }

    /// Patches of a picture: its slots in the language model.
    pub fn patches(&self) -> u64 {
        (self.image / self.patch.max(1)).pow(2)
    }

    /// Parameters with `blocks` layers (the norm after the last counted).
    pub fn parameters(&self, blocks: u64) -> u64 {
        let h = self.hidden;
        let layer = 4 * (h * h + h) + 2 * h * self.ff + self.ff + h + 4 * h;
        3 * self.patch.pow(2) * h + h + (self.patches() + 1) * h + 4 * h + blocks * layer
    }

    /// FLOPs of one picture's features: layers up to entry `select_layer` of the hidden states only.
    pub fn forward(&self, select_layer: i64) -> f64 {
        let entries = self.blocks as i64 + 1;
        let index = if select_layer < 0 { entries + select_layer } else { select_layer };
        let blocks = index.clamp(0, self.blocks as i64) as f64;
        let rows = (self.patches() + 1) as f64;
        let h = self.hidden as f64;
        blocks * (2.0 * rows * (4.0 * h * h + 2.0 * h * self.ff as f64) + 4.0 * rows * rows * h)
            + 2.0 * rows * 3.0 * self.patch.pow(2) as f64 * h
    }
}

impl Shape {
    /// The published model's.
    pub fn of(preset: Preset) -> Self {
        let vision = Vision::large(if preset.is_v0() { 224 } else { 336 });
        let (hidden, ff, blocks, heads) =
            if preset.is_13b() { (5120, 13_824, 40, 40) } else { (4096, 11_008, 32, 32) };
        Self { hidden, ff, blocks, heads, kv_heads: heads, head_dim: 128, vocab: 32_000, tied: false, vision }
    }

    /// As the folders' `config.json` say; what is not in them stays as it is.
    ///
    /// # Errors
    /// A `config.json` that cannot be read or is no JSON.
    pub fn read(mut self, model: Option<&Path>, vision: Option<&Path>) -> Result<Self> {
        if let Some(config) = config(model)? {
            let text = config.get("text_config").unwrap_or(&config);
            let get = |key: &str| text.get(key).and_then(Value::as_u64);
            if let (Some(hidden), Some(heads)) = (get("hidden_size"), get("num_attention_heads")) {
                self.hidden = hidden;
                self.heads = heads;
                self.head_dim = get("head_dim").unwrap_or(hidden / heads.max(1));
                self.kv_heads = get("num_key_value_heads").unwrap_or(heads);
            }
            self.ff = get("intermediate_size").unwrap_or(self.ff);
            self.blocks = get("num_hidden_layers").unwrap_or(self.blocks);
            self.vocab = get("vocab_size").unwrap_or(self.vocab);
            self.tied = text.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false);
            if let Some(vision) = config.get("vision_config") {
                self.vision.take(vision);
            }
        }
        if let Some(config) = config(vision)? {
            self.vision.take(config.get("vision_config").unwrap_or(&config));
        }
        Ok(self)
    }

    /// Elements of the matrices of a layer.
    pub fn block_matrices(&self) -> u64 {
        let q = self.heads * self.head_dim;
        let kv = self.kv_heads * self.head_dim;
        self.hidden * (2 * q + 2 * kv + 3 * self.ff)
    }

    /// Parameters of the language model.
    pub fn language(&self) -> u64 {
        let tables = if self.tied { 1 } else { 2 };
        self.blocks * (self.block_matrices() + 2 * self.hidden)
            + self.hidden
            + tables * self.vocab * self.hidden
    }

    /// Elements of all matrices that rows are multiplied with: layers and head; looking up an embedding is no product.
    pub fn matrices(&self) -> u64 {
        self.blocks * self.block_matrices() + self.vocab * self.hidden
    }

    /// Parameters of the largest part that is gathered at once: a layer, or a table.
    pub fn largest_unit(&self) -> u64 {
        (self.block_matrices() + 2 * self.hidden).max(self.vocab * self.hidden + self.hidden)
    }

    /// Parameters of the projector.
    pub fn projector(&self, kind: ProjectorType) -> u64 {
        let first = (self.vision.hidden + 1) * self.hidden;
        match kind {
            ProjectorType::Linear => first,
            ProjectorType::Mlp2xGelu => first + (self.hidden + 1) * self.hidden,
        }
    }

    /// Parameters of LoRA's matrices: `r·(in + out)` for each adapted one.
    pub fn adapters(&self, lora: &Lora) -> u64 {
        let h = self.hidden;
        let q = self.heads * self.head_dim;
        let kv = self.kv_heads * self.head_dim;
        let sides = |name: &str| match name {
            "q_proj" | "o_proj" => h + q,
            "k_proj" | "v_proj" => h + kv,
            _ => h + self.ff,
        };
        self.blocks * lora.r * lora.targets.iter().map(|name| sides(name)).sum::<u64>()
    }
}

impl Vision {
    fn take(&mut self, config: &Value) {
        let get = |key: &str, now: u64| config.get(key).and_then(Value::as_u64).unwrap_or(now);
        self.hidden = get("hidden_size", self.hidden);
        self.ff = get("intermediate_size", self.ff);
        self.blocks = get("num_hidden_layers", self.blocks);
        self.patch = get("patch_size", self.patch);
        // Configs of the 224 px towers leave the size out: 224 is transformers' default.
        self.image = get("image_size", 224);
    }
}

/// `config.json` of a folder; `None` where there is no folder or no such file in it.
fn config(folder: Option<&Path>) -> Result<Option<Value>> {
    let Some(path) = folder.map(|f| f.join("config.json")).filter(|p| p.is_file()) else { return Ok(None) };
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    serde_json::from_str(&text).map(Some).map_err(|e| Error::Config(format!("{}: {e}", path.display())))
}
