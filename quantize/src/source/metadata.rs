//! The metadata of a model that came from a checkpoint, under GGUF's keys.
//!
//! Text keys are those that llama.cpp's converter writes; vision keys those of its mmproj files of 2023, which today's
//! still load, with the feature's layer said in full. What llama.cpp has no key for stands under `pumice.`.

use pumice_models::{
    gguf::Value,
    names::keys::{self, *},
};

use super::{
    Source, SourceOptions,
    config::{Llava, Scaling, Text, Vision},
};

/// Keys and values in the order of writing.
pub(crate) type Keys = Vec<(String, Value)>;

fn u32_key(key: &str, value: usize) -> (String, Value) {
    // Counts are bounded by 2²⁰ when configurations are read.
    (key.into(), Value::U32(value as u32))
}

/// `llama.*`, for a vocabulary of `rows` tokens.
pub(crate) fn text_keys(text: &Text, rows: usize) -> Keys {
    let mut out = vec![
        u32_key(BLOCK_COUNT, text.blocks),
        u32_key(CONTEXT_LENGTH, text.context),
        u32_key(EMBEDDING_LENGTH, text.hidden),
        u32_key(FEED_FORWARD_LENGTH, text.ff),
        u32_key(HEAD_COUNT, text.heads),
        u32_key(HEAD_COUNT_KV, text.kv_heads),
        (RMS_EPS.into(), Value::F32(text.rms_eps as f32)),
        u32_key(ROPE_DIMS, text.head_dim),
        (ROPE_BASE.into(), Value::F32(text.rope_base as f32)),
        u32_key(VOCAB_SIZE, rows),
    ];
    if text.head_dim * text.heads != text.hidden {
        out.push(u32_key(KEY_LENGTH, text.head_dim));
        out.push(u32_key(VALUE_LENGTH, text.head_dim));
    }
    if let Scaling::Linear(factor) = text.scaling {
        out.push((ROPE_SCALING_TYPE.into(), Value::String("linear".into())));
        out.push((ROPE_SCALING_FACTOR.into(), Value::F32(factor as f32)));
    }
    out
}

/// `clip.*` and `pumice.*`, for the `run` blocks that are stored and a projector of the kind `projector`.
pub(crate) fn vision_keys(vision: &Vision, run: usize, llava: &Llava, projector: &str, name: &str) -> Keys {
    let text = |key: &str, value: &str| (key.to_owned(), Value::String(value.into()));
    let flag = |key: &str, value| (key.to_owned(), Value::Bool(value));
    vec![
        flag("clip.has_text_encoder", false),
        flag(HAS_VISION, true),
        flag(HAS_LLAVA_PROJECTOR, true),
        text(CLIP_PROJECTOR_TYPE, "mlp"),
        u32_key(IMAGE_SIZE, vision.image),
        u32_key(PATCH_SIZE, vision.patch),
        u32_key(V_EMBEDDING_LENGTH, vision.width),
        u32_key(V_FEED_FORWARD_LENGTH, vision.ff),
        u32_key(V_PROJECTION_DIM, vision.projection),
        u32_key(V_BLOCK_COUNT, run),
        u32_key(V_HEAD_COUNT, vision.heads),
        (V_NORM_EPS.into(), Value::F32(vision.eps as f32)),
        (IMAGE_MEAN.into(), vision.mean.to_vec().into()),
        (IMAGE_STD.into(), vision.std.to_vec().into()),
        // llama.cpp reads i32 only, and runs one block too few where the key is absent.
        (FEATURE_LAYER.into(), vec![run as i32].into()),
        flag(USE_GELU, vision.gelu),
        flag(USE_SILU, false),
        text(keys::PROJECTOR_TYPE, projector),
        text(SELECT_FEATURE, llava.select_feature),
        text(IMAGE_ASPECT_RATIO, aspect(llava)),
        text(TEMPLATE, llava.template.as_deref().unwrap_or(template(name, llava.ported, projector))),
        flag(USE_IM_START_END, llava.im_start_end),
    ]
}

/// LLaVA-1.5 was trained with pictures padded to squares; Hugging Face's port of it forgot to say so.
fn aspect(llava: &Llava) -> &'static str {
    llava.aspect.unwrap_or(if llava.ported { "pad" } else { "square" })
}

/// The conversation template by the model's name, as the authors' own programs choose it (`cli.py`). Where the name
/// says nothing, LLaVA-1.5's MLP tells it from the first LLaVA.
pub(super) fn template(name: &str, ported: bool, projector: &str) -> &'static str {
    let name = name.to_ascii_lowercase();
    let has = |part: &str| name.contains(part);
    if has("llama-2") || has("llama_2") || has("llama2") {
        "llava_llama_2"
    } else if has("v1") || has("1.5") || has("1-5") {
        "llava_v1"
    } else if has("v0") {
        "llava_v0"
    } else if ported || projector.starts_with("mlp") {
        "llava_v1"
    } else {
        "llava_v0"
    }
}

/// Puts what a person chose in the place of what was derived.
pub(super) fn override_choices(source: &mut Source, options: &SourceOptions) {
    if source.vision.is_empty() {
        if options.template.is_some() || options.image_aspect_ratio.is_some() {
            source
                .notes
                .push("there is no vision part, so template and image aspect ratio are not written".into());
        }
        return;
    }
    for (key, choice) in [(TEMPLATE, &options.template), (IMAGE_ASPECT_RATIO, &options.image_aspect_ratio)] {
        let Some(choice) = choice else { continue };
        let value = Value::String(choice.clone());
        match source.vision.iter_mut().find(|(k, _)| k == key) {
            Some((_, v)) => *v = value,
            None => source.vision.push((key.into(), value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::template;

    #[test]
    fn templates_are_those_of_the_authors_programs() {
        assert_eq!(template("llava-v1.5-7b", false, "mlp2x_gelu"), "llava_v1");
        assert_eq!(template("llava-hf/llava-1.5-7b-hf", true, "mlp2x_gelu"), "llava_v1");
        assert_eq!(template("LLaVA-Lightning-7B-v1-1", false, "linear"), "llava_v1");
        assert_eq!(template("llava-llama-2-13b-chat-lightning-preview", false, "linear"), "llava_llama_2");
        assert_eq!(template("LLaVA-13b-delta-v0", false, "linear"), "llava_v0");
        assert_eq!(template("my-finetune", false, "mlp2x_gelu"), "llava_v1");
        assert_eq!(template("my-finetune", false, "linear"), "llava_v0");
    }
}
