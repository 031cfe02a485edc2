//! Our text GGUFs in llama.cpp: the same greedy tokens there and here.
//!
//! llama.cpp itself is not run by the tests. `tests/golden/record_llama_cpp.py` recorded its ids, and over which tensors; here the
//! same files are made anew, and their tensors must be those to the bit, or the record proves nothing.

use pumice_kernels::{
    DType,
    cpu::{Cpu, CpuOptions, Isa},
};
use pumice_models::{
    gguf::File,
    llama::{Input, Llama, LlamaOptions, Logits},
};
use pumice_quantize::{FileType, Layout};
use serde_json::Value;

use crate::golden::{Golden, folder, greedy, quantized, source};

/// FNV-1a, 64 bits, over name and bytes of every tensor in the order of the file.
fn fingerprint(file: &File) -> String {
    let mut h = 0xcbf2_9ce4_8422_2325_u64;
    for t in file.tensors() {
        for byte in t.name.bytes().chain(file.bytes(t).iter().copied()) {
            h = (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
    format!("{h:016x}")
}

fn same_as_llama_cpp(name: &'static str, file_type: FileType) {
    let record = std::fs::read(folder().join("llama_cpp.json")).expect("a committed file");
    let record: Value = serde_json::from_slice(&record).expect("JSON");
    let record = &record[format!("{name}-{file_type:?}")];

    let dir = tempfile::tempdir().expect("a folder");
    let (text, _) = quantized(&source("hf", &Golden::open(name)), dir.path(), file_type, Layout::Pair);
    assert_eq!(
        fingerprint(&text),
        record["tensors"].as_str().expect("a fingerprint"),
        "{name}: the tensors changed since llama.cpp ran on them; run tests/golden/record_llama_cpp.py again"
    );

    let runs = record["runs"].as_array().expect("runs");
    assert!(!runs.is_empty());
    for isa in Isa::available() {
        let b = &mut Cpu::new(CpuOptions { threads: 1, isa: Some(isa) });
        let options = LlamaOptions { ctx: 256, cache_type: DType::F32, batch: 64, logit_rows: 1 };
        let mut llama = Llama::load(&text, b, &options).expect("a text model");
        let vocab = llama.config().vocab;
        for run in runs {
            let ids = |key: &str| -> Vec<i64> { serde_json::from_value(run[key].clone()).expect("ids") };
            let (prompt, expected) = (ids("prompt"), ids("greedy"));
            let tokens: Vec<u32> = prompt.iter().map(|&id| id as u32).collect();
            llama.forward(b, &[Input::Tokens(&tokens)], 0, Logits::Last, &mut |_, _| true).expect("a prompt");
            let mut logits = vec![0.0; vocab];
            llama.logits(b, &mut logits).unwrap();
            let found = greedy(&mut llama, b, logits, prompt.len(), vocab, expected.len());
            assert_eq!(found, expected, "{name} {file_type:?} {isa:?}, prompt {prompt:?}");
        }
    }
}

#[test]
fn grouped_queries_in_f16() {
    same_as_llama_cpp("gqa", FileType::F16);
}

#[test]
fn grouped_queries_in_q8_0() {
    same_as_llama_cpp("gqa", FileType::Q8_0);
}

#[test]
fn mlp_336_in_f16() {
    same_as_llama_cpp("mlp336", FileType::F16);
}

#[test]
fn mlp_336_in_q8_0() {
    same_as_llama_cpp("mlp336", FileType::Q8_0);
}
