//! Tiny LLaVA checkpoints in every layout, quantized and run, against what PyTorch computes from them.
//!
//! The chain under test is the product's own: checkpoint folder → `quantize` → GGUF (one file or a pair) → tower,
//! projector and LLaMA on every instruction set that this machine has. `tests/golden/README.md` says what the goldens
//! are; `tests/golden/noise.py` says where their tolerances come from.

use std::path::{Path, PathBuf};

#[cfg(feature = "gpu")]
use pumice_kernels::gpu::{Allow, Gpu, GpuOptions};
use pumice_kernels::{
    Backend, DType,
    cpu::{Cpu, CpuOptions, Isa},
};
use pumice_models::{
    checkpoint,
    gguf::File,
    llama::{Input, Llama, LlamaOptions, Logits},
    vision::Vision,
};
use pumice_quantize::{FileType, Layout, Options, Recipe, Source, SourceOptions, run};
use pumice_runtime::{
    pixels::{Picture, Preprocess},
    prompt::{Chunk, Format, Turn},
    vocab::Vocabulary,
};
use serde_json::Value;

/// How many times the recorded rounding deviation two correct programs may differ: each may be off by as much as one. On
/// the machine of the goldens 0.2 to 0.7 were found.
const SLACK: f32 = 2.0;

/// What stands for the picture in the recorded ids.
const IMAGE: i64 = -200;

/// What PyTorch says about one checkpoint.
pub struct Golden {
    pub name: &'static str,
    pub json: Value,
    tensors: Vec<checkpoint::Tensor>,
}

impl Golden {
    pub fn open(name: &'static str) -> Self {
        let path = folder().join(format!("{name}.json"));
        let json = serde_json::from_slice(&std::fs::read(path).expect("a committed file")).expect("JSON");
        let path = folder().join(format!("{name}.safetensors"));
        let tensors = checkpoint::Folder::open(&path).expect("safetensors").tensors().to_vec();
        Self { name, json, tensors }
    }

    /// A recorded tensor, flat.
    pub fn tensor(&self, name: &str) -> Vec<f32> {
        let t = self.tensors.iter().find(|t| t.name == name).expect("a recorded tensor");
        let mut out = vec![0.0; t.elements()];
        t.to_f32(0, &mut out).expect("f32");
        out
    }

    pub fn ids(&self, key: &str) -> Vec<i64> {
        self.json[key].as_array().expect("ids").iter().map(|v| v.as_i64().expect("an id")).collect()
    }

    /// By the recorded `deviation`: of f32, or `deviation_words` where weights may be multiplied as whole numbers.
    fn tolerance(&self, name: &str, deviation: &str) -> f32 {
        SLACK * self.json[deviation][name].as_f64().expect("a deviation") as f32
    }

    /// Fails where `found` leaves the tolerance of the recorded tensor `name`.
    fn check(&self, name: &str, (what, deviation): (&str, &str), found: &[f32]) {
        let (expected, tolerance) = (self.tensor(name), self.tolerance(name, deviation));
        assert_eq!(found.len(), expected.len(), "{what}: {name}: numbers");
        let (at, worst) = worst(found, &expected);
        println!("{what}: {name}: {:.2} of the recorded deviation", worst / tolerance * SLACK);
        assert!(
            worst <= tolerance,
            "{what}: {name}[{at}] is {} and not {}: off by {worst:e}, allowed {tolerance:e}",
            found[at],
            expected[at]
        );
    }
}

/// Where two runs of numbers differ most, and by how much; NaN differs most of all.
fn worst(a: &[f32], b: &[f32]) -> (usize, f32) {
    let off = |(x, y): (&f32, &f32)| if (x - y).is_nan() { f32::INFINITY } else { (x - y).abs() };
    a.iter().zip(b).map(off).enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).expect("numbers")
}

/// `tests/golden`.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Index of the largest; the first of equals.
fn argmax(x: &[f32]) -> usize {
    (0..x.len()).fold(0, |best, i| if x[i] > x[best] { i } else { best })
}

