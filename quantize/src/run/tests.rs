//! Runs on the tiny golden checkpoints and on folders written here: what comes out, and what stays when a run fails.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use pumice_models::{
    checkpoint::Folder,
    config::{LlamaConfig, VisionConfig},
    gguf::File,
};

use super::*;
use crate::{FileType, SourceOptions};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

fn with_tower(tower: &str) -> SourceOptions {
    SourceOptions { vision_tower: Some(golden(tower)), ..SourceOptions::default() }
}

fn convert_to(dir: &Path, source: &Source, file_type: FileType) -> File {
    let out = dir.join(format!("{file_type}.gguf"));
    let mut options = Options::new(Recipe::new(file_type));
    options.threads = 2;
    options.force = true;
    run(source, &out, &options, &()).unwrap();
    File::open(&out).unwrap()
}

/// All elements of a GGUF tensor.
fn values(file: &File, name: &str) -> Vec<f32> {
    let info = file.need_tensor(name).unwrap();
    let mut out = vec![0.0; info.elements()];
    pumice_kernels::quant::dequantize(info.dtype.unwrap(), &file.bytes(info), &mut out);
    out
}

/// All elements of a checkpoint's tensor.
fn original(folder: &Folder, name: &str) -> Vec<f32> {
    let tensor = folder.need_tensor(name).unwrap();
    let mut out = vec![0.0; tensor.elements()];
    tensor.to_f32(0, &mut out).unwrap();
    out
}

/// Rows reordered as GGUF's rotation wants them, by the formula of the format: view [heads, 2, half, cols], swap the
/// middle two.
fn swapped(rows: &[f32], heads: usize, cols: usize) -> Vec<f32> {
    let half = rows.len() / cols / heads / 2;
    let row = |head: usize, s: usize, i: usize| ((head * 2 + s) * half + i) * cols;
    let order = (0..heads).flat_map(|h| (0..half).flat_map(move |i| [(h, 0, i), (h, 1, i)]));
    order.flat_map(|(h, s, i)| &rows[row(h, s, i)..][..cols]).copied().collect()
}

#[test]
fn a_folder_of_hugging_face_keeps_every_value_in_f16() {
    let dir = tempfile::tempdir().unwrap();
    let source = Source::open(&golden("gqa/hf"), &SourceOptions::default()).unwrap();
    let file = convert_to(dir.path(), &source, FileType::F16);
    let folder = Folder::open(&golden("gqa/hf")).unwrap();
    let text = |name: &str| {
        let with =
            |prefix: &str| folder.tensor(&format!("{prefix}{name}")).map(|t| original(&folder, &t.name));
        with("language_model.model.").or_else(|| with("model.language_model.")).unwrap()
    };
    let cols = 128;
    assert_eq!(values(&file, "token_embd.weight"), text("embed_tokens.weight")[..416 * cols]);
    assert_eq!(
        values(&file, "blk.2.attn_q.weight"),
        swapped(&text("layers.2.self_attn.q_proj.weight"), 4, cols)
    );
    assert_eq!(
        values(&file, "blk.1.attn_k.weight"),
        swapped(&text("layers.1.self_attn.k_proj.weight"), 2, cols)
    );
    assert_eq!(values(&file, "blk.1.attn_v.weight"), text("layers.1.self_attn.v_proj.weight"));
    assert_eq!(values(&file, "blk.0.ffn_down.weight"), text("layers.0.mlp.down_proj.weight"));
    assert_eq!(values(&file, "blk.0.ffn_norm.weight"), text("layers.0.post_attention_layernorm.weight"));
    let vision = |end: &str| {
        let tensor =
            folder.tensors().iter().find(|t| t.name.contains("vision") && t.name.ends_with(end)).unwrap();
        original(&folder, &tensor.name)
    };
    assert_eq!(values(&file, "v.patch_embd.weight"), vision("embeddings.patch_embedding.weight"));
    assert_eq!(values(&file, "v.blk.2.ffn_up.weight"), vision("encoder.layers.2.mlp.fc1.weight"));
    assert_eq!(values(&file, "v.blk.0.attn_q.weight"), vision("encoder.layers.0.self_attn.q_proj.weight"));
    assert_eq!(values(&file, "v.blk.0.attn_q.bias"), vision("encoder.layers.0.self_attn.q_proj.bias"));
}

