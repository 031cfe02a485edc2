//! The vision tower's half of a configuration.

use pumice_models::config::{CLIP_MEAN, CLIP_STD};

use super::{Json, JsonFile};
use crate::Result;

/// What absent keys mean, which depends on the class that wrote the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Defaults {
    /// `CLIPVisionConfig`'s: ViT-B/32.
    Clip,
    /// `LlavaConfig`'s, where there is no `vision_config` at all: ViT-L/14 at 336 pixels.
    Llava,
}

/// Shape and constants of the vision tower.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Vision {
    /// Width of the residual stream.
    pub width: usize,
    pub ff: usize,
    /// Blocks that the tower has, of which LLaVA runs all but the last.
    pub blocks: usize,
    pub heads: usize,
    /// Pixels of the picture's side.
    pub image: usize,
    /// Pixels of a patch's side.
    pub patch: usize,
    /// Width of CLIP's own projection, which LLaVA does not use but llama.cpp asks for.
    pub projection: usize,
    pub eps: f64,
    /// Whether the MLP has GELU instead of CLIP's quick GELU.
    pub gelu: bool,
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

impl Vision {
    /// Reads `json`, a `CLIPVisionConfig`, with the mean and deviation of the image processor's configuration.
    ///
    /// # Errors
    /// Another tower, or a value that makes no sense.
    pub fn read(json: Json<'_>, defaults: Defaults, processor: Option<&JsonFile>) -> Result<Self> {
        let model_type = json.text("model_type")?.unwrap_or("clip_vision_model");
        if !["clip_vision_model", "clip"].contains(&model_type) {
            return Err(json.error(
                "model_type",
                format!("{model_type} is not supported; LLaVA's vision tower is CLIP"),
            ));
        }
        let act = json.text("hidden_act")?.unwrap_or("quick_gelu");
        if !["quick_gelu", "gelu"].contains(&act) {
            return Err(json.error("hidden_act", format!("{act} is neither quick_gelu nor gelu")));
        }
        let channels = json.count("num_channels", 3)?;
        if channels != 3 {
            return Err(json.error("num_channels", format!("{channels} channels, not red, green and blue")));
        }
        let large = defaults == Defaults::Llava;
        let or = |clip, llava| if large { llava } else { clip };
        let vision = Self {
            width: json.count("hidden_size", or(768, 1024))?,
            ff: json.count("intermediate_size", or(3072, 4096))?,
            blocks: json.count("num_hidden_layers", or(12, 24))?,
            heads: json.count("num_attention_heads", or(12, 16))?,
            image: json.count("image_size", or(224, 336))?,
            patch: json.count("patch_size", or(32, 14))?,
            projection: json.count("projection_dim", or(512, 768))?,
            eps: json.number("layer_norm_eps", 1e-5)?,
            gelu: act == "gelu",
            mean: three(processor, "image_mean")?.unwrap_or(CLIP_MEAN),
            std: three(processor, "image_std")?.unwrap_or(CLIP_STD),
        };
        if !vision.width.is_multiple_of(vision.heads) {
            return Err(json.error(
                "num_attention_heads",
                format!("{} does not divide hidden_size {}", vision.heads, vision.width),
            ));
        }
        if !vision.image.is_multiple_of(vision.patch) {
            return Err(json.error(
                "patch_size",
                format!("{} does not divide image_size {}", vision.patch, vision.image),
            ));
        }
        Ok(vision)
    }

    /// The tower of CLIP ViT-L/14 at another size: for checkpoints that bundle a tower and describe it nowhere. Shapes
    /// come from the tensors: `patch_embd` [width, 3, patch, patch], `position_embd` [1 + (image/patch)², width],
    /// `fc1` [ff, width]. `None` where these make no square picture.
    pub fn from_shapes(
        patch_embd: &[usize],
        positions: usize,
        ff: usize,
        blocks: usize,
        processor: Option<&JsonFile>,
    ) -> Result<Option<Self>> {
        /// Width of a head in every CLIP.
        const HEAD: usize = 64;
        let &[width, 3, patch, _] = patch_embd else { return Ok(None) };
        let side = positions.saturating_sub(1).isqrt();
        if side == 0 || side * side + 1 != positions || !width.is_multiple_of(HEAD) {
            return Ok(None);
        }
        Ok(Some(Self {
            width,
            ff,
            blocks,
            heads: width / HEAD,
            image: side * patch,
            patch,
            projection: 768,
            eps: 1e-5,
            gelu: false,
            mean: three(processor, "image_mean")?.unwrap_or(CLIP_MEAN),
            std: three(processor, "image_std")?.unwrap_or(CLIP_STD),
        }))
    }

    /// Patches of a picture.
    pub fn patches(&self) -> usize {
        (self.image / self.patch).pow(2)
    }
}

/// Three positive numbers under `key`; also inside `image_processor`, where transformers 5 puts them.
fn three(processor: Option<&JsonFile>, key: &str) -> Result<Option<[f32; 3]>> {
    let Some(file) = processor else { return Ok(None) };
    let top = file.top();
    let Some(value) = top.get(key).or_else(|| top.value["image_processor"].get(key)) else { return Ok(None) };
    let numbers: Vec<f32> =
        value.as_array().into_iter().flatten().filter_map(|v| v.as_f64()).map(|v| v as f32).collect();
    match numbers[..] {
        [r, g, b] if numbers.iter().all(|v| v.is_finite() && *v > 0.0) => Ok(Some([r, g, b])),
        _ => Err(top.error(key, format!("{value} is not three numbers above 0"))),
    }
}
