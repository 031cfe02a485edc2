//! Sources made of several parts, on folders written here from the golden checkpoints' numbers.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use pumice_kernels::DType;
use pumice_models::{
    checkpoint::Folder,
    gguf::{File, Header, Writer},
};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

use super::*;
use crate::{FileType, Recipe};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

/// A tensor to be written: name, shape, elements.
type Made = (String, Vec<usize>, Vec<f32>);

fn write(path: &Path, tensors: &[Made]) {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|t| t.2.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|(t, b)| (t.0.clone(), TensorView::new(Dtype::F32, t.1.clone(), b).unwrap()));
    safetensors::serialize_to_file(views.collect::<HashMap<_, _>>(), None, path).unwrap();
}

/// The tensors of a golden folder whose names pass, in f32.
fn tensors_of(name: &str, pass: impl Fn(&str) -> bool) -> Vec<Made> {
    let folder = Folder::open(&golden(name)).unwrap();
    let wanted = folder.tensors().iter().filter(|t| pass(&t.name));
    wanted
        .map(|t| {
            let mut values = vec![0.0; t.elements()];
            t.to_f32(0, &mut values).unwrap();
            (t.name.clone(), t.shape.clone(), values)
        })
        .collect()
}

fn copy(from: &str, names: &[&str], to: &Path) {
    for name in names {
        std::fs::copy(golden(from).join(name), to.join(name)).unwrap();
    }
}

/// A folder with the text half of `linear224/authors` and a plain LLaMA's configuration.
fn vicuna() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let text = tensors_of("linear224/authors", |n| !n.contains("mm_projector") && !n.contains("inv_freq"));
    write(&dir.path().join("model.safetensors"), &text);
    copy("linear224/authors", &["tokenizer.model"], dir.path());
    let config = json!({
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3,
        "num_attention_heads": 4, "rms_norm_eps": 1e-6, "vocab_size": 416
    });
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    std::fs::write(dir.path().join("tokenizer_config.json"), r#"{"chat_template": "{{ messages }}"}"#)
        .unwrap();
    dir
}

fn values(source: &Source, name: &str) -> Vec<f32> {
    let tensor = source.tensors.iter().find(|t| t.name == name).unwrap_or_else(|| panic!("no {name}"));
    let mut out = vec![0.0; tensor.elements()];
    tensor.reader().unwrap().read(0, &mut out).unwrap();
    out
}

#[test]
fn a_text_model_alone_keeps_its_template_and_its_rows() {
    let dir = vicuna();
    let source = Source::open(dir.path(), &SourceOptions::default()).unwrap();
    assert!(source.has_text() && !source.has_vision());
    assert_eq!(source.tensors.len(), 3 + 3 * 9);
    assert_eq!(source.get("tokenizer.chat_template").and_then(Value::as_str), Some("{{ messages }}"));
}

#[test]
fn what_is_passed_over_is_told() {
    let dir = vicuna();
    std::fs::write(dir.path().join("mm_projector.bin"), b"").unwrap();
    let options = SourceOptions { template: Some("v1".into()), ..SourceOptions::default() };
    let notes = Source::open(dir.path(), &options).unwrap().notes().join("\n");
    assert!(notes.contains("mm_projector.bin is not read"), "{notes}");
    assert!(notes.contains("template"), "{notes}");
}

