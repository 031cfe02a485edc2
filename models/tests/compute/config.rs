//! Configs: what is refused, and that the message names file, key or tensor, the numbers and a way out.

use pumice_kernels::cpu::{Cpu, CpuOptions};
use pumice_models::{
    config::{LlamaConfig, ProjectorConfig, VisionConfig},
    llama::{Llama, LlamaOptions},
    names::{self, keys},
    vision::Vision,
};

use crate::tiny::{Model, Sight, Text};

/// What loading says of `Text::default()` after `edit`.
#[track_caller]
fn text_error(edit: impl Fn(&mut Model), parts: &[&str]) {
    let mut m = Text::default().model();
    edit(&mut m);
    let mut b = Cpu::new(CpuOptions { threads: 1, isa: None });
    let e = Llama::load(&m.file("text.gguf"), &mut b, &LlamaOptions::default()).unwrap_err().to_string();
    for part in ["text.gguf"].iter().chain(parts) {
        assert!(e.contains(part), "{part:?} is missing in {e:?}");
    }
}

/// What loading says of `Sight::default()` after `edit`.
#[track_caller]
fn vision_error(edit: impl Fn(&mut Model), parts: &[&str]) {
    let mut m = Sight::default().model();
    edit(&mut m);
    let mut b = Cpu::new(CpuOptions { threads: 1, isa: None });
    let e = Vision::load(&m.file("mmproj.gguf"), &mut b).unwrap_err().to_string();
    for part in ["mmproj.gguf"].iter().chain(parts) {
        assert!(e.contains(part), "{part:?} is missing in {e:?}");
    }
}

#[test]
fn text_models_that_are_none_or_others() {
    text_error(|m| _ = m.set(keys::ARCHITECTURE, "qwen2"), &["qwen2", "llama"]);
    text_error(|m| _ = m.set(keys::ARCHITECTURE, "clip"), &["--mmproj"]);
    text_error(|m| _ = m.unset(keys::ARCHITECTURE), &[keys::ARCHITECTURE]);
    text_error(|m| _ = m.set(keys::EXPERT_COUNT, 8u32), &[keys::EXPERT_COUNT, "8"]);
    text_error(|m| _ = m.add("blk.1.attn_q_norm.weight", &[8], vec![1.0; 8]), &["blk.1.attn_q_norm.weight"]);
}

#[test]
fn text_keys_that_contradict() {
    text_error(
        |m| _ = m.set(keys::HEAD_COUNT, 5u32).unset(keys::HEAD_COUNT_KV),
        &[keys::HEAD_COUNT, "5", "32"],
    );
    text_error(|m| _ = m.set(keys::HEAD_COUNT, 0u32), &[keys::HEAD_COUNT, "0"]);
    text_error(|m| _ = m.set(keys::HEAD_COUNT_KV, 3u32), &[keys::HEAD_COUNT_KV, "3", "4"]);
    text_error(
        |m| _ = m.set(keys::HEAD_COUNT_KV, 2u32),
        &["blk.0.attn_k.weight", "[32, 32]", "16 rows of 32"],
    );
    text_error(|m| _ = m.set(keys::KEY_LENGTH, 16u32), &["blk.0.attn_q.weight", "[32, 32]", "64 rows of 32"]);
    text_error(|m| _ = m.set(keys::KEY_LENGTH, 1_000_000_000u32), &[keys::KEY_LENGTH, "256"]);
    text_error(|m| _ = m.set(keys::VALUE_LENGTH, 4u32), &[keys::VALUE_LENGTH, "4", "8"]);
    text_error(|m| _ = m.set(keys::EMBEDDING_LENGTH, 64u32), &["token_embd.weight", "[32, 40]", "64"]);
    text_error(|m| _ = m.set(keys::FEED_FORWARD_LENGTH, 64u32), &["ffn_gate", "[32, 48]", "64 rows of 32"]);
    text_error(|m| _ = m.set(keys::BLOCK_COUNT, 4u32), &["blk.3.attn_q.weight", "missing"]);
    text_error(|m| _ = m.set(keys::RMS_EPS, 0.0f32), &[keys::RMS_EPS]);
    text_error(|m| _ = m.set(keys::ROPE_DIMS, 3u32), &[keys::ROPE_DIMS, "3"]);
    text_error(|m| _ = m.set(keys::ROPE_DIMS, 10u32), &[keys::ROPE_DIMS, "10", "8"]);
    text_error(|m| _ = m.set(keys::ROPE_BASE, f32::NAN), &[keys::ROPE_BASE]);
    text_error(|m| _ = m.set(keys::ROPE_SCALING_TYPE, "yarn"), &[keys::ROPE_SCALING_TYPE, "yarn"]);
    text_error(|m| _ = m.set(keys::ROPE_SCALING_FACTOR, -2.0f32), &[keys::ROPE_SCALING_FACTOR, "-2"]);
    text_error(|m| _ = m.add(names::ROPE_FREQS, &[3], vec![1.0; 3]), &[names::ROPE_FREQS, "4"]);
    text_error(|m| _ = m.add(names::ROPE_FREQS, &[4], vec![0.0; 4]), &[names::ROPE_FREQS, "0"]);
    text_error(
        |m| m.weight_mut(names::OUTPUT).dims = vec![40, 32],
        &[names::OUTPUT, "[40, 32]", "40 rows of 32"],
    );
}