/// `n` greedy ids after `logits`, the last row that the model computed; `pos` rows are in the cache. Ids past the
/// `vocab` learned ones are never chosen.
pub fn greedy(
    llama: &mut Llama,
    b: &mut dyn Backend,
    mut logits: Vec<f32>,
    mut pos: usize,
    vocab: usize,
    n: usize,
) -> Vec<i64> {
    let mut ids = Vec::with_capacity(n);
    loop {
        let id = argmax(&logits[..vocab]);
        ids.push(id as i64);
        if ids.len() == n {
            return ids;
        }
        llama
            .forward(b, &[Input::Tokens(&[id as u32])], pos, Logits::Last, &mut |_, _| true)
            .expect("a step");
        pos += 1;
        llama.logits(b, &mut logits).unwrap();
    }
}

/// Runs the GGUF(s) and compares every stage with the golden.
fn compare(
    golden: &Golden,
    what: &str,
    (text, vision): (&File, &File),
    b: &mut dyn Backend,
    deviation: &str,
) {
    let what = format!("{} {what} {}", golden.name, b.name());
    let check = |name: &str, found: &[f32]| golden.check(name, (&what, deviation), found);
    let tower = Vision::load(vision, b).expect("a tower");
    let pixels = golden.tensor("pixels");
    let picture =
        Picture::open(&folder().join(golden.json["photo"].as_str().expect("a name"))).expect("a picture");
    let preprocess = Preprocess::from_gguf(vision).expect("preprocessing");
    assert!(preprocess.apply(&picture) == pixels, "{what}: pixels differ from Pillow's");
    let clip = pumice_models::clip::Clip::load(vision, b).expect("a tower");
    let features = clip.encode(b, &pixels);
    let mut found = vec![0.0; features.rows * features.cols];
    b.read(&mut found, features).unwrap();
    check("features", &found);
    let rows = tower.encode(b, &pixels).unwrap();
    check("projected", &rows);

    let ids = golden.ids("ids");
    let at = ids.iter().position(|&i| i == IMAGE).expect("a picture in the prompt");
    let tokens = |ids: &[i64]| ids.iter().map(|&i| i as u32).collect::<Vec<_>>();
    let (before, after) = (tokens(&ids[..at]), tokens(&ids[at + 1..]));
    let prompt = [Input::Tokens(&before), Input::Rows(&rows), Input::Tokens(&after)];
    let n = ids.len() - 1 + golden.json["image_tokens"].as_u64().expect("a count") as usize;
    let expected = golden.ids("greedy");
    // The golden's margin between best and second is far above an f16 cache's rounding, so both caches must agree.
    // A batch of 33 cuts the prompt inside the picture.
    for (cache_type, batch) in [(DType::F32, 33), (DType::F16, 512)] {
        let options = LlamaOptions { ctx: 256, cache_type, batch, logit_rows: n };
        let mut llama = Llama::load(text, b, &options).expect("a text model");
        let width = llama.config().vocab;
        llama.forward(b, &prompt, 0, Logits::All, &mut |_, _| true).expect("a prompt");
        let mut logits = vec![0.0; n * width];
        llama.logits(b, &mut logits).unwrap();
        let vocab = golden.tensor("logits").len() / n;
        if cache_type == DType::F32 {
            // llava-hf's added rows are no words: only the learned ones are recorded
            let known: Vec<f32> = logits.chunks(width).flat_map(|row| &row[..vocab]).copied().collect();
            check("logits", &known);
        }
        let last = logits.split_off((n - 1) * width);
        let found = greedy(&mut llama, b, last, n, vocab, expected.len());
        assert_eq!(found, expected, "{what}: greedy ids with a {cache_type:?} cache");
    }
}

/// One checkpoint folder of `tests/golden`, as `quantize` is asked for it.
pub fn source(folder_of: &str, golden: &Golden) -> Source {
    let path = folder().join(golden.name);
    // llava-hf folders hold their tower; the authors' need theirs, or (bundled) its sizes.
    let vision_tower = (folder_of != "hf").then(|| path.join("clip"));
    let template = golden.json["template"].as_str().map(String::from);
    let options = SourceOptions { vision_tower, template, ..SourceOptions::default() };
    Source::open(&path.join(folder_of), &options).expect("a checkpoint")
}

