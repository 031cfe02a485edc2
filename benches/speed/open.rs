//! Opening a GGUF file: its header read and checked. As many words and tensors as LLaVA-1.5-7B's one file has, the tensors tiny.

use std::path::{Path, PathBuf};

use criterion::Throughput;
use pumice_kernels::DType;
use pumice_models::gguf::{Array, File, Header, Value, Writer};

use crate::{
    duel::{Bench, Item, Side},
    peer,
};

/// Pieces of the vocabulary.
const WORDS: usize = 32000;
/// Tensors of text, tower and projector.
const TENSORS: usize = 291 + 373 + 4;

/// The file on disk, warm.
pub fn header(bench: &mut Bench) {
    let folder = tempfile::tempdir().expect("a folder for a file of 1 MB");
    let path = folder.path().join("header.gguf");
    let words = if bench.machine.timed { WORDS } else { 100 };
    let bytes = write(&path, words);
    bench.item(Item {
        name: "open/gguf".into(),
        work: Throughput::Bytes(bytes),
        differ: 0.0,
        ours: Box::new(|| Box::new(Open { path: path.clone(), found: [0.0; 3] })),
        theirs: Box::new(|| peer::open(&path)),
    });
}

/// Writes the file; says how long it is.
fn write(path: &Path, words: usize) -> u64 {
    let mut header = Header::new();
    header.set("general.architecture", Value::String("llama".into()));
    for i in 0..40 {
        header.set(&format!("llama.number.{i}"), Value::U32(i));
    }
    let pieces: Vec<String> = (0..words).map(|i| format!("▁w{i:05}")).collect();
    header.set("tokenizer.ggml.tokens", Value::Array(Array::String(pieces)));
    header.set("tokenizer.ggml.scores", Value::Array(Array::F32(vec![0.5; words])));
    header.set("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![1; words])));
    let names: Vec<String> = (0..TENSORS).map(|i| format!("blk.{}.part_{}.weight", i / 9, i % 9)).collect();
    for name in &names {
        header.tensor(name, &[32, 2], DType::Q4_0);
    }
    let mut writer = Writer::create(path, header, true).expect("a file of 1 MB");
    for name in &names {
        writer.write(name, &[0; 36]).expect("room for 1 MB");
    }
    writer.finish().expect("room for 1 MB");
    path.metadata().map_or(0, |m| m.len())
}

/// Pumice's side.
struct Open {
    path: PathBuf,
    /// Keys, tensors, words.
    found: [f32; 3],
}

impl Side for Open {
    fn name(&self) -> String {
        "Pumice".into()
    }

    fn run(&mut self) {
        let file = File::open(&self.path).expect("the file is there");
        let words = file.strings("tokenizer.ggml.tokens").ok().flatten().map_or(0, <[String]>::len);
        self.found = [file.keys().count(), file.tensors().len(), words].map(|n| n as f32);
    }

    fn result(&mut self) -> Vec<f32> {
        self.found.to_vec()
    }
}