#[test]
fn the_files_are_read_back_as_the_models_they_are() {
    let dir = tempfile::tempdir().unwrap();
    for (folder, options, projector, aspect, template) in [
        ("gqa/hf", SourceOptions::default(), "mlp2x_gelu", "pad", "llava_v1"),
        ("mlp336/hf", SourceOptions::default(), "mlp2x_gelu", "pad", "llava_v1"),
        ("mlp336/authors", with_tower("mlp336/clip"), "mlp2x_gelu", "pad", "llava_v1"),
        ("mlp336/bundled", with_tower("mlp336/clip"), "mlp2x_gelu", "pad", "llava_v1"),
        ("linear224/authors", with_tower("linear224/clip"), "linear", "square", "llava_v0"),
    ] {
        let source = Source::open(&golden(folder), &options).unwrap();
        let file = convert_to(dir.path(), &source, FileType::F32);
        let llama = LlamaConfig::read(&file).unwrap();
        let vision = VisionConfig::read(&file).unwrap();
        vision.check_fits(&file, &file, &llama).unwrap();
        assert_eq!((llama.vocab, llama.blocks), (416, 3), "{folder}");
        assert_eq!(vision.clip.blocks, 3, "{folder}: the output of block 3 of 4 is the feature");
        assert_eq!(vision.projector.name(), projector, "{folder}");
        assert_eq!(file.need_str("pumice.image_aspect_ratio").unwrap(), aspect, "{folder}");
        assert_eq!(file.need_str("pumice.template").unwrap(), template, "{folder}");
        assert_eq!(file.need_u32("tokenizer.ggml.bos_token_id").unwrap(), 1, "{folder}");
        assert_eq!(file.need_u32("tokenizer.ggml.padding_token_id").unwrap(), 0, "{folder}");
        assert_eq!(file.tensor("v.blk.3.ln1.weight"), None, "{folder}: block 4 of 4 never runs");
    }
}

#[test]
fn four_layouts_of_one_model_give_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for (folder, options) in [
        ("mlp336/hf", SourceOptions::default()),
        ("mlp336/authors", with_tower("mlp336/clip")),
        ("mlp336/bundled", with_tower("mlp336/clip")),
    ] {
        let source = Source::open(&golden(folder), &options).unwrap();
        let file = convert_to(dir.path(), &source, FileType::Q8_0);
        files.push(
            file.tensors().iter().map(|t| (t.name.clone(), values(&file, &t.name))).collect::<Vec<_>>(),
        );
    }
    assert_eq!(files[0].len(), 3 + 3 * 9 + 5 + 3 * 16 + 4);
    assert!(files[0] == files[1] && files[1] == files[2]);
}

#[test]
fn a_pair_holds_what_one_file_holds_and_becomes_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let source = Source::open(&golden("mlp336/hf"), &SourceOptions::default()).unwrap();
    let one = convert_to(dir.path(), &source, FileType::F16);
    let out = dir.path().join("pair.gguf");
    let options = Options { layout: Layout::Pair, ..Options::new(Recipe::new(FileType::F16)) };
    let report = run(&source, &out, &options, &()).unwrap();
    let mmproj = dir.path().join("mmproj-pair.gguf");
    assert_eq!(report.files, [out.clone(), mmproj.clone()]);
    let (text, vision) = (File::open(&out).unwrap(), File::open(&mmproj).unwrap());
    assert_eq!(text.need_str("general.architecture").unwrap(), "llama");
    assert_eq!(vision.need_str("general.architecture").unwrap(), "clip");
    assert!(text.keys().all(|(k, _)| !k.starts_with("clip.") && !k.starts_with("pumice.")));
    assert_eq!(text.tensors().len() + vision.tensors().len(), one.tensors().len());
    let pair = SourceOptions { mmproj: Some(mmproj), ..SourceOptions::default() };
    let again = convert_to(&dir.path().join(""), &Source::open(&out, &pair).unwrap(), FileType::F16);
    for tensor in one.tensors() {
        assert_eq!(values(&one, &tensor.name), values(&again, &tensor.name), "{}", tensor.name);
    }
    let keys = |file: &File| {
        let mut keys: Vec<_> = file
            .keys()
            .map(|(k, v)| (k.to_owned(), v.clone()))
            .filter(|(k, _)| k != "general.name")
            .collect();
        keys.sort_by(|a, b| a.0.cmp(&b.0));
        keys
    };
    assert_eq!(keys(&one), keys(&again));
}

#[test]
fn a_missing_vision_tower_is_named() {
    let error = Source::open(&golden("mlp336/authors"), &SourceOptions::default()).unwrap_err().to_string();
    assert!(
        error.contains("openai/clip-vit-large-patch14-336") && error.contains("--vision-tower"),
        "{error}"
    );
}

#[test]
fn a_tower_that_does_not_fit_is_refused_with_both_shapes() {
    let error = Source::open(&golden("mlp336/authors"), &with_tower("gqa/hf")).unwrap_err().to_string();
    assert!(error.contains("mm.0.weight") && error.contains("96") && error.contains("64"), "{error}");
}