#[test]
fn a_base_model_and_a_projector_are_the_whole_model() {
    let whole = SourceOptions { vision_tower: Some(golden("linear224/clip")), ..SourceOptions::default() };
    let whole = Source::open(&golden("linear224/authors"), &whole).unwrap();
    let base = vicuna();
    let dir = tempfile::tempdir().unwrap();
    let projector = tensors_of("linear224/authors", |n| n.contains("mm_projector"));
    write(&dir.path().join("mm_projector.bin"), &projector);
    let tower = Some(golden("linear224/clip"));
    // A projector's folder or file with --base, and a base with --projector; without and with a configuration beside.
    for config in [false, true] {
        if config {
            copy("linear224/authors", &["config.json"], dir.path());
        }
        for (path, base, projector) in [
            (dir.path().to_path_buf(), Some(base.path().to_path_buf()), None),
            (dir.path().join("mm_projector.bin"), Some(base.path().to_path_buf()), None),
            (base.path().to_path_buf(), None, Some(dir.path().to_path_buf())),
        ] {
            let options =
                SourceOptions { base, projector, vision_tower: tower.clone(), ..SourceOptions::default() };
            let source = Source::open(&path, &options).unwrap();
            assert_eq!(source.tensors.len(), whole.tensors.len());
            for tensor in &whole.tensors {
                assert_eq!(values(&source, &tensor.name), values(&whole, &tensor.name), "{}", tensor.name);
            }
            assert_eq!(source.vision, whole.vision);
        }
    }
    let error = Source::open(dir.path(), &SourceOptions::default()).unwrap_err().to_string();
    assert!(error.contains("--base"), "{error}");
}

#[test]
fn rows_of_image_marks_are_kept_where_prompts_use_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut tensors = tensors_of("linear224/authors", |n| !n.contains("inv_freq"));
    for (name, shape, values) in &mut tensors {
        if name.contains("embed_tokens") || name.contains("lm_head") {
            // One row more than there are tokens, as padding to a round number makes them.
            shape[0] = 420;
            values.resize(420 * 64, 0.5);
        }
    }
    write(&dir.path().join("model.safetensors"), &tensors);
    copy("linear224/authors", &["tokenizer.model", "tokenizer_config.json"], dir.path());
    let added = r#"{"[PAD]": 416, "<im_start>": 417, "<im_end>": 418}"#;
    std::fs::write(dir.path().join("added_tokens.json"), added).unwrap();
    let config = std::fs::read_to_string(golden("linear224/authors/config.json")).unwrap();
    let options = SourceOptions { vision_tower: Some(golden("linear224/clip")), ..SourceOptions::default() };
    for (used, rows) in [(true, 419), (false, 416)] {
        let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
        config["mm_use_im_start_end"] = used.into();
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let source = Source::open(dir.path(), &options).unwrap();
        let dims = |name: &str| source.tensors.iter().find(|t| t.name == name).unwrap().dims.clone();
        assert_eq!((dims("token_embd.weight"), dims("output.weight")), (vec![64, rows], vec![64, rows]));
        let tokens = source.get("tokenizer.ggml.tokens").and_then(Value::as_array).unwrap();
        assert_eq!(tokens.len(), rows);
        assert_eq!(tokens.strings().unwrap().last().unwrap() == "<im_end>", used);
        assert_eq!(source.get("pumice.use_im_start_end"), Some(&Value::Bool(used)));
        assert!(source.notes.iter().any(|n| n.contains("are dropped")), "{:?}", source.notes);
    }
}

/// Numbers that a formula gives.
fn made(name: &str, rows: usize, cols: usize) -> Made {
    let values = (0..rows * cols).map(|i| ((i * 37 + name.len()) % 101) as f32 / 500.0 - 0.1).collect();
    (name.into(), vec![rows, cols], values)
}

/// A LoRA folder on `linear224/authors` with rank 3 on queries and down projections and a projector of its own.
fn adapter(config: serde_json::Value) -> (tempfile::TempDir, Vec<Made>, Vec<Made>) {
    let dir = tempfile::tempdir().unwrap();
    let prefix = "base_model.model.model.layers.1";
    let lora = vec![
        made(&format!("{prefix}.self_attn.q_proj.lora_A.weight"), 3, 64),
        made(&format!("{prefix}.self_attn.q_proj.lora_B.weight"), 64, 3),
        made(&format!("{prefix}.mlp.down_proj.lora_A.default.weight"), 3, 160),
        made(&format!("{prefix}.mlp.down_proj.lora_B.default.weight"), 64, 3),
    ];
    write(&dir.path().join("adapter_model.safetensors"), &lora);
    let trained = vec![
        made("base_model.model.model.mm_projector.weight", 64, 64),
        ("base_model.model.model.mm_projector.bias".into(), vec![64], vec![0.25; 64]),
    ];
    write(&dir.path().join("non_lora_trainables.bin"), &trained);
    std::fs::write(dir.path().join("adapter_config.json"), config.to_string()).unwrap();
    copy("linear224/authors", &["config.json"], dir.path());
    (dir, lora, trained)
}

