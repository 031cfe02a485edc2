//! What a model looks like: widths, counts and choices of LLaMA, CLIP and LLaVA, read from `config.json` and written back.
//!
//! Published configurations are sparse: a key that equals its class's default is left out, so the defaults of `transformers` stand here
//! beside the keys that they complete. A config made by hand gives a model of any size.

mod json;
mod read;

use serde_json::{Value, json};

pub use read::is_llava;

use super::projector::Projector;

/// How rotary positions were stretched after pre-training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// Positions divided by the factor.
    Linear(f64),
    /// Llama 3's: slow frequencies divided by `factor`, fast ones kept, a ramp between.
    Llama3 {
        /// Divides the slowest frequencies.
        factor: f64,
        /// Wavelengths above context/`low` are slow.
        low: f64,
        /// Wavelengths below context/`high` are fast.
        high: f64,
        /// Positions of pre-training.
        context: f64,
    },
}

/// A LLaMA's or Vicuna's sizes and choices.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// Rows of the embedding table and of the head.
    pub vocab: i64,
    /// Width of the residual stream.
    pub hidden: i64,
    /// Width of the MLP.
    pub ff: i64,
    /// Layers.
    pub layers: i64,
    /// Query heads.
    pub heads: i64,
    /// Key and value heads; divides `heads`.
    pub kv_heads: i64,
    /// Elements of a head; even.
    pub head_dim: i64,
    /// Positions that the model was made for.
    pub context: i64,
    /// Epsilon of the norms.
    pub eps: f64,
    /// Base of the rotary frequencies.
    pub rope_base: f64,
    /// Stretching of the positions.
    pub scaling: Scaling,
    /// Whether the logits are made with the embedding table.
    pub tied: bool,
    /// Begin, end and padding ids, as they are passed on to a saved config.
    pub ids: [Option<i64>; 3],
}

impl LlamaConfig {
    /// A model of this size with LLaMA's usual choices: heads of `hidden / heads`, untied, base 10000, epsilon 1e-5, ids 1, 2 and 0.
    pub fn new(vocab: i64, hidden: i64, ff: i64, layers: i64, heads: i64, context: i64) -> Self {
        Self {
            vocab,
            hidden,
            ff,
            layers,
            heads,
            kv_heads: heads,
            head_dim: hidden / heads,
            context,
            eps: 1e-5,
            rope_base: 10000.0,
            scaling: Scaling::None,
            tied: false,
            ids: [Some(1), Some(2), Some(0)],
        }
    }

    /// Vicuna 7B v1.5 (LLaMA 2): 6,738,415,616 parameters.
    pub fn vicuna_7b() -> Self {
        Self::new(32000, 4096, 11008, 32, 32, 4096)
    }

    /// Vicuna 13B v1.5 (LLaMA 2): 13,015,864,320 parameters.
    pub fn vicuna_13b() -> Self {
        Self::new(32000, 5120, 13824, 40, 40, 4096)
    }

    /// Parameters of one layer.
    pub fn layer_parameters(&self) -> i64 {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        self.hidden * (2 * q + 2 * kv + 3 * self.ff + 2)
    }

    /// Parameters of the whole; a tied table counts once.
    pub fn parameters(&self) -> i64 {
        let tables = if self.tied { 1 } else { 2 };
        tables * self.vocab * self.hidden + self.hidden + self.layers * self.layer_parameters()
    }

    /// Rotary frequencies, radians per position, one per pair of a head: `base^(−2i/head_dim)`, stretched.
    pub fn frequencies(&self) -> Vec<f64> {
        let d = self.head_dim as f64;
        (0..self.head_dim / 2).map(|i| self.stretched(self.rope_base.powf(-2.0 * i as f64 / d))).collect()
    }

    fn stretched(&self, f: f64) -> f64 {
        match self.scaling {
            Scaling::None => f,
            Scaling::Linear(factor) => f / factor,
            Scaling::Llama3 { factor, low, high, context } => {
                let turns = context * f / std::f64::consts::TAU;
                let fast = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                f * (fast + (1.0 - fast) / factor)
            }
        }
    }

    /// As a `LlamaConfig` of `transformers`, weights stored in `dtype`.
    pub fn to_json(&self, dtype: &str) -> Value {
        let scaling = match self.scaling {
            Scaling::None => Value::Null,
            Scaling::Linear(factor) => json!({"type": "linear", "rope_type": "linear", "factor": factor}),
            Scaling::Llama3 { factor, low, high, context } => json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
                "original_max_position_embeddings": context as i64,
            }),
        };
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "attention_bias": false,
            "mlp_bias": false, "use_cache": true, "initializer_range": 0.02, "vocab_size": self.vocab,
            "hidden_size": self.hidden, "intermediate_size": self.ff, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads, "head_dim": self.head_dim,
            "max_position_embeddings": self.context, "rms_norm_eps": self.eps, "rope_theta": self.rope_base,
            "rope_scaling": scaling, "tie_word_embeddings": self.tied, "bos_token_id": self.ids[0],
            "eos_token_id": self.ids[1], "pad_token_id": self.ids[2], "torch_dtype": dtype,
        })
    }
}