#[test]
fn original_rows_of_the_vocabulary_are_kept_on_request() {
    let options = SourceOptions { keep_original_vocab_rows: true, ..SourceOptions::default() };
    let dir = tempfile::tempdir().unwrap();
    let file = convert_to(dir.path(), &Source::open(&golden("mlp336/hf"), &options).unwrap(), FileType::F16);
    assert_eq!(file.need_tensor("token_embd.weight").unwrap().dims, [64, 448]);
    assert_eq!(file.need_tensor("output.weight").unwrap().dims, [64, 448]);
    let tokens = file.need_strings("tokenizer.ggml.tokens").unwrap();
    assert_eq!(
        (tokens[416].as_str(), tokens[417].as_str(), tokens[447].as_str()),
        ("<image>", "<pad>", "[PAD447]")
    );
    assert_eq!(tokens.len(), 448);
}

/// Stops after some pieces.
struct Stop(AtomicUsize);

impl Progress for Stop {
    fn advance(&self, _: u64, _: u64) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed) < 20
    }
}

#[test]
fn a_stopped_run_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let source = Source::open(&golden("mlp336/hf"), &SourceOptions::default()).unwrap();
    let options = Options { layout: Layout::Pair, ..Options::new(Recipe::new(FileType::F16)) };
    let error = run(&source, &dir.path().join("a.gguf"), &options, &Stop(AtomicUsize::new(0))).unwrap_err();
    assert!(matches!(error, Error::Cancelled));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn an_existing_output_is_kept_unless_forced() {
    let dir = tempfile::tempdir().unwrap();
    let source = Source::open(&golden("mlp336/hf"), &SourceOptions::default()).unwrap();
    let mut options = Options { layout: Layout::Pair, ..Options::new(Recipe::new(FileType::F16)) };
    // The second file of a pair counts too.
    let (out, mmproj) = (dir.path().join("a.gguf"), dir.path().join("mmproj-a.gguf"));
    std::fs::write(&mmproj, "precious").unwrap();
    let error = run(&source, &out, &options, &()).unwrap_err();
    assert!(matches!(error, Error::Exists { ref path } if *path == mmproj), "{error}");
    assert_eq!(std::fs::read(&mmproj).unwrap(), b"precious");
    assert!(!out.exists());
    options.force = true;
    run(&source, &out, &options, &()).unwrap();
    assert!(File::open(&mmproj).is_ok() && out.exists());
}

#[test]
fn a_source_is_never_overwritten_by_its_own_output() {
    let dir = tempfile::tempdir().unwrap();
    let source = Source::open(&golden("mlp336/hf"), &SourceOptions::default()).unwrap();
    let path = dir.path().join("a.gguf");
    run(&source, &path, &Options::new(Recipe::new(FileType::F16)), &()).unwrap();
    let before = std::fs::read(&path).unwrap();
    let source = Source::open(&path, &SourceOptions::default()).unwrap();
    let options = Options { force: true, ..Options::new(Recipe::new(FileType::Q8_0)) };
    let error = run(&source, &path, &options, &()).unwrap_err();
    assert!(matches!(error, Error::OverSource { .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn errors_are_measured_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let source = Source::open(&golden("gqa/hf"), &SourceOptions::default()).unwrap();
    let options = Options { measure: true, ..Options::new(Recipe::new(FileType::Q4_0)) };
    let out = dir.path().join("a.gguf");
    let report = run(&source, &out, &options, &()).unwrap();
    let file = File::open(&out).unwrap();
    let of = |name: &str| report.tensors.iter().find(|t| t.planned.name == name).unwrap();
    assert!(of("blk.0.attn_norm.weight").error.is_none());
    let error = of("blk.0.ffn_up.weight").error.unwrap();
    let folder = Folder::open(&golden("gqa/hf")).unwrap();
    let name =
        &folder.tensors().iter().find(|t| t.name.ends_with("layers.0.mlp.up_proj.weight")).unwrap().name;
    let (before, after) = (original(&folder, name), values(&file, "blk.0.ffn_up.weight"));
    let square = |x: f64| x * x;
    let noise: f64 = before.iter().zip(&after).map(|(a, b)| square(f64::from(a - b))).sum();
    assert!(error.rmse() > 0.0);
    // Sums in another order: a few units in the last place.
    assert!((error.rmse() - (noise / before.len() as f64).sqrt()).abs() < 1e-9);
}

#[test]
fn a_shard_that_is_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden("gqa/hf")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    std::fs::remove_file(dir.path().join("model-00002-of-00003.safetensors")).unwrap();
    let error = Source::open(dir.path(), &SourceOptions::default()).unwrap_err().to_string();
    assert!(error.contains("model-00002-of-00003.safetensors"), "{error}");
}
