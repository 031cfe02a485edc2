//! Names of tensors: from every layout to the authors', under which units know their parameters, and from there to llava-hf's.
//!
//! Each tool put its own prefixes in front (`model.`, `language_model.model.`, `base_model.model.model.`,
//! `model.vision_tower.vision_tower.vision_model.` …); what follows them never changed, so a name is known by its end.

/// What a checkpoint's tensor is.
#[derive(Debug, PartialEq)]
pub enum Name {
    /// A parameter, under the name that units know.
    Of(String),
    /// Computed, or of no use to LLaVA.
    Ignored,
    /// Part of another architecture.
    Unknown,
}

/// Prefixes before LLaMA's own names, in any order and number.
const PREFIXES: [&str; 3] = ["base_model.", "language_model.", "model."];

/// The parameter that `key` of a text model's or a LLaVA's checkpoint is.
pub fn of(key: &str) -> Name {
    if key.ends_with("rotary_emb.inv_freq") || key.ends_with("position_ids") {
        return Name::Ignored;
    }
    for marker in ["mm_projector.", "multi_modal_projector."] {
        if let Some((_, rest)) = key.split_once(marker) {
            return projector(rest);
        }
    }
    if let Some((_, rest)) = key.rsplit_once("vision_tower.") {
        return of_clip(rest);
    }
    let mut rest = key;
    while let Some(shorter) = PREFIXES.iter().find_map(|p| rest.strip_prefix(p)) {
        rest = shorter;
    }
    let known = ["embed_tokens.weight", "norm.weight"].contains(&rest) || is_layer(rest);
    match rest {
        "lm_head.weight" => Name::Of(rest.into()),
        _ if known => Name::Of(format!("model.{rest}")),
        _ => Name::Unknown,
    }
}

/// Whether `rest` is a weight of a LLaMA layer.
fn is_layer(rest: &str) -> bool {
    let part = rest
        .strip_prefix("layers.")
        .and_then(|r| r.split_once('.'))
        .and_then(|(_, r)| r.strip_suffix(".weight"));
    let Some(part) = part else { return false };
    let norms = ["input_layernorm", "post_attention_layernorm"];
    let maps =
        part.strip_prefix("self_attn.").or(part.strip_prefix("mlp.")).and_then(|p| p.strip_suffix("_proj"));
    norms.contains(&part) || maps.is_some_and(|m| ["q", "k", "v", "o", "gate", "up", "down"].contains(&m))
}

/// The parameter that `key` of a tower's folder is: a CLIP's, whose text half is ignored, or a LLaVA's.
pub fn of_clip(key: &str) -> Name {
    let rest = key.rsplit_once("vision_tower.").map_or(key, |(_, rest)| rest);
    let rest = rest.strip_prefix("vision_model.").unwrap_or(rest);
    let starts = ["embeddings.", "pre_layrnorm.", "encoder.layers.", "post_layernorm."];
    if !key.starts_with("text_model.")
        && !rest.ends_with("position_ids")
        && starts.iter().any(|s| rest.starts_with(s))
    {
        return Name::Of(format!("vision_model.{rest}"));
    }
    Name::Ignored
}

/// `weight` of a linear projector, `2.bias` of an MLP, `linear_2.bias` of Hugging Face's.
fn projector(rest: &str) -> Name {
    let (layer, suffix) = rest.rsplit_once('.').unwrap_or(("", rest));
    let index = match layer.strip_prefix("linear_") {
        // Hugging Face counts layers from 1; in the authors' Sequential a GELU stands between two.
        Some(number) => {
            number.parse().ok().and_then(|n: i64| n.checked_sub(1)).map(|n| format!("{}.", 2 * n))
        }
        None if layer.is_empty() => Some(String::new()),
        None => layer.parse().ok().map(|n: i64| format!("{n}.")),
    };
    match (index, suffix) {
        (Some(index), "weight" | "bias") => Name::Of(format!("model.mm_projector.{index}{suffix}")),
        _ => Name::Unknown,
    }
}

/// The name in llava-hf's layout of the parameter `name`.
pub fn to_llava_hf(name: &str) -> String {
    if let Some(rest) = name.strip_prefix("model.mm_projector.") {
        let (index, suffix) = rest.split_once('.').unwrap_or(("0", rest));
        return format!("multi_modal_projector.linear_{}.{suffix}", index.parse().unwrap_or(0) / 2 + 1);
    }
    let tower = name.starts_with("vision_model.");
    format!("{}.{name}", if tower { "vision_tower" } else { "language_model" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layout_leads_to_the_authors_names() {
        let cases = [
            ("language_model.model.layers.3.mlp.up_proj.weight", "model.layers.3.mlp.up_proj.weight"),
            ("model.language_model.layers.3.input_layernorm.weight", "model.layers.3.input_layernorm.weight"),
            ("model.embed_tokens.weight", "model.embed_tokens.weight"),
            ("language_model.lm_head.weight", "lm_head.weight"),
            ("multi_modal_projector.linear_2.bias", "model.mm_projector.2.bias"),
            ("model.multi_modal_projector.linear_1.weight", "model.mm_projector.0.weight"),
            ("base_model.model.model.mm_projector.weight", "model.mm_projector.weight"),
            (
                "model.vision_tower.vision_tower.vision_model.pre_layrnorm.bias",
                "vision_model.pre_layrnorm.bias",
            ),
            ("vision_tower.encoder.layers.1.mlp.fc1.bias", "vision_model.encoder.layers.1.mlp.fc1.bias"),
        ];
        for (key, name) in cases {
            assert_eq!(of(key), Name::Of(name.into()), "{key}");
        }
        assert_eq!(of("model.layers.0.self_attn.rotary_emb.inv_freq"), Name::Ignored);
        for key in [
            "model.layers.0.self_attn.q_norm.weight",
            "model.layers.0.mlp.up_proj.bias",
            "model.image_newline",
        ] {
            assert_eq!(of(key), Name::Unknown, "{key}");
        }
        let clip = "encoder.layers.0.layer_norm1.weight";
        assert_eq!(of_clip(&format!("vision_model.{clip}")), Name::Of(format!("vision_model.{clip}")));
        assert_eq!(of_clip(&format!("text_model.{clip}")), Name::Ignored);
        assert_eq!(of_clip("visual_projection.weight"), Name::Ignored);
    }

    #[test]
    fn names_of_llava_hf_lead_back() {
        for name in [
            "lm_head.weight",
            "model.norm.weight",
            "model.mm_projector.2.bias",
            "vision_model.pre_layrnorm.bias",
        ] {
            assert_eq!(of(&to_llava_hf(name)), Name::Of(name.into()));
        }
    }
}
