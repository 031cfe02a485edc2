//! Reads the configurations from `config.json`, of Hugging Face's port of LLaVA, of the authors' layout, of LLaMA and of CLIP.

use std::path::Path;

use pumice_models::Error;
use serde_json::Value;

use super::{ClipConfig, LlamaConfig, LlavaConfig, Scaling, VisionConfig, json::Json};
use crate::model::projector::Projector;

type Result<T> = std::result::Result<T, Error>;

/// Whether `config` is a LLaVA's: of Hugging Face's port (`text_config`, `vision_config`) or the authors' (`mm_*`).
pub fn is_llava(config: &Value) -> bool {
    config["model_type"].as_str().is_some_and(|t| t.starts_with("llava"))
        || config["mm_vision_tower"].is_string()
}

impl LlamaConfig {
    /// Reads `value` of the file `path`; the half `text_config` where it is a llava-hf's.
    ///
    /// # Errors
    /// It is of another architecture, or a value makes no sense.
    pub fn from_json(path: &Path, value: &Value) -> Result<Self> {
        let top = Json { path, value };
        // Not the `tie_word_embeddings` at the top of a llava-hf: older versions wrote true there and meant nothing by it.
        let json = top.inner("text_config").unwrap_or(top);
        json.one_of("model_type", &["llama", "llava", "llava_llama", "llava_mistral", "mistral", "vicuna"])?;
        json.one_of("hidden_act", &["silu"])?;
        for bias in ["attention_bias", "mlp_bias"] {
            if json.flag(bias, false)? {
                return Err(json.error(bias, "is true; Pumice trains LLaMA and Vicuna, which have no biases"));
            }
        }
        let (hidden, heads) = (json.count("hidden_size", 4096)?, json.count("num_attention_heads", 32)?);
        let kv_heads = json.count("num_key_value_heads", heads)?;
        if heads % kv_heads != 0 {
            return Err(
                json.error("num_key_value_heads", format!("{kv_heads} does not divide {heads} heads"))
            );
        }
        let head_dim = json.count("head_dim", hidden / heads)?;
        if head_dim % 2 != 0 || (json.get("head_dim").is_none() && hidden % heads != 0) {
            let what = format!("{heads} heads do not divide hidden_size {hidden} into even parts");
            return Err(json.error("num_attention_heads", what));
        }
        let context = json.count("max_position_embeddings", 2048)?;
        let (rope_base, scaling) = rope(json, context)?;
        let id = |key: &str| json.id(key).or_else(|| top.id(key));
        Ok(Self {
            vocab: json.count("vocab_size", 32000)?,
            hidden,
            ff: json.count("intermediate_size", 11008)?,
            layers: json.count("num_hidden_layers", 32)?,
            heads,
            kv_heads,
            head_dim,
            context,
            eps: json.number("rms_norm_eps", 1e-6)?,
            rope_base,
            scaling,
            tied: json.flag("tie_word_embeddings", false)?,
            ids: [id("bos_token_id").or(Some(1)), id("eos_token_id").or(Some(2)), id("pad_token_id")],
        })
    }
}

/// Base and scaling, from `rope_theta` and `rope_scaling`, or from `rope_parameters`, which transformers 5 made of both.
fn rope(json: Json<'_>, max_context: i64) -> Result<(f64, Scaling)> {
    let base = json.number("rope_theta", 10000.0)?;
    let Some(rope) = json.inner("rope_parameters").or_else(|| json.inner("rope_scaling")) else {
        return Ok((base, Scaling::None));
    };
    let base = rope.number("rope_theta", base)?;
    let scaling = match rope.text("rope_type", rope.text("type", "default")?)? {
        "default" => Scaling::None,
        "linear" => Scaling::Linear(rope.number("factor", 1.0)?),
        "llama3" => Scaling::Llama3 {
            factor: rope.number("factor", 8.0)?,
            low: rope.number("low_freq_factor", 1.0)?,
            high: rope.number("high_freq_factor", 4.0)?,
            context: rope.number("original_max_position_embeddings", max_context as f64)?,
        },
        other => {
            return Err(rope.error("rope_type", format!("is {other:?}; known are default, linear, llama3")));
        }
    };
    Ok((base, scaling))
}

impl ClipConfig {
    /// Reads `value` of the file `path`, a CLIP's (its `vision_config`) or its vision half's. `processor` is the image processor's file.
    ///
    /// # Errors
    /// It is another tower, or a value makes no sense.
    pub fn from_json(path: &Path, value: &Value, processor: Option<&Value>) -> Result<Self> {
        let top = Json { path, value };
        Self::read(top.inner("vision_config").unwrap_or(top), [768, 3072, 12, 12, 224, 32, 512], processor)
    }

