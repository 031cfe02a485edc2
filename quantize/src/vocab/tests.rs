//! Vocabularies from every kind of file.

use std::path::PathBuf;

use pumice_models::gguf::File;
use serde_json::json;

use super::*;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

/// A folder with one JSON or binary file each.
fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn model_bytes() -> Vec<u8> {
    std::fs::read(golden("tokenizer.model")).unwrap()
}

#[test]
fn the_real_vocabulary_is_read_as_llama_cpp_reads_it() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/llama-vocab");
    if !data.is_dir() {
        eprintln!("skipped: no {}", data.display());
        return;
    }
    let vocab = Vocab::open(&data).unwrap();
    let file = File::open(&data.join("llama-spm.gguf")).unwrap();
    let keys = vocab.keys();
    let ours = |key: &str| &keys.iter().find(|(k, _)| k == key).unwrap().1;
    for key in ["tokens", "scores", "token_type", "bos_token_id", "eos_token_id", "unknown_token_id", "model"]
    {
        let key = format!("tokenizer.ggml.{key}");
        assert!(file.get(&key) == Some(ours(&key)), "{key} differs");
    }
}

#[test]
fn scores_are_had_back_from_merges() {
    let model = Vocab::open(&golden("linear224/authors")).unwrap();
    let mut json = Vocab::open(&golden("gqa/hf")).unwrap();
    assert_eq!(json.pieces[416].text, "<image>");
    assert_eq!(json.pieces[417].kind, TokenType::Control);
    assert_eq!(json.roles, Roles { pad: Some(417), ..model.roles });
    json.resize(416);
    assert_eq!(json.roles.pad, Some(0), "a padding token that is cut off becomes the unknown one");
    assert_eq!(json.algorithm, Algorithm::SentencePiece);
    assert!(json.add_bos && json.add_space_prefix && model.add_space_prefix);
    for (id, (a, b)) in model.pieces.iter().zip(&json.pieces).enumerate() {
        assert_eq!((&a.text, a.kind, a.score), (&b.text, b.kind, b.score), "token {id}");
    }
}

