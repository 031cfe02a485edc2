//! Names of tensors in PyTorch checkpoints, mapped to GGUF's.
//!
//! Every tool that saved a LLaVA put its own prefix in front (`model.`, `language_model.model.`,
//! `base_model.model.model.`, `model.vision_tower.vision_tower.vision_model.` …), and newer versions reorder them. What
//! follows the prefixes never changed, so a name is recognised by its end: the part after `vision_tower.` is CLIP's, the
//! part after `mm_projector.` or `multi_modal_projector.` the projector's, the rest LLaMA's.

use pumice_models::names;

/// How rows of a projection are reordered on the way to GGUF: attention there rotates adjacent pairs, where Hugging Face
/// rotates halves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rope {
    /// Not rotated.
    None,
    /// Queries: as many heads as the model has.
    Query,
    /// Keys: as many heads as the model has for keys.
    Key,
}

/// Where a checkpoint's tensor goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    /// To the tensor of this GGUF name.
    To {
        /// GGUF name.
        name: String,
        /// Reordering of its rows.
        rope: Rope,
    },
    /// Nowhere: LLaVA does not use it, or it is computed.
    Ignored,
    /// Part of a newer LLaVA that cuts pictures into tiles.
    Tiles,
    /// Of another architecture.
    Unknown,
}

impl Key {
    fn to(name: impl Into<String>) -> Self {
        Key::To { name: name.into(), rope: Rope::None }
    }
}

/// Prefixes that may stand before LLaMA's own names, in any order and number.
const TEXT_PREFIXES: [&str; 3] = ["base_model.", "language_model.", "model."];

/// Where the tensor `key` goes.
pub(crate) fn map(key: &str) -> Key {
    // Buffers: rotary frequencies and position numbers are computed, never read.
    if key.ends_with("rotary_emb.inv_freq") || key.ends_with("position_ids") {
        return Key::Ignored;
    }
    if key.ends_with("image_newline") {
        return Key::Tiles;
    }
    for marker in ["mm_projector.", "multi_modal_projector."] {
        if let Some(at) = key.find(marker) {
            return projector(&key[at + marker.len()..]);
        }
    }
    if let Some(at) = key.rfind("vision_tower.") {
        return vision(&key[at + "vision_tower.".len()..]);
    }
    let mut rest = key;
    while let Some(shorter) = TEXT_PREFIXES.iter().find_map(|p| rest.strip_prefix(p)) {
        rest = shorter;
    }
    text(rest)
}

/// Where the tensor `key` of a vision tower's folder goes: a CLIP's, whose text half is ignored, or a LLaVA's whose
/// tower is to be used with another text model.
pub(crate) fn map_clip(key: &str) -> Key {
    if let Some((_, rest)) = key.rsplit_once("vision_tower.") {
        return vision(rest);
    }
    let others = [
        "text_model.",
        "text_projection.",
        "visual_projection.",
        "language_model.",
        "multi_modal_projector.",
    ];
    let other = others.iter().any(|p| key.strip_prefix("model.").unwrap_or(key).starts_with(p));
    if other || key == "logit_scale" || key.ends_with("position_ids") {
        return Key::Ignored;
    }
    vision(key)
}

fn text(rest: &str) -> Key {
    match rest {
        "embed_tokens.weight" => return Key::to(names::TOKEN_EMBD),
        "norm.weight" => return Key::to(names::OUTPUT_NORM),
        "lm_head.weight" => return Key::to(names::OUTPUT),
        _ => {}
    }
    let Some((block, part, suffix)) = block(rest, "layers.") else { return Key::Unknown };
    let (part, rope) = match part {
        "self_attn.q_proj" => (names::ATTN_Q, Rope::Query),
        "self_attn.k_proj" => (names::ATTN_K, Rope::Key),
        "self_attn.v_proj" => (names::ATTN_V, Rope::None),
        "self_attn.o_proj" => (names::ATTN_OUTPUT, Rope::None),
        "mlp.gate_proj" => (names::FFN_GATE, Rope::None),
        "mlp.up_proj" => (names::FFN_UP, Rope::None),
        "mlp.down_proj" => (names::FFN_DOWN, Rope::None),
        "input_layernorm" => (names::ATTN_NORM, Rope::None),
        "post_attention_layernorm" => (names::FFN_NORM, Rope::None),
        _ => return Key::Unknown,
    };
    let name = if suffix == "bias" { names::blk_bias(block, part) } else { names::blk(block, part) };
    Key::To { name, rope }
}