    /// `or`: defaults of width, MLP, blocks, heads, picture, patch and projection.
    fn read(json: Json<'_>, or: [i64; 7], processor: Option<&Value>) -> Result<Self> {
        json.one_of("model_type", &["clip_vision_model", "clip"])?;
        let gelu = json.one_of("hidden_act", &["quick_gelu", "gelu"])? == "gelu";
        if json.count("num_channels", 3)? != 3 {
            return Err(json.error("num_channels", "is not 3: pictures are red, green and blue"));
        }
        let mut clip = Self::new(
            json.count("image_size", or[4])?,
            json.count("patch_size", or[5])?,
            json.count("hidden_size", or[0])?,
            json.count("intermediate_size", or[1])?,
            json.count("num_hidden_layers", or[2])?,
            json.count("num_attention_heads", or[3])?,
        );
        clip.projection = json.count("projection_dim", or[6])?;
        (clip.eps, clip.gelu) = (json.number("layer_norm_eps", 1e-5)?, gelu);
        if clip.hidden % clip.heads != 0 {
            let what = format!("{} heads do not divide hidden_size {}", clip.heads, clip.hidden);
            return Err(json.error("num_attention_heads", what));
        }
        if clip.image % clip.patch != 0 {
            let what = format!("{} does not divide image_size {}", clip.patch, clip.image);
            return Err(json.error("patch_size", what));
        }
        for (key, colour) in ["image_mean", "image_std"].into_iter().zip(&mut clip.colours) {
            if let Some(found) = processor.and_then(|p| three(p, key)) {
                *colour = found;
            }
        }
        Ok(clip)
    }
}

/// Three numbers under `key`; also inside `image_processor`, where transformers 5 puts them.
fn three(processor: &Value, key: &str) -> Option<[f32; 3]> {
    let value = processor.get(key).or_else(|| processor["image_processor"].get(key))?;
    let numbers: Vec<f32> = value.as_array()?.iter().filter_map(Value::as_f64).map(|v| v as f32).collect();
    numbers.try_into().ok()
}

impl LlavaConfig {
    /// A text model's config alone.
    ///
    /// # Errors
    /// As [`LlamaConfig::from_json`].
    pub fn text_only(path: &Path, value: &Value) -> Result<Self> {
        Ok(Self { text: LlamaConfig::from_json(path, value)?, vision: None, image_id: None })
    }

    /// Reads a LLaVA's `config.json`. `tower` is the config of the tower's folder, path and value, where the tower lies apart.
    ///
    /// # Errors
    /// It is a LLaVA of later kind, the tower's sizes stand nowhere, or a value makes no sense.
    pub fn from_json(
        path: &Path,
        value: &Value,
        tower: Option<(&Path, &Value)>,
        processor: Option<&Value>,
    ) -> Result<Self> {
        let json = Json { path, value };
        json.one_of("model_type", &["llava", "llava_llama", "llava_mistral"])?;
        let text = LlamaConfig::from_json(path, value)?;
        let has = |key: &str| json.get(key).is_some();
        // The authors' layout has a `vision_config` too where it holds the tower.
        let ported = has("text_config") || (has("vision_config") && !has("mm_vision_tower"));
        let clip = match (tower, ported) {
            (Some((path, value)), _) => ClipConfig::from_json(path, value, processor)?,
            (None, true) => {
                let large = [1024, 4096, 24, 16, 336, 14, 768];
                match json.inner("vision_config") {
                    Some(_) => ClipConfig::from_json(path, value, processor)?,
                    None => ClipConfig::read(Json { path, value: &Value::Null }, large, processor)?,
                }
            }
            (None, false) => {
                let what = "names a tower whose folder is not known; give it with --vision-tower FOLDER";
                return Err(json.error("mm_vision_tower", what));
            }
        };
        let (mut vision, image_id) = if ported {
            let pad = processor.and_then(|p| p["do_pad"].as_bool()).unwrap_or(true);
            (ported_vision(json, clip, pad)?, json.id("image_token_index").or(json.id("image_token_id")))
        } else {
            (authors_vision(json, clip)?, None)
        };
        vision.template = json.get("pumice_template").and_then(Value::as_str).map(str::to_owned);
        if vision.blocks().is_none() {
            let what = format!("{} is beyond the tower's {} blocks", vision.select_layer, vision.clip.layers);
            return Err(json.error("mm_vision_select_layer", what));
        }
        Ok(Self { text, vision: Some(vision), image_id })
    }
}

/// `pad`: LLaVA 1.5 was trained on padded pictures, though published image processors of the port cut them and do not say so.
fn ported_vision(json: Json<'_>, clip: ClipConfig, pad: bool) -> Result<VisionConfig> {
    json.one_of("projector_hidden_act", &["gelu"])?;
    let strategy = json.one_of("vision_feature_select_strategy", &["default", "full"])?;
    let mut vision = VisionConfig::new(clip, Projector::Mlp(2), pad);
    vision.select_layer = json.id("vision_feature_layer").unwrap_or(-2);
    vision.keep_class = strategy == "full";
    Ok(vision)
}

fn authors_vision(json: Json<'_>, clip: ClipConfig) -> Result<VisionConfig> {
    let kind = json.text("mm_projector_type", "linear")?;
    let projector = kind.parse().map_err(|what: String| json.error("mm_projector_type", what))?;
    let feature = json.one_of("mm_vision_select_feature", &["patch", "cls_patch"])?;
    let aspect = json.one_of("image_aspect_ratio", &["pad", "square"])?;
    let mut vision = VisionConfig::new(clip, projector, aspect == "pad");
    vision.select_layer = json.id("mm_vision_select_layer").unwrap_or(-2);
    vision.keep_class = feature == "cls_patch";
    vision.im_start_end = json.flag("mm_use_im_start_end", false)?;
    vision.tower = json.text("mm_vision_tower", "openai/clip-vit-large-patch14")?.into();
    Ok(vision)
}