#[test]
fn runs_of_spaces_merge_last_wherever_they_are_listed() {
    let json = json!({
        "model": {"type": "BPE", "byte_fallback": true,
            "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "\u{2581}\u{2581}": 3, "\u{2581}a": 4, "\u{2581}": 5, "a": 6},
            "merges": ["\u{2581} \u{2581}", "\u{2581} a"]},
        "added_tokens": [{"id": 0, "content": "<unk>", "special": true}, {"id": 1, "content": "<s>", "special": true}]
    });
    let dir = folder(&[
        ("tokenizer.json", json.to_string().as_bytes()),
        ("tokenizer_config.json", br#"{"unk_token": "<unk>"}"#),
    ]);
    let mut vocab = Vocab::open(dir.path()).unwrap();
    let scores: Vec<f32> = vocab.pieces.iter().map(|p| p.score).collect();
    assert!(scores[3] < scores[5] && scores[4] > scores[5] && scores[5] > scores[6], "{scores:?}");
    assert_eq!((vocab.pieces[0].kind, vocab.pieces[1].kind), (TokenType::Unknown, TokenType::Control));
    vocab.add_roles_of(&json!({"bos_token_id": 5, "eos_token_id": [2, 6], "pad_token_id": 99}));
    assert_eq!(vocab.roles, Roles { bos: Some(1), eos: Some(2), unk: Some(0), pad: None });
}

#[test]
fn rows_past_the_end_are_filled() {
    let mut vocab = Vocab::open(&golden("linear224/authors")).unwrap();
    vocab.resize(420);
    let last = &vocab.pieces[419];
    assert_eq!((last.text.as_str(), last.score, last.kind), ("[PAD419]", -10000.0, TokenType::Unused));
}

#[test]
fn added_tokens_come_from_every_file() {
    let dir = folder(&[
        ("tokenizer.model", &model_bytes()),
        ("added_tokens.json", br#"{"[PAD]": 416, "<im_start>": 418}"#),
        (
            "tokenizer_config.json",
            br#"{"add_bos_token": false, "eos_token": {"content": "<im_start>"}, "chat_template": "hello",
                "added_tokens_decoder": {"0": {"content": "<unk>", "special": true}, "417": {"content": "word", "special": false}}}"#,
        ),
    ]);
    let vocab = Vocab::open(dir.path()).unwrap();
    assert_eq!(vocab.pieces.len(), 419);
    assert_eq!((vocab.pieces[416].text.as_str(), vocab.pieces[416].kind), ("[PAD]", TokenType::Control));
    assert_eq!((vocab.pieces[417].text.as_str(), vocab.pieces[417].kind), ("word", TokenType::UserDefined));
    assert_eq!((vocab.roles.eos, vocab.roles.bos, vocab.add_bos), (Some(418), Some(1), false));
    assert_eq!(vocab.chat_template.as_deref(), Some("hello"));
    assert_eq!(vocab.base, 416);
}

#[test]
fn a_byte_level_tokenizer_becomes_gpt2() {
    let json = json!({
        "added_tokens": [{"id": 4, "content": "<|begin_of_text|>", "special": true}],
        "pre_tokenizer": {"type": "ByteLevel", "use_regex": true},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "\u{120}": 3}, "merges": [["a", "b"]]}
    });
    let dir = folder(&[
        ("tokenizer.json", json.to_string().as_bytes()),
        ("tokenizer_config.json", br#"{"bos_token": "<|begin_of_text|>"}"#),
    ]);
    let vocab = Vocab::open(dir.path()).unwrap();
    assert_eq!(vocab.algorithm, Algorithm::ByteLevel { merges: vec!["a b".into()], pre: "gpt-2" });
    assert_eq!((vocab.pieces.len(), vocab.roles.bos), (5, Some(4)));
    let keys: Vec<String> = vocab.keys().into_iter().map(|(k, _)| k).collect();
    assert!(
        keys.contains(&"tokenizer.ggml.merges".into()) && !keys.contains(&"tokenizer.ggml.scores".into())
    );
}

#[test]
fn damaged_files_are_refused_with_their_name() {
    let whole = model_bytes();
    let refused = |files: &[(&str, &[u8])], needle: &str| {
        let message = Vocab::open(folder(files).path()).unwrap_err().to_string();
        assert!(message.contains(needle), "{message}");
    };
    refused(&[], "tokenizer.model nor tokenizer.json");
    refused(&[("tokenizer.model", b"")], "no pieces");
    refused(&[("tokenizer.model", b"version https://git-lfs.github.com/spec/v1")], "tokenizer.model");
    refused(&[("tokenizer.model", &whole[..whole.len() / 2])], "byte ");
    refused(&[("tokenizer.json", b"{")], "not JSON");
    refused(&[("tokenizer.json", br#"{"model": {"type": "Unigram"}}"#)], "Unigram");
    let hole =
        br#"{"model": {"type": "BPE", "byte_fallback": true, "vocab": {"a": 0, "b": 5}, "merges": []}}"#;
    refused(&[("tokenizer.json", hole)], "id 5");
    let rule = br#"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "pre_tokenizer": {"type": "Whitespace"}}"#;
    refused(&[("tokenizer.json", rule)], "unknown rule");
    refused(&[("tokenizer.model", &whole), ("added_tokens.json", br#"{"x": 4000000000}"#)], "4000000000");
    // Every cut and every flipped byte gives a vocabulary or an error, never a panic.
    for at in (0..whole.len()).step_by(37) {
        let _ = sentencepiece::parse(Path::new("x"), &whole[..at]);
        let mut flipped = whole.clone();
        flipped[at] ^= 0xFF;
        let _ = sentencepiece::parse(Path::new("x"), &flipped);
    }
}
