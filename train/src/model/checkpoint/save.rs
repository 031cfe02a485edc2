//! Writes models as the folders that others load: llava-hf's layout, the authors', a text model, a tower, a projector.
//!
//! A folder is made under a temporary name beside its place, flushed to the disk and renamed when it is whole, so that no reader and no crash meets half of one.
//! Weights go out one at a time, converted on the way; a shard holds at most 5 GB, as `save_pretrained`'s do.

mod files;
mod tensors;
mod torch;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tch::{Kind, Tensor};

pub(crate) use files::{Place, sync, tokenizer as copy_tokenizer, write_json};
pub use tensors::write_tensors;
pub use torch::write_torch;

use super::names::to_llava_hf;
use crate::{
    Error, Result,
    model::{ClipConfig, Llava, LlavaConfig, VisionConfig},
    unit::Unit,
};
use tensors::dtype_name;

/// How to save.
#[derive(Clone, Debug)]
pub struct Saved {
    /// The kind of the weights in the files: f32, bf16 or f16.
    pub kind: Kind,
    /// The folder whose tokenizer files are copied.
    pub tokenizer: Option<PathBuf>,
    /// Whether the authors' layout holds the tower, which is then described by `vision_config`; the authors leave it out.
    pub tower: bool,
}

impl Default for Saved {
    fn default() -> Self {
        Self { kind: Kind::Half, tokenizer: None, tower: false }
    }
}

/// Names and tensors of units.
pub(crate) fn tensors_of<'a>(units: impl IntoIterator<Item = &'a Unit>) -> Vec<(String, Tensor)> {
    let pairs = |unit: &'a Unit| {
        unit.slots.iter().zip(&unit.leaves).map(|(s, t)| (s.name.clone(), t.shallow_clone()))
    };
    units.into_iter().flat_map(pairs).collect()
}

/// Saves a LLaVA as `transformers`' `LlavaForConditionalGeneration`: with a row of the vocabulary for `<image>` and one for padding, and rows up
/// to a multiple of 64, where the model has none yet.
///
/// # Errors
/// The model has no tower or not the projector of two layers that `transformers` knows, or the files cannot be written.
pub fn save_llava_hf(model: &Llava, folder: &Path, saved: &Saved) -> Result<()> {
    let vision = model.vision()?;
    if vision.projector.layers(1, 1).len() != 2 {
        return Err(Error::Config(format!(
            "transformers' LLaVA has the projector mlp2x_gelu, this model {}; save it in the authors' layout",
            vision.projector
        )));
    }
    let place = Place::new(folder)?;
    let vocab = model.config.text.vocab;
    let image_id = model.config.image_id.filter(|id| *id < vocab).unwrap_or(vocab);
    let rows = if image_id + 1 < vocab { vocab } else { (image_id + 2 + 63) / 64 * 64 };
    let mut list = tensors_of(model.units());
    for (name, tensor) in &mut list {
        if name.ends_with("embed_tokens.weight") || name == "lm_head.weight" {
            *tensor = pad_rows(tensor, rows);
        }
        *name = to_llava_hf(name);
    }
    let dtype = dtype_name(saved.kind);
    let mut text = model.config.text.clone();
    text.vocab = rows;
    let mut config = json!({
        "architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "torch_dtype": dtype,
        "image_token_index": image_id, "image_seq_length": vision.tokens(), "projector_hidden_act": "gelu",
        "multimodal_projector_bias": true, "vision_feature_layer": vision.select_layer,
        "vision_feature_select_strategy": if vision.keep_class { "full" } else { "default" },
        "tie_word_embeddings": text.tied, "pad_token_id": image_id + 1, "text_config": text.to_json(dtype),
        "vision_config": vision.clip.to_json(dtype), "image_aspect_ratio": aspect(vision),
    });
    note_template(&mut config, vision);
    write_json(&place.path("config.json"), &config)?;
    generation(model, &place, Some(image_id + 1))?;
    write_json(&place.path("preprocessor_config.json"), &preprocessor(&vision.clip, vision.pad))?;
    let processor = json!({
        "processor_class": "LlavaProcessor", "patch_size": vision.clip.patch, "image_token": "<image>",
        "vision_feature_select_strategy": if vision.keep_class { "full" } else { "default" },
        // The class row, which the processor counts and then takes off again where the strategy drops it.
        "num_additional_image_tokens": 1,
    });
    write_json(&place.path("processor_config.json"), &processor)?;
    copy_tokenizer(saved.tokenizer.as_deref(), &place, &[("<image>", image_id), ("<pad>", image_id + 1)])?;
    tensors::write_sharded(&place, list, saved.kind)?;
    place.finish()
}

/// `tensor [vocab, d]` with rows up to `rows`, the new ones the mean of the old: likely as none of the words, and of their size.
fn pad_rows(tensor: &Tensor, rows: i64) -> Tensor {
    let size = tensor.size();
    if size[0] >= rows {
        return tensor.shallow_clone();
    }
    tch::no_grad(|| {
        let mean = tensor.to_kind(Kind::Float).mean_dim(0, true, Kind::Float).to_kind(tensor.kind());
        Tensor::cat(&[tensor, &mean.expand([rows - size[0], size[1]], false)], 0)
    })
}

