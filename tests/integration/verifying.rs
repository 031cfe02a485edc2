//! `pumice verify`: a file is as near to its checkpoint as its type allows, and another model's is told apart.

use std::path::Path;

use crate::program::{folder, pumice, text};

fn golden(name: &str) -> String {
    format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The agreement of `model` in `file_type` with its checkpoint.
fn agreement(dir: &Path, model: &str, file_type: &str) -> serde_json::Value {
    let out = dir.join(format!("{file_type}.gguf"));
    pumice(["quantize", &golden(model), text(&out), file_type]).succeeds();
    let outcome = pumice(["verify", text(&out), "--reference", &golden(model), "--json"]);
    outcome.succeeds();
    serde_json::from_str(&outcome.stdout).expect("JSON")
}

#[test]
fn agreement_follows_the_type() {
    let dir = folder("verify");
    let number = |a: &serde_json::Value, key: &str| a[key].as_f64().expect("a number");
    // What is left of a file in F32 is another order of the sums.
    let f32 = agreement(&dir, "mlp336/hf", "F32");
    assert!(number(&f32, "cosine_min") > 0.999_999, "{f32}");
    assert!(number(&f32, "kl_max") < 1e-6, "{f32}");
    assert_eq!(f32["same_top"], f32["positions"]);
    assert_eq!(f32["answer_same"], f32["answer_tokens"]);

    // The checkpoint's weights are exact in F16, but many tokens may meet them as whole numbers of 16 bits (NUMERICS.md): among random
    // weights one near tie may fall the other way.
    let f16 = agreement(&dir, "mlp336/hf", "F16");
    assert!(number(&f16, "cosine_min") > 0.999_999, "{f16}");
    assert!(number(&f16, "kl_max") < 1e-5, "{f16}");
    assert!(number(&f16, "same_top") >= number(&f16, "positions") - 1.0, "{f16}");
    assert_eq!(f16["answer_same"], f16["answer_tokens"]);

    let q8 = agreement(&dir, "mlp336/hf", "Q8_0");
    let q4 = agreement(&dir, "mlp336/hf", "Q4_0");
    let kl = |a| number(a, "kl_mean");
    assert!(kl(&f16) < kl(&q8) && kl(&q8) < kl(&q4), "{f16} {q8} {q4}");
    assert!(kl(&q8) < 0.05, "{q8}");
    assert!(number(&q4, "cosine_min") > 0.999_999, "vision stays F16: {q4}");
}

#[test]
fn another_model_is_told_apart() {
    let dir = folder("verify-other");
    let out = dir.join("gqa.gguf");
    pumice(["quantize", &golden("gqa/hf"), text(&out), "F16"]).succeeds();
    pumice(["verify", text(&out), "--reference", &golden("mlp336/hf")]).fails_with(&["different models"]);
    pumice(["verify", text(&out), "--reference", text(&dir.join("absent"))]).fails_with(&["absent"]);
}