fn vision(rest: &str) -> Key {
    let rest = rest.strip_prefix("vision_model.").unwrap_or(rest);
    match rest {
        "embeddings.class_embedding" => return Key::to(names::V_CLASS_EMBD),
        "embeddings.patch_embedding.weight" => return Key::to(names::V_PATCH_EMBD),
        "embeddings.position_embedding.weight" => return Key::to(names::V_POSITION_EMBD),
        "pre_layrnorm.weight" => return Key::to(names::V_PRE_LN),
        "pre_layrnorm.bias" => return Key::to(names::V_PRE_LN_BIAS),
        // Applied to the pooled class only, which LLaVA does not use.
        "post_layernorm.weight" | "post_layernorm.bias" => return Key::Ignored,
        _ => {}
    }
    let Some((block, part, suffix)) = block(rest, "encoder.layers.") else { return Key::Unknown };
    let part = match part {
        "self_attn.q_proj" => names::ATTN_Q,
        "self_attn.k_proj" => names::ATTN_K,
        "self_attn.v_proj" => names::ATTN_V,
        "self_attn.out_proj" => names::ATTN_OUT,
        "layer_norm1" => names::LN1,
        "layer_norm2" => names::LN2,
        "mlp.fc1" => names::FFN_UP,
        "mlp.fc2" => names::FFN_DOWN,
        _ => return Key::Unknown,
    };
    Key::to(if suffix == "bias" { names::v_blk_bias(block, part) } else { names::v_blk(block, part) })
}

/// `weight` of a linear projector, `2.bias` of an MLP, `linear_2.bias` of Hugging Face's.
fn projector(rest: &str) -> Key {
    let (layer, suffix) = rest.rsplit_once('.').unwrap_or(("0", rest));
    let index = match layer.strip_prefix("linear_") {
        // Hugging Face counts the layers from 1; in the authors' `Sequential` a GELU stands between two.
        Some(number) => {
            number.parse().ok().and_then(|n: usize| n.checked_sub(1)).and_then(|n| n.checked_mul(2))
        }
        None => layer.parse().ok(),
    };
    match (index, suffix) {
        (Some(index), "weight") => Key::to(names::mm(index)),
        (Some(index), "bias") => Key::to(names::mm_bias(index)),
        _ => Key::Unknown,
    }
}