/// A CLIP vision tower's sizes and choices.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipConfig {
    /// Side of the square picture, pixels.
    pub image: i64,
    /// Side of a patch, pixels; divides `image`.
    pub patch: i64,
    /// Width of the residual stream, and of the features.
    pub hidden: i64,
    /// Width of the MLP.
    pub ff: i64,
    /// Blocks of the whole tower.
    pub layers: i64,
    /// Heads; divides `hidden`.
    pub heads: i64,
    /// Epsilon of the norms.
    pub eps: f64,
    /// Whether the MLP has GELU (exact) instead of CLIP's `x·sigmoid(1.702x)`.
    pub gelu: bool,
    /// Width of CLIP's own projection, which LLaVA does not use.
    pub projection: i64,
    /// What is subtracted from red, green and blue in 0–1, and by what they are then divided.
    pub colours: [[f32; 3]; 2],
}

impl ClipConfig {
    /// A tower of this size with CLIP's usual choices.
    pub fn new(image: i64, patch: i64, hidden: i64, ff: i64, layers: i64, heads: i64) -> Self {
        use pumice_models::config::{CLIP_MEAN, CLIP_STD};
        let colours = [CLIP_MEAN, CLIP_STD];
        Self {
            image,
            patch,
            hidden,
            ff,
            layers,
            heads,
            eps: 1e-5,
            gelu: false,
            projection: hidden.min(768),
            colours,
        }
    }

    /// OpenAI's ViT-L/14 for pictures of `image` pixels (224 or 336).
    pub fn large(image: i64) -> Self {
        Self::new(image, 14, 1024, 4096, 24, 16)
    }

    /// Patches of a picture.
    pub fn patches(&self) -> i64 {
        (self.image / self.patch).pow(2)
    }

    /// Parameters of the whole tower, the last norm included.
    pub fn parameters(&self) -> i64 {
        let (c, ff) = (self.hidden, self.ff);
        let block = 4 * (c * c + c) + 2 * c * ff + ff + c + 4 * c;
        c + 3 * c * self.patch.pow(2) + (1 + self.patches()) * c + 4 * c + self.layers * block
    }

    /// As a `CLIPVisionConfig` of `transformers`, weights stored in `dtype`.
    pub fn to_json(&self, dtype: &str) -> Value {
        json!({
            "architectures": ["CLIPVisionModel"], "model_type": "clip_vision_model",
            "hidden_act": if self.gelu { "gelu" } else { "quick_gelu" }, "layer_norm_eps": self.eps,
            "hidden_size": self.hidden, "intermediate_size": self.ff, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_channels": 3, "image_size": self.image, "patch_size": self.patch,
            "projection_dim": self.projection, "attention_dropout": 0.0, "initializer_factor": 1.0,
            "initializer_range": 0.02, "torch_dtype": dtype,
        })
    }
}

/// How pictures become rows of the text model.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    /// The tower.
    pub clip: ClipConfig,
    /// What maps its features to the text model's width.
    pub projector: Projector,
    /// Which of the tower's `layers + 1` hidden states is the feature; −2 is the output of the last block but one.
    pub select_layer: i64,
    /// Whether the class row stays (`cls_patch`); LLaVA drops it (`patch`).
    pub keep_class: bool,
    /// Whether pictures are padded to a square (v1.5) rather than cut to one.
    pub pad: bool,
    /// Whether `<im_start>` and `<im_end>` stand around a picture.
    pub im_start_end: bool,
    /// The tower's name or folder, for saved configs.
    pub tower: String,
    /// The runtime's name of the conversations it was trained on, where a training here noted it (`pumice_template`).
    pub template: Option<String>,
}

impl VisionConfig {
    /// LLaVA's choices for this tower and projector: the layer before the last, patches only.
    pub fn new(clip: ClipConfig, projector: Projector, pad: bool) -> Self {
        let tower = String::from("openai/clip-vit-large-patch14");
        Self {
            clip,
            projector,
            select_layer: -2,
            keep_class: false,
            pad,
            im_start_end: false,
            tower,
            template: None,
        }
    }

    /// Blocks that run before the feature is taken; `None` where `select_layer` leaves the tower.
    pub fn blocks(&self) -> Option<i64> {
        let last = self.clip.layers;
        let at = if self.select_layer < 0 { self.select_layer + last + 1 } else { self.select_layer };
        (0..=last).contains(&at).then_some(at)
    }

    /// Rows that a picture becomes.
    pub fn tokens(&self) -> i64 {
        self.clip.patches() + i64::from(self.keep_class)
    }
}

/// A LLaVA; without vision, a text model alone.
#[derive(Clone, Debug, PartialEq)]
pub struct LlavaConfig {
    /// The text model.
    pub text: LlamaConfig,
    /// Tower and projector.
    pub vision: Option<VisionConfig>,
    /// The id that stands for `<image>` in llava-hf checkpoints.
    pub image_id: Option<i64>,
}