#[test]
fn keys_that_may_be_absent() {
    let t = Text::default();
    let mut m = t.model();
    let full = LlamaConfig::read(&m.file("text.gguf")).unwrap();
    m.unset(keys::HEAD_COUNT_KV).unset(keys::ROPE_DIMS);
    assert_eq!(LlamaConfig::read(&m.file("text.gguf")).unwrap(), full);
    assert_eq!((full.vocab, full.head_dim, full.kv_heads, full.context, full.tied), (40, 8, 4, 64, false));
    // 1/10000^(2i/8), as f32.
    assert_eq!(full.inv_freq, [1.0, 0.1, 0.01, 0.001]);
}

#[test]
fn towers_that_are_none_or_others() {
    vision_error(|m| _ = m.unset(keys::HAS_VISION), &[keys::HAS_VISION, "mmproj"]);
    vision_error(|m| _ = m.set(keys::USE_SILU, true), &[keys::USE_SILU]);
    vision_error(|m| _ = m.set(keys::FEATURE_LAYER, vec![-2i32]), &[keys::FEATURE_LAYER, "-2"]);
    vision_error(|m| _ = m.set(keys::FEATURE_LAYER, vec![4i32]), &[keys::FEATURE_LAYER, "4", "3"]);
    vision_error(|m| _ = m.set(keys::FEATURE_LAYER, vec![1i32, 3]), &[keys::FEATURE_LAYER, "[1, 3]"]);
    vision_error(|m| _ = m.set(keys::SELECT_FEATURE, "cls"), &[keys::SELECT_FEATURE, "cls"]);
}

#[test]
fn tower_keys_that_contradict() {
    vision_error(|m| _ = m.set(keys::PATCH_SIZE, 5u32), &[keys::PATCH_SIZE, "5", "12"]);
    vision_error(|m| _ = m.set(keys::IMAGE_SIZE, u32::MAX - 3), &[keys::IMAGE_SIZE, "16384"]);
    vision_error(
        |m| _ = m.set(keys::IMAGE_SIZE, 16u32),
        &["v.position_embd.weight", "[16, 10]", "17 rows of 16"],
    );
    vision_error(|m| _ = m.set(keys::V_HEAD_COUNT, 3u32), &[keys::V_HEAD_COUNT, "3", "16"]);
    vision_error(|m| _ = m.set(keys::V_NORM_EPS, -1.0f32), &[keys::V_NORM_EPS]);
    vision_error(|m| _ = m.set(keys::IMAGE_MEAN, vec![0.5f32; 2]), &[keys::IMAGE_MEAN, "[0.5, 0.5]"]);
    vision_error(
        |m| _ = m.set(keys::IMAGE_STD, vec![0.5f32, 0.0, 0.5]),
        &[keys::IMAGE_STD, "[0.5, 0.0, 0.5]"],
    );
    let q_bias = names::v_blk_bias(1, names::ATTN_Q);
    vision_error(|m| _ = m.remove(&q_bias), &[&q_bias, "missing"]);
    vision_error(
        |m| _ = m.set(keys::V_BLOCK_COUNT, 5u32).unset(keys::TYPE).unset(keys::FEATURE_LAYER),
        &["v.blk.3"],
    );
}

#[test]
fn projectors() {
    vision_error(
        |m| _ = m.set(keys::CLIP_PROJECTOR_TYPE, "resampler"),
        &[keys::CLIP_PROJECTOR_TYPE, "resampler"],
    );
    vision_error(|m| _ = m.set(keys::PROJECTOR_TYPE, "linear"), &[keys::PROJECTOR_TYPE, "linear", "1", "2"]);
    vision_error(|m| _ = m.set(keys::PROJECTOR_TYPE, "mlp0x_gelu"), &[keys::PROJECTOR_TYPE, "mlp0x_gelu"]);
    vision_error(|m| _ = m.remove(&names::mm(0)), &["mm.0.weight"]);
    vision_error(|m| m.weight_mut(&names::mm(2)).dims = vec![64, 16], &["mm.2.weight", "[64, 16]", "32"]);
    vision_error(|m| _ = m.remove(&names::mm_bias(0)), &["mm.0.bias", "missing"]);
    let short_bias =
        |m: &mut Model| _ = m.remove(&names::mm_bias(2)).add(&names::mm_bias(2), &[16], vec![0.0; 16]);
    vision_error(short_bias, &["mm.2.bias", "[16]", "1 rows of 32"]);
    let name = |layers| {
        let file = Sight { layers, ..Sight::default() }.model().file("mmproj.gguf");
        ProjectorConfig::read(&file, 16).unwrap().name()
    };
    assert_eq!([name(1), name(2), name(3)], ["linear", "mlp2x_gelu", "mlp3x_gelu"]);
}

#[test]
fn a_projector_of_another_model_is_named() {
    let (text, vision) =
        (Text::default().model().file("vicuna.gguf"), Sight::default().model().file("a.gguf"));
    let llama = LlamaConfig::read(&text).unwrap();
    VisionConfig::read(&vision).unwrap().check_fits(&vision, &text, &llama).unwrap();
    let other = Sight { width_out: 40, ..Sight::default() }.model().file("mmproj-13b.gguf");
    let e = VisionConfig::read(&other).unwrap().check_fits(&other, &text, &llama).unwrap_err().to_string();
    for part in ["vicuna.gguf", "mmproj-13b.gguf", "40", "32"] {
        assert!(e.contains(part), "{part} is missing in {e}");
    }
}