/// Saves a LLaVA as the authors' `LlavaLlamaForCausalLM`: `model.mm_projector.*`, keys `mm_*`, and the tower only where `saved` asks for it.
///
/// # Errors
/// The model has no tower, or the files cannot be written.
pub fn save_authors(model: &Llava, folder: &Path, saved: &Saved) -> Result<()> {
    let vision = model.vision()?;
    let place = Place::new(folder)?;
    let mut config = authors_config(&model.config, saved.kind);
    if saved.tower {
        config["vision_config"] = vision.clip.to_json(dtype_name(saved.kind));
        write_json(&place.path("preprocessor_config.json"), &preprocessor(&vision.clip, vision.pad))?;
    }
    write_json(&place.path("config.json"), &config)?;
    generation(model, &place, None)?;
    copy_tokenizer(saved.tokenizer.as_deref(), &place, &[])?;
    let mut list = tensors_of(model.units());
    list.retain(|(name, _)| saved.tower || !name.starts_with("vision_model."));
    for (name, _) in &mut list {
        if name.starts_with("vision_model.") {
            *name = format!("model.vision_tower.vision_tower.{name}");
        }
    }
    tensors::write_sharded(&place, list, saved.kind)?;
    place.finish()
}

/// A config as the authors' code asks for it: the text model's keys, and its own where there is a tower.
pub(crate) fn authors_config(model: &LlavaConfig, kind: Kind) -> Value {
    let mut config = model.text.to_json(dtype_name(kind));
    let Some(vision) = &model.vision else { return config };
    let keys = json!({
        "architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava_llama", "mm_vision_tower": vision.tower,
        "mm_hidden_size": vision.clip.hidden, "mm_projector_type": vision.projector.to_string(),
        "mm_vision_select_layer": vision.select_layer,
        "mm_vision_select_feature": if vision.keep_class { "cls_patch" } else { "patch" },
        "mm_use_im_start_end": vision.im_start_end, "mm_use_im_patch_token": false, "use_mm_proj": true,
        "tune_mm_mlp_adapter": false, "freeze_mm_mlp_adapter": false,
        "image_aspect_ratio": aspect(vision), "tokenizer_padding_side": "right",
    });
    for (key, value) in keys.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    note_template(&mut config, vision);
    config
}

fn aspect(vision: &VisionConfig) -> &'static str {
    if vision.pad { "pad" } else { "square" }
}

/// A key of our own, which others pass over: `quantize` would else guess the conversations from the folder's name.
fn note_template(config: &mut Value, vision: &VisionConfig) {
    if let Some(template) = &vision.template {
        config["pumice_template"] = json!(template);
    }
}

/// Saves the text model alone as `transformers`' `LlamaForCausalLM`.
///
/// # Errors
/// The files cannot be written.
pub fn save_llama(model: &Llava, folder: &Path, saved: &Saved) -> Result<()> {
    let place = Place::new(folder)?;
    write_json(&place.path("config.json"), &model.config.text.to_json(dtype_name(saved.kind)))?;
    generation(model, &place, None)?;
    copy_tokenizer(saved.tokenizer.as_deref(), &place, &[])?;
    let units = [&model.embed].into_iter().chain(&model.layers).chain([&model.head]);
    tensors::write_sharded(&place, tensors_of(units), saved.kind)?;
    place.finish()
}

/// Saves a tower alone as `transformers`' `CLIPVisionModel`, with its image processor. `pad` as in [`crate::model::VisionConfig`].
///
/// # Errors
/// The files cannot be written.
pub fn save_clip(cfg: &ClipConfig, unit: &Unit, pad: bool, folder: &Path, kind: Kind) -> Result<()> {
    let place = Place::new(folder)?;
    write_json(&place.path("config.json"), &cfg.to_json(dtype_name(kind)))?;
    write_json(&place.path("preprocessor_config.json"), &preprocessor(cfg, pad))?;
    tensors::write_sharded(&place, tensors_of([unit]), kind)?;
    place.finish()
}

/// Saves the projector alone, under the authors' names, as a safetensors file.
///
/// # Errors
/// The file cannot be written.
pub fn save_projector(model: &Llava, file: &Path, kind: Kind) -> Result<()> {
    write_tensors(file, tensors_of([&model.projector]), kind)
}

/// Writes `generation_config.json`; `pad` replaces the text model's padding id.
fn generation(model: &Llava, place: &Place, pad: Option<i64>) -> Result<()> {
    let [bos, eos, own] = model.config.text.ids;
    let value =
        json!({"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad.or(own), "do_sample": false});
    write_json(&place.path("generation_config.json"), &value)
}

/// The image processor of a tower. `CLIPImageProcessor` cuts a picture to a square; to pad it first, `transformers` has another.
fn preprocessor(clip: &ClipConfig, pad: bool) -> Value {
    let side = clip.image;
    // As decimals: f32's own digits would widen to others in f64.
    let numbers = |c: [f32; 3]| c.map(|v| v.to_string().parse::<f64>().unwrap_or_else(|_| v.into()));
    json!({
        "image_processor_type": if pad { "LlavaImageProcessor" } else { "CLIPImageProcessor" }, "do_resize": true, "size": {"shortest_edge": side}, "resample": 3,
        "do_center_crop": true, "crop_size": {"height": side, "width": side}, "do_rescale": true,
        "rescale_factor": 1.0 / 255.0, "do_normalize": true, "image_mean": numbers(clip.colours[0]),
        "image_std": numbers(clip.colours[1]), "do_convert_rgb": true, "do_pad": pad,
    })
}
