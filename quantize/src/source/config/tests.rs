//! Configurations as they are published, and wrong ones.

use std::path::Path;

use serde_json::json;

use super::*;

fn read<T>(value: &Value, take: impl FnOnce(Json<'_>) -> T) -> T {
    take(Json { path: Path::new("config.json"), at: "", value })
}

#[test]
fn a_sparse_text_config_is_llama_7b() {
    // The whole text_config of llava-hf/llava-1.5-7b-hf.
    let value = json!({
        "_name_or_path": "lmsys/vicuna-7b-v1.5", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 4096,
        "model_type": "llama", "rms_norm_eps": 1e-5, "torch_dtype": "float16", "vocab_size": 32064
    });
    let text = read(&value, Text::read).unwrap();
    let shape = (
        text.hidden,
        text.ff,
        text.blocks,
        text.heads,
        text.kv_heads,
        text.head_dim,
        text.vocab,
        text.context,
    );
    assert_eq!(shape, (4096, 11008, 32, 32, 32, 128, 32064, 4096));
    assert_eq!((text.rms_eps, text.rope_base, text.tied), (1e-5, 10000.0, false));
}

#[test]
fn sparse_vision_configs_are_the_defaults_of_their_class() {
    let vision =
        read(&json!({"hidden_size": 1536, "patch_size": 14}), |j| Vision::read(j, Defaults::Clip, None))
            .unwrap();
    assert_eq!((vision.image, vision.ff, vision.blocks, vision.heads, vision.eps), (224, 3072, 12, 12, 1e-5));
    let vision = read(&json!({}), |j| Vision::read(j, Defaults::Llava, None)).unwrap();
    assert_eq!(
        (vision.image, vision.width, vision.blocks, vision.heads, vision.patch),
        (336, 1024, 24, 16, 14)
    );
    assert!(!vision.gelu && vision.mean == pumice_models::config::CLIP_MEAN);
}

#[test]
fn rope_is_read_in_every_spelling() {
    let scaling = |value| read(&value, Text::read).map(|t| (t.rope_base, t.scaling)).unwrap();
    assert_eq!(
        scaling(json!({"rope_scaling": {"type": "linear", "factor": 4.0}})),
        (10000.0, Scaling::Linear(4.0))
    );
    assert_eq!(scaling(json!({"rope_theta": 5e5, "rope_scaling": null})), (5e5, Scaling::None));
    let new = json!({"rope_parameters": {"rope_theta": 50000.0, "rope_type": "default"}});
    assert_eq!(scaling(new), (50000.0, Scaling::None));
    let error = read(&json!({"rope_scaling": {"rope_type": "yarn", "factor": 2}}), Text::read)
        .unwrap_err()
        .to_string();
    assert!(error.contains("rope_scaling.rope_type") && error.contains("yarn"), "{error}");
}

#[test]
fn llama_3_factors_are_its_formula() {
    let value = json!({
        "hidden_size": 2048, "num_attention_heads": 32, "rope_theta": 500000.0,
        "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}
    });
    let factors = read(&value, Text::read).unwrap().rope_factors().unwrap();
    assert_eq!(factors.len(), 32);
    // Llama 3.2 1B's rope_freqs.weight: fast pairs keep their frequency, slow ones are divided by 32, two lie between.
    assert_eq!((factors[0], factors[31]), (1.0, 32.0));
    let wavelength = |i: f64| std::f64::consts::TAU * 500000f64.powf(i / 32.0);
    for (i, factor) in factors.iter().enumerate() {
        let wave = wavelength(i as f64);
        let expected = if wave < 2048.0 {
            1.0
        } else if wave > 8192.0 {
            32.0
        } else {
            let smooth = (8192.0 / wave - 1.0) / 3.0;
            1.0 / ((1.0 - smooth) / 32.0 + smooth)
        };
        assert!((f64::from(*factor) - expected).abs() < 1e-5 * expected, "{i}: {factor} {expected}");
    }
}

#[test]
fn llavas_settings_are_read_from_both_layouts() {
    let value = json!({
        "model_type": "llava_llama", "mm_vision_tower": "openai/clip-vit-large-patch14-336", "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "image_aspect_ratio": "pad", "mm_use_im_start_end": true
    });
    let llava = read(&value, Llava::read).unwrap().unwrap();
    assert_eq!((llava.aspect, llava.im_start_end, llava.ported), (Some("pad"), true, false));
    assert_eq!(read(&value, |j| llava.blocks_to_run(j, 24)).unwrap(), 23);
    let value = json!({
        "model_type": "llava", "vision_config": {}, "text_config": {}, "vision_feature_layer": [-1],
        "vision_feature_select_strategy": "full"
    });
    let llava = read(&value, Llava::read).unwrap().unwrap();
    assert_eq!((llava.select_feature, llava.ported, llava.select_layer), ("cls_patch", true, -1));
    assert_eq!((llava.aspect, llava.template), (None, None));
    // As pumice-train writes the port.
    let value = json!({
        "model_type": "llava", "vision_config": {}, "text_config": {}, "image_aspect_ratio": "square", "pumice_template": "v0_lines"
    });
    let llava = read(&value, Llava::read).unwrap().unwrap();
    assert_eq!((llava.aspect, llava.template.as_deref()), (Some("square"), Some("v0_lines")));
    assert_eq!(read(&json!({"model_type": "llama"}), Llava::read).unwrap(), None);
}

#[test]
fn what_cannot_be_read_is_named() {
    let refused = |value: Value, key: &str| {
        let text = read(&value, Text::read).map(|_| ());
        let llava = read(&value, Llava::read).map(|_| ());
        let message = text.and(llava).unwrap_err().to_string();
        assert!(message.starts_with("config.json: \"") && message.contains(key), "{message}");
    };
    refused(json!({"model_type": "gpt2"}), "model_type");
    refused(json!({"model_type": "llava_llama", "pumice_template": "v7"}), "pumice_template");
    refused(json!({"hidden_size": -1}), "hidden_size");
    refused(json!({"hidden_size": 1u64 << 40}), "hidden_size");
    refused(json!({"num_hidden_layers": "many"}), "num_hidden_layers");
    refused(json!({"num_attention_heads": 3}), "num_attention_heads");
    refused(json!({"num_key_value_heads": 5}), "num_key_value_heads");
    refused(json!({"rms_norm_eps": 0.0}), "rms_norm_eps");
    refused(json!({"hidden_act": "gelu"}), "hidden_act");
    refused(json!({"model_type": "llava_llama", "image_aspect_ratio": "anyres"}), "image_aspect_ratio");
    refused(
        json!({"model_type": "llava_llama", "mm_vision_select_layer": [-2, -5]}),
        "mm_vision_select_layer",
    );
    let clip =
        |value: Value| read(&value, |j| Vision::read(j, Defaults::Clip, None)).unwrap_err().to_string();
    assert!(clip(json!({"model_type": "siglip_vision_model"})).contains("siglip"));
    assert!(clip(json!({"patch_size": 33})).contains("patch_size"));
}