/// Writes `source` to `dir` in `file_type` and opens the text half and the vision half.
pub fn quantized(source: &Source, dir: &Path, file_type: FileType, layout: Layout) -> (File, File) {
    let mut recipe = Recipe::new(file_type);
    if file_type == FileType::F32 {
        recipe.vision_type = DType::F32;
    }
    let options = Options { layout, threads: 1, force: true, ..Options::new(recipe) };
    let report = run(source, &dir.join("model.gguf"), &options, &()).expect("a GGUF");
    let open = |path: &PathBuf| File::open(path).expect("our own GGUF");
    let (first, last) = (report.files.first().expect("a file"), report.files.last().expect("a file"));
    assert_eq!(report.files.len(), if layout == Layout::Pair { 2 } else { 1 });
    (open(first), open(last))
}

/// The prompt that the runtime makes of the question, from nothing but the files, is LLaVA's to the id.
fn check_prompt(golden: &Golden, what: &str, text: &File, vision: &File) {
    let vocabulary = Vocabulary::from_gguf(text).expect("a vocabulary");
    let format = Format::from_gguf(text, Some(vision)).expect("a template");
    let question = golden.json["question"].as_str().expect("a question");
    let turn = Turn { text: question, images: &[0], ..Turn::default() };
    let chunks = format.first_turn(&vocabulary, &turn).expect("a prompt");
    let ids: Vec<i64> = chunks
        .into_iter()
        .flat_map(|chunk| match chunk {
            Chunk::Tokens(ids) => ids.into_iter().map(i64::from).collect(),
            Chunk::Image(_) => vec![IMAGE],
        })
        .collect();
    assert_eq!(ids, golden.ids("ids"), "{} {what}: ids of the prompt", golden.name);
}

/// The folder as one file and as a pair, with the checkpoint's numbers in f32 and in f16 (the goldens' weights are exact
/// in both).
fn every_way(name: &'static str, folder_of: &str) {
    let golden = Golden::open(name);
    let source = source(folder_of, &golden);
    let dir = tempfile::tempdir().expect("a folder");
    for file_type in [FileType::F32, FileType::F16] {
        for layout in [Layout::OneFile, Layout::Pair] {
            let (text, vision) = quantized(&source, dir.path(), file_type, layout);
            let what = format!("{folder_of} {file_type:?} {layout:?}");
            check_prompt(&golden, &what, &text, &vision);
            let all = layout == Layout::OneFile;
            let isas = if all { Isa::available() } else { vec![Isa::best()] };
            for isa in isas {
                // There products of F16 weights run on whole numbers of 16 bits.
                let words = file_type == FileType::F16 && isa.name().starts_with("avx");
                let deviation = if words { "deviation_words" } else { "deviation" };
                let mut cpu = Cpu::new(CpuOptions { threads: 1, isa: Some(isa) });
                compare(&golden, &what, (&text, &vision), &mut cpu, deviation);
            }
            if all {
                on_gpus(&golden, &what, &text, &vision);
            }
        }
    }
}

/// On the best adapter, and on it with what an old one has: no subgroups, bindings so small that weights and caches lie in
/// several parts.
#[cfg(feature = "gpu")]
fn on_gpus(golden: &Golden, what: &str, text: &File, vision: &File) {
    let exact = Allow { cooperative_matrix: false, ..Allow::default() };
    let old = Allow { subgroups: false, binding: Some(24 << 10), ..exact.clone() };
    for allow in [exact, old] {
        let options = GpuOptions { allow, ..GpuOptions::default() };
        match Gpu::new(&options) {
            Ok(mut gpu) => compare(golden, what, (text, vision), &mut gpu, "deviation"),
            Err(error) => return eprintln!("skipped on a GPU: {error}"),
        }
    }
}

#[cfg(not(feature = "gpu"))]
fn on_gpus(_: &Golden, _: &str, _: &File, _: &File) {
    eprintln!("skipped on a GPU: built without the feature gpu");
}

#[test]
fn linear_224_from_the_authors_layout() {
    every_way("linear224", "authors");
}

#[test]
fn mlp_336_from_the_authors_layout() {
    every_way("mlp336", "authors");
}

#[test]
fn mlp_336_with_the_tower_inside() {
    every_way("mlp336", "bundled");
}

#[test]
fn mlp_336_from_llava_hf() {
    every_way("mlp336", "hf");
}

#[test]
fn grouped_queries_from_llava_hf() {
    every_way("gqa", "hf");
}