/// Number, part and suffix of `layers.3.mlp.up_proj.weight`.
fn block<'a>(rest: &'a str, prefix: &str) -> Option<(usize, &'a str, &'a str)> {
    let (block, rest) = rest.strip_prefix(prefix)?.split_once('.')?;
    let (part, suffix) = rest.rsplit_once('.')?;
    matches!(suffix, "weight" | "bias").then_some((block.parse().ok()?, part, suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(key: &str) -> String {
        match map(key) {
            Key::To { name, .. } => name,
            other => panic!("{key}: {other:?}"),
        }
    }

    #[test]
    fn every_prefix_of_the_text_model_is_known() {
        for prefix in [
            "",
            "model.",
            "language_model.model.",
            "model.language_model.",
            "base_model.model.model.",
            "base_model.model.language_model.model.",
        ] {
            assert_eq!(name(&format!("{prefix}embed_tokens.weight")), "token_embd.weight");
            assert_eq!(name(&format!("{prefix}norm.weight")), "output_norm.weight");
            assert_eq!(name(&format!("{prefix}layers.31.mlp.down_proj.weight")), "blk.31.ffn_down.weight");
        }
        for prefix in ["", "language_model.", "model.", "base_model.model."] {
            assert_eq!(name(&format!("{prefix}lm_head.weight")), "output.weight");
        }
    }

    #[test]
    fn every_part_of_a_text_block_is_known() {
        let parts = [
            ("self_attn.q_proj", "attn_q", Rope::Query),
            ("self_attn.k_proj", "attn_k", Rope::Key),
            ("self_attn.v_proj", "attn_v", Rope::None),
            ("self_attn.o_proj", "attn_output", Rope::None),
            ("mlp.gate_proj", "ffn_gate", Rope::None),
            ("mlp.up_proj", "ffn_up", Rope::None),
            ("mlp.down_proj", "ffn_down", Rope::None),
            ("input_layernorm", "attn_norm", Rope::None),
            ("post_attention_layernorm", "ffn_norm", Rope::None),
        ];
        for (theirs, ours, rope) in parts {
            let expected = Key::To { name: format!("blk.7.{ours}.weight"), rope };
            assert_eq!(map(&format!("model.layers.7.{theirs}.weight")), expected);
        }
        assert_eq!(name("model.layers.0.self_attn.q_proj.bias"), "blk.0.attn_q.bias");
    }

    #[test]
    fn every_prefix_of_the_vision_tower_is_known() {
        for prefix in [
            "vision_tower.vision_model.",
            "vision_tower.",
            "model.vision_tower.",
            "model.vision_tower.vision_model.",
            "model.vision_tower.vision_tower.vision_model.",
            "base_model.model.model.vision_tower.vision_tower.vision_model.",
        ] {
            assert_eq!(name(&format!("{prefix}embeddings.class_embedding")), "v.class_embd");
            assert_eq!(name(&format!("{prefix}pre_layrnorm.bias")), "v.pre_ln.bias");
            assert_eq!(name(&format!("{prefix}encoder.layers.22.mlp.fc1.weight")), "v.blk.22.ffn_up.weight");
            assert_eq!(
                name(&format!("{prefix}encoder.layers.22.self_attn.q_proj.bias")),
                "v.blk.22.attn_q.bias"
            );
            assert_eq!(map(&format!("{prefix}post_layernorm.weight")), Key::Ignored);
            assert_eq!(map(&format!("{prefix}embeddings.position_ids")), Key::Ignored);
        }
    }

    #[test]
    fn every_projector_is_known() {
        assert_eq!(name("model.mm_projector.weight"), "mm.0.weight");
        assert_eq!(name("model.mm_projector.bias"), "mm.0.bias");
        assert_eq!(name("model.mm_projector.2.weight"), "mm.2.weight");
        assert_eq!(name("base_model.model.model.mm_projector.0.bias"), "mm.0.bias");
        assert_eq!(name("multi_modal_projector.linear_1.weight"), "mm.0.weight");
        assert_eq!(name("model.multi_modal_projector.linear_2.bias"), "mm.2.bias");
    }

    #[test]
    fn a_clip_folder_is_known_and_its_text_half_is_not_wanted() {
        for prefix in ["vision_model.", ""] {
            let key = map_clip(&format!("{prefix}encoder.layers.0.layer_norm1.weight"));
            assert_eq!(key, Key::to("v.blk.0.ln1.weight"));
        }
        for key in ["text_model.final_layer_norm.weight", "logit_scale", "visual_projection.weight"] {
            assert_eq!(map_clip(key), Key::Ignored);
        }
    }

    #[test]
    fn other_architectures_are_not_taken_for_llama() {
        assert_eq!(map("model.layers.0.self_attn.q_norm.weight"), Key::Unknown);
        assert_eq!(map("model.layers.0.self_attn.qkv_proj.weight"), Key::Unknown);
        assert_eq!(map("transformer.h.0.attn.c_attn.weight"), Key::Unknown);
        assert_eq!(map("model.layers.0.self_attn.rotary_emb.inv_freq"), Key::Ignored);
        assert_eq!(map("model.image_newline"), Key::Tiles);
    }
}
