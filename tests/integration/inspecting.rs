//! `pumice inspect`: metadata, tensors, types and memory, for people and for programs.

use crate::program::{folder, pumice, text, tiny_file};

#[test]
fn a_file_is_shown() {
    let model = tiny_file(&folder("inspect"));
    let short = pumice(["inspect", text(&model)]);
    short.succeeds();
    for words in [
        "general.architecture",
        "\"llama\"",
        "1024 of [",
        "Q4_K",
        "bits per weight",
        "memory with a context of 2048",
    ] {
        assert!(short.stdout.contains(words), "no {words:?} in: {}", short.stdout);
    }
    assert!(!short.stdout.contains("blk.0.attn_q.weight"));
    let long = pumice(["inspect", "--tensors", text(&model)]);
    assert!(long.stdout.contains("blk.0.attn_q.weight"), "{}", long.stdout);
}

#[test]
fn json_holds_everything_and_memory_grows_with_the_context() {
    let model = tiny_file(&folder("inspect-json"));
    let read = |ctx: &str| -> serde_json::Value {
        let out = pumice(["inspect", "--json", "--tensors", "-c", ctx, text(&model)]);
        out.succeeds();
        serde_json::from_str(&out.stdout).expect("JSON")
    };
    let object = read("1024");
    let list = |v: &serde_json::Value| v.as_array().map(Vec::len);
    assert_eq!(list(&object["metadata"]["tokenizer.ggml.tokens"]), Some(1024));
    assert_eq!(object["metadata"]["llama.attention.layer_norm_rms_epsilon"], 1e-5);
    let sum = |key: &str| -> u64 {
        let tensors = object["tensors"].as_array().expect("a list");
        tensors.iter().map(|t| t[key].as_u64().expect("a number")).sum()
    };
    assert_eq!(object["bytes"].as_u64(), Some(sum("bytes")));
    // Keys and values, 4 blocks of 256 columns, 2 bytes each.
    let cache = |v: &serde_json::Value| v["memory"]["cache"].as_u64().expect("a number");
    assert_eq!(cache(&object), 1024 * 2 * 4 * 256 * 2);
    assert_eq!(cache(&read("2048")), 2 * cache(&object));
}

#[test]
fn what_is_no_model_is_told() {
    let dir = folder("inspect-none");
    let path = dir.join("none.gguf");
    std::fs::write(&path, "none").expect("a file for the test");
    pumice(["inspect", text(&path)]).fails_with(&["none.gguf", "GGUF"]);
}