#[test]
fn an_adapter_is_merged_as_its_formula_says() {
    let base_options =
        SourceOptions { vision_tower: Some(golden("linear224/clip")), ..SourceOptions::default() };
    let base = Source::open(&golden("linear224/authors"), &base_options).unwrap();
    for (rslora, scale) in [(false, 12.0 / 3.0), (true, 12.0 / 3f32.sqrt())] {
        let (dir, lora, trained) = adapter(json!({"r": 3, "lora_alpha": 12, "use_rslora": rslora}));
        let options = SourceOptions { base: Some(golden("linear224/authors")), ..base_options.clone() };
        let source = Source::open(dir.path(), &options).unwrap();
        assert_eq!(values(&source, "mm.0.weight"), trained[0].2);
        assert_eq!(values(&source, "mm.0.bias"), trained[1].2);
        let update = |a: &Made, b: &Made, row: usize, col: usize| {
            let cols = a.1[1];
            (0..3).map(|k| scale * b.2[row * 3 + k] * a.2[k * cols + col]).sum::<f32>()
        };
        let (before, after) =
            (values(&base, "blk.1.ffn_down.weight"), values(&source, "blk.1.ffn_down.weight"));
        for (i, (x, y)) in before.iter().zip(&after).enumerate() {
            // Three products summed in another order.
            assert!((x + update(&lora[2], &lora[3], i / 160, i % 160) - y).abs() < 1e-6, "element {i}");
        }
        // Queries: the update belongs to the row as it was before the reordering; heads of 16 rows.
        let (before, after) = (values(&base, "blk.1.attn_q.weight"), values(&source, "blk.1.attn_q.weight"));
        for (i, (x, y)) in before.iter().zip(&after).enumerate() {
            let (row, col) = (i / 64, i % 64);
            let old = row / 16 * 16 + row % 2 * 8 + row % 16 / 2;
            assert!((x + update(&lora[0], &lora[1], old, col) - y).abs() < 1e-6, "row {row}");
        }
        assert_eq!(values(&base, "blk.0.attn_q.weight"), values(&source, "blk.0.attn_q.weight"));
    }
}

#[test]
fn adapters_that_cannot_be_merged_are_refused() {
    let config = json!({"r": 3, "lora_alpha": 12, "base_model_name_or_path": "lmsys/vicuna-7b-v1.5"});
    let (dir, ..) = adapter(config);
    let error = Source::open(dir.path(), &SourceOptions::default()).unwrap_err().to_string();
    assert!(error.contains("lmsys/vicuna-7b-v1.5") && error.contains("--base"), "{error}");
    let options = SourceOptions {
        base: Some(golden("linear224/authors")),
        vision_tower: Some(golden("linear224/clip")),
        ..SourceOptions::default()
    };
    for (config, needle) in [
        (json!({"r": 3, "lora_alpha": 12, "use_dora": true}), "use_dora"),
        (json!({"r": 3, "lora_alpha": 12, "rank_pattern": {"q_proj": 4}}), "rank_pattern"),
    ] {
        let (dir, ..) = adapter(config);
        let error = Source::open(dir.path(), &options).unwrap_err().to_string();
        assert!(error.contains(needle), "{error}");
    }
    let (dir, mut lora, _) = adapter(json!({"r": 3, "lora_alpha": 12}));
    lora[3] = made(&lora[3].0, 63, 3);
    write(&dir.path().join("adapter_model.safetensors"), &lora);
    let error = Source::open(dir.path(), &options).unwrap_err().to_string();
    assert!(error.contains("[63, 3]") && error.contains("[64, 3]"), "{error}");
    lora.pop();
    write(&dir.path().join("adapter_model.safetensors"), &lora);
    let error = Source::open(dir.path(), &options).unwrap_err().to_string();
    assert!(error.contains("half of its LoRA pair"), "{error}");
}

