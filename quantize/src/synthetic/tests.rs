//! The synthetic models: what they hold, and that fast writing gives what slow reading says.

use std::collections::HashSet;

use pumice_kernels::{Bytes, DType, quant};
use pumice_models::{
    config::{LlamaConfig, VisionConfig},
    gguf::File,
};

use super::*;
use crate::{Layout, plan, vocab::TokenType};

fn open(bytes: Vec<u8>) -> File {
    File::from_bytes("synthetic", Bytes::new(bytes)).unwrap()
}

#[test]
fn the_tiny_model_is_a_small_whole_llava() {
    let bytes = synthetic("tiny", FileType::Q4_K_M).unwrap();
    assert!(bytes.len() < 4 << 20, "{} bytes", bytes.len());
    let file = open(bytes);
    let llama = LlamaConfig::read(&file).unwrap();
    let vision = VisionConfig::read(&file).unwrap();
    vision.check_fits(&file, &file, &llama).unwrap();
    assert_eq!((llama.vocab, vision.image_tokens(), vision.clip.blocks), (1024, 16, 3));
    assert_eq!(file.tensor("blk.0.attn_q.weight").unwrap().dtype, Some(DType::Q4_K));
    assert_eq!(file.need_str("pumice.template").unwrap(), "llava_v1");
}

#[test]
fn large_models_have_the_sizes_of_the_real_ones() {
    // Bytes of the text tensors that llama.cpp's files of Vicuna have: 4.08 GB and 7.87 GB as Q4_K_M.
    for (shape, text_params, q4_k_m) in
        [("llava-1.5-7b", 6_738_415_616u64, 4.08e9), ("llava-1.5-13b", 13_015_864_320, 7.87e9)]
    {
        let source = source(shape).unwrap();
        let plan = plan(&source, "x".as_ref(), &Recipe::new(FileType::Q4_K_M), Layout::OneFile).unwrap();
        let text: Vec<_> =
            plan.tensors.iter().filter(|t| !t.name.starts_with("v.") && !t.name.starts_with("mm.")).collect();
        assert_eq!(text.iter().map(|t| t.elements()).sum::<u64>(), text_params, "{shape}");
        let bytes: u64 = text.iter().map(|t| t.bytes).sum();
        assert!((bytes as f64 - q4_k_m).abs() < 0.005e9, "{shape}: {bytes}");
    }
}

#[test]
fn a_vocabulary_has_no_piece_twice_and_every_word_can_be_merged() {
    for count in [1024, 32000] {
        let vocab = vocab(count);
        assert_eq!(vocab.pieces.len(), count);
        let texts: HashSet<&str> = vocab.pieces.iter().map(|p| p.text.as_str()).collect();
        assert_eq!(texts.len(), count);
        for piece in vocab.pieces.iter().filter(|p| p.kind == TokenType::Normal && p.text.chars().count() > 1)
        {
            let splits = piece.text.char_indices().skip(1).map(|(at, _)| piece.text.split_at(at));
            assert!(splits.clone().any(|(l, r)| texts.contains(l) && texts.contains(r)), "{}", piece.text);
        }
    }
}

#[test]
fn repeated_rows_are_those_that_a_reader_gives() {
    let full = source("llava-v1-7b").unwrap();
    // Three matrices of one width and type, the second and third of them taken from the cache.
    let tensors: Vec<_> =
        full.tensors.iter().filter(|t| t.name.ends_with("attn_k.weight")).take(3).cloned().collect();
    let some = Source { tensors: tensors.clone(), ..full };
    let bytes = run_in_memory(&some, &Options::new(Recipe::new(FileType::Q8_0)), &()).unwrap();
    let file = open(bytes);
    for tensor in &tensors {
        let info = file.need_tensor(&tensor.name).unwrap();
        let row_bytes = DType::Q8_0.row_bytes(4096).unwrap();
        for row in [0, 1, 250, 251, 4000, 4095] {
            let mut expected = vec![0.0; 4096];
            tensor.reader().unwrap().read(row, &mut expected).unwrap();
            let mut stored = vec![0u8; row_bytes];
            quant::quantize(DType::Q8_0, 4096, &expected, &mut stored, None);
            assert_eq!(file.bytes(info)[row * row_bytes..][..row_bytes], stored, "{} row {row}", tensor.name);
        }
    }
}

#[test]
fn drawn_numbers_are_normal() {
    let source = source("tiny").unwrap();
    let tensor = source.tensors.iter().find(|t| t.name == "output.weight").unwrap();
    let mut values = vec![0.0; tensor.elements()];
    tensor.reader().unwrap().read(0, &mut values).unwrap();
    let n = values.len() as f64;
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    let variance = values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
    // Spread 1.6/√256 = 0.1; five standard errors of 262 144 draws.
    assert!(
        mean.abs() < 5.0 * 0.1 / n.sqrt() && (variance.sqrt() - 0.1).abs() < 5.0 * 0.1 / (2.0 * n).sqrt()
    );
}

#[test]
fn another_models_shape_keeps_its_names_and_words_and_none_of_its_weights() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/mlp336/hf");
    let golden = Source::open(&golden, &crate::SourceOptions::default()).unwrap();
    let bytes = run_in_memory(&golden, &Options::new(Recipe::new(FileType::Q8_0)), &()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let source = Source::open(&path, &crate::SourceOptions::default()).unwrap();
    let (names, words) = (
        source.tensors.iter().map(|t| (t.name.clone(), t.dims.clone())).collect::<Vec<_>>(),
        source.get("tokenizer.ggml.tokens").cloned(),
    );
    let like = like(source);
    assert_eq!(like.tensors.iter().map(|t| (t.name.clone(), t.dims.clone())).collect::<Vec<_>>(), names);
    assert_eq!(like.notes, [NOTE]);
    let made = open(run_in_memory(&like, &Options::new(Recipe::new(FileType::Q8_0)), &()).unwrap());
    assert_eq!(made.get("tokenizer.ggml.tokens").cloned(), words);
    assert_eq!(made.get(SYNTHETIC_KEY), Some(&Value::Bool(true)));
    let was = File::open(&path).unwrap();
    for name in ["blk.0.attn_q.weight", "v.blk.0.ln1.weight", "mm.0.bias"] {
        let bytes = |file: &File| file.bytes(file.need_tensor(name).unwrap()).to_vec();
        assert_ne!(bytes(&was), bytes(&made), "{name}");
    }
    let norm = made.need_tensor("output_norm.weight").unwrap();
    let values: Vec<f32> = numbers(&made.bytes(norm));
    let mean = values.iter().sum::<f32>() / values.len() as f32;
    assert!((mean - 1.0).abs() < 0.1, "norms stay about 1, or what flows would vanish: {mean}");
}

/// Little-endian f32s.
fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

#[test]
fn an_unknown_shape_is_answered_with_the_known() {
    let error = synthetic("huge", FileType::F16).unwrap_err().to_string();
    assert!(error.contains("huge") && error.contains("llava-1.5-7b"), "{error}");
}