#[test]
fn incomplete_and_foreign_checkpoints_are_refused() {
    let dir = vicuna();
    let open = || Source::open(dir.path(), &SourceOptions::default()).map(|_| ()).unwrap_err().to_string();
    let model = dir.path().join("model.safetensors");
    let all = tensors_of("linear224/authors", |n| !n.contains("mm_projector") && !n.contains("inv_freq"));
    let without: Vec<Made> = all.iter().filter(|t| !t.0.contains("layers.2.mlp.up_proj")).cloned().collect();
    write(&model, &without);
    assert!(open().contains("blk.2.ffn_up.weight"));
    let mut more = all.clone();
    more.push(made("model.layers.3.mlp.up_proj.weight", 160, 64));
    write(&model, &more);
    assert!(open().contains("num_hidden_layers"));
    let mut foreign = all.clone();
    foreign.push(made("model.layers.0.self_attn.q_norm.weight", 1, 64));
    write(&model, &foreign);
    assert!(open().contains("q_norm"));
    let mut tiles = all.clone();
    tiles.push(made("model.image_newline", 1, 64));
    write(&model, &tiles);
    assert!(open().contains("1.6"));
    write(&model, &all);
    std::fs::write(dir.path().join("config.json"), r#"{"model_type": "llama", "hidden_size": 128}"#).unwrap();
    let message = open();
    assert!(
        message.contains("token_embd.weight") && message.contains("[416, 64]") && message.contains("128"),
        "{message}"
    );
    std::fs::remove_file(dir.path().join("config.json")).unwrap();
    assert!(open().contains("config.json"));
}

/// The vision half of `source` as the converters of 2023 wrote it: MLP matrices swapped, no names of ours, `mm.weight`.
fn legacy_mmproj(source: &Source, path: &Path) {
    let mut header = Header::new();
    header.set("general.architecture", "clip");
    let unknown_then = ["clip.projector_type", "clip.vision.feature_layer"];
    for (key, value) in &source.vision {
        if !key.starts_with("pumice.") && !unknown_then.contains(&key.as_str()) {
            header.set(key, value.clone());
        }
    }
    let vision: Vec<_> =
        source.tensors.iter().filter(|t| t.name.starts_with("v.") || t.name.starts_with("mm.")).collect();
    let linear = !vision.iter().any(|t| t.name == "mm.2.weight");
    let old_name = |name: &str| match name {
        "mm.0.weight" if linear => "mm.weight".to_owned(),
        "mm.0.bias" if linear => "mm.bias".to_owned(),
        name if name.contains("ffn_up") => name.replace("ffn_up", "ffn_down"),
        name => name.replace("ffn_down", "ffn_up"),
    };
    for tensor in &vision {
        header.tensor(&old_name(&tensor.name), &tensor.dims, DType::F32);
    }
    let mut writer = Writer::create(path, header, false).unwrap();
    for tensor in vision {
        let bytes: Vec<u8> = values(source, &tensor.name).iter().flat_map(|v| v.to_le_bytes()).collect();
        writer.write(&old_name(&tensor.name), &bytes).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn a_pair_of_2023_becomes_what_the_checkpoint_becomes() {
    for (folder, tower) in [("mlp336/authors", "mlp336/clip"), ("linear224/authors", "linear224/clip")] {
        let options = SourceOptions { vision_tower: Some(golden(tower)), ..SourceOptions::default() };
        let source = Source::open(&golden(folder), &options).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (text, mmproj) = (dir.path().join("text.gguf"), dir.path().join("mmproj.gguf"));
        legacy_mmproj(&source, &mmproj);
        let run_options =
            crate::Options { layout: crate::Layout::Pair, ..crate::Options::new(Recipe::new(FileType::F32)) };
        crate::run(&source, &text, &run_options, &()).unwrap();
        let options = SourceOptions { mmproj: Some(mmproj.clone()), ..SourceOptions::default() };
        let pair = Source::open(&text, &options).unwrap();
        assert_eq!(pair.tensors.len(), source.tensors.len(), "{folder}");
        for tensor in &source.tensors {
            assert_eq!(
                values(&pair, &tensor.name),
                values(&source, &tensor.name),
                "{folder} {}",
                tensor.name
            );
        }
        assert_eq!(pair.vision, source.vision, "{folder}");
        assert!(pair.notes.iter().any(|n| n.contains("does not say")), "{folder}: {:?}", pair.notes);
        // The vision half alone can be quantized too.
        let alone = Source::open(&mmproj, &SourceOptions::default()).unwrap();
        assert!(!alone.has_text() && alone.vision == source.vision);
        let small = Recipe { vision_type: DType::Q8_0, ..Recipe::new(FileType::F16) };
        let out = dir.path().join("small.gguf");
        crate::run(&alone, &out, &crate::Options::new(small), &()).unwrap();
        let file = File::open(&out).unwrap();
        assert_eq!(file.need_str("general.architecture").unwrap(), "clip");
        assert_eq!(file.need_tensor("v.blk.0.ffn_up.weight").unwrap().dtype, Some(DType::Q8_0));
    }
}

#[test]
fn quantizing_again_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("q8.gguf");
    let source = Source::open(&golden("mlp336/hf"), &SourceOptions::default()).unwrap();
    crate::run(&source, &path, &crate::Options::new(Recipe::new(FileType::Q8_0)), &()).unwrap();
    let again = Source::open(&path, &SourceOptions::default()).unwrap();
    assert!(again.notes.iter().any(|n| n.contains("quantized already")), "{:?}", again.notes);
    assert_eq!(again.vision, source.vision);
    let mmproj = SourceOptions { mmproj: Some(golden("gqa/hf")), ..SourceOptions::default() };
    assert!(Source::open(&path, &mmproj).is_err());
}

#[test]
fn names_of_choices_are_checked() {
    let options = SourceOptions { template: Some("vicuna".into()), ..SourceOptions::default() };
    let error = Source::open(&golden("mlp336/hf"), &options).unwrap_err().to_string();
    assert!(error.contains("vicuna") && error.contains("llava_v1"), "{error}");
    let options = SourceOptions {
        template: Some("v1_mmtag".into()),
        image_aspect_ratio: Some("square".into()),
        ..SourceOptions::default()
    };
    let source = Source::open(&golden("mlp336/hf"), &options).unwrap();
    assert_eq!(source.get("pumice.template").and_then(Value::as_str), Some("v1_mmtag"));
    assert_eq!(source.get("pumice.image_aspect_ratio").and_then(Value::as_str), Some("square"));
}

#[test]
fn a_path_that_is_no_model_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (path, needle) in
        [(dir.path().join("absent"), "does not exist"), (dir.path().to_path_buf(), "no weights")]
    {
        let error = Source::open(&path, &SourceOptions::default()).unwrap_err().to_string();
        assert!(error.contains(needle), "{error}");
    }
    let text = dir.path().join("notes.txt");
    std::fs::write(&text, "hello").unwrap();
    assert!(Source::open(&text, &SourceOptions::default()).is_err());
}

#[test]
fn a_bundled_tower_is_what_the_checkpoint_says_of_it() {
    let dir = tempfile::tempdir().unwrap();
    copy("mlp336/bundled", &["config.json", "pytorch_model.bin", "tokenizer.model"], dir.path());
    let heads = || {
        let source = Source::open(dir.path(), &SourceOptions::default()).unwrap();
        let heads = source.get("clip.vision.attention.head_count").cloned();
        (heads, source.notes().iter().any(|note| note.contains("--vision-tower")))
    };
    assert_eq!(heads(), (Some(Value::U32(1)), true), "CLIP's heads are 64 wide, and so it is guessed");
    let json =
        |path: &Path| -> serde_json::Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    let mut config = json(&dir.path().join("config.json"));
    config["vision_config"] = json(&golden("mlp336/clip/config.json"))["vision_config"].take();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    assert_eq!(heads(), (Some(Value::U32(4)), false));
}
