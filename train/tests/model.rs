//! The modules on libtorch against PyTorch's goldens, against the runtime on the same weights, and through their own files.

use std::path::{Path, PathBuf};

use pumice_kernels::{
    Backend, Bytes, DType,
    cpu::{Cpu, CpuOptions},
};
use pumice_models::{
    checkpoint,
    gguf::File,
    llama::{Input, Llama, LlamaOptions, Logits},
    vision::Vision,
};
use pumice_quantize::{FileType, Options, Recipe, Source, SourceOptions, run_in_memory};
use pumice_train::{
    data::Batch,
    model::{
        ClipConfig, LlamaConfig, Llava, LlavaConfig, Projector, Scaling, VisionConfig,
        checkpoint::{
            Load, Saved, load, load_clip, save_authors, save_clip, save_llama, save_llava_hf, save_projector,
        },
        clip, llama,
    },
};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

/// How many times the recorded rounding deviation two correct programs may differ: each may be off by as much as one.
const SLACK: f64 = 2.0;
/// What stands for the picture in the recorded ids.
const IMAGE: i64 = -200;

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden")
}

/// A recorded tensor of the file at `path`, flat.
fn recorded(path: &Path, name: &str) -> Vec<f32> {
    let folder = checkpoint::Folder::open(path).expect("safetensors");
    let t = folder.need_tensor(name).expect("a recorded tensor");
    let mut out = vec![0.0; t.elements()];
    t.to_f32(0, &mut out).expect("f32");
    out
}

fn json(name: &str) -> Value {
    checkpoint::json(&goldens().join(format!("{name}.json"))).expect("JSON")
}

fn ids(json: &Value, key: &str) -> Vec<i64> {
    json[key].as_array().expect("ids").iter().map(|v| v.as_i64().expect("an id")).collect()
}

fn flat(t: &Tensor) -> Vec<f32> {
    Vec::try_from(t.detach().to_kind(Kind::Float).reshape([-1])).expect("floats")
}

fn worst(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let off = a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs()));
    off.fold(0.0, |m, d| if d.is_nan() { f64::INFINITY } else { m.max(d) })
}

/// The checkpoint `folder` of golden `name`, in f32; trainable where asked.
fn model(name: &str, folder: &str, trainable: bool) -> Llava {
    let path = goldens().join(name);
    let vision_tower = (folder != "hf").then(|| path.join("clip"));
    let mut model =
        load(&path.join(folder), &Load { vision_tower, ..Load::default() }).expect("a checkpoint");
    for unit in model.units_mut() {
        let frozen = std::mem::replace(unit, pumice_train::unit::Unit::frozen("", Vec::new()));
        *unit = match trainable && frozen.name != "clip" {
            true => frozen.trainable(Kind::Float, Device::Cpu, 1),
            false => frozen.to(Kind::Float, Device::Cpu),
        };
    }
    model
}

/// A batch of one sample: the recorded prompt with its picture.
fn prompt(name: &str) -> Batch {
    let json = json(name);
    let count = json["image_tokens"].as_u64().expect("a count") as usize;
    let recorded_ids = ids(&json, "ids");
    let first = recorded_ids.iter().position(|&i| i == IMAGE).expect("a picture");
    let expand = |&i: &i64| if i == IMAGE { vec![0; count] } else { vec![i] };
    let ids: Vec<i64> = recorded_ids.iter().flat_map(expand).collect();
    let images = recorded(&goldens().join(format!("{name}.safetensors")), "pixels");
    let size = (images.len() / 3).isqrt();
    let (t, labels) = (ids.len(), vec![-100; ids.len()]);
    Batch { ids, labels, b: 1, t, images, places: vec![(0, first)], size, rows: vec![name.into()] }
}

/// Features, projected rows and logits of the recorded prompt; logits of the learned words only.
fn stages(model: &Llava, name: &str) -> [Vec<f32>; 3] {
    let batch = prompt(name);
    let features = model.features(&batch).expect("features").expect("a picture");
    let rows = model.project(&features).expect("rows");
    let vocab = recorded(&goldens().join(format!("{name}.safetensors")), "logits").len() / batch.t;
    let logits = model.logits(&batch).expect("logits").narrow(2, 0, vocab as i64);
    [flat(&features), flat(&rows), flat(&logits)]
}

#[test]
fn a_feature_layer_that_is_not_there_is_named() {
    let mut model = model("mlp336", "authors", false);
    let layers = model.vision().expect("a tower").clip.layers;
    let said = |select_layer, model: &mut Llava| {
        model.config.vision.as_mut().expect("a tower").select_layer = select_layer;
        model.features(&prompt("mlp336")).err().map(|e| e.to_string())
    };
    assert!(said(layers + 1, &mut model).expect("beyond").contains(&format!("layer {}", layers + 1)));
    assert!(said(-layers - 2, &mut model).is_some(), "before the first");
    // A file may leave out the blocks that LLaVA never runs.
    let last = format!("encoder.layers.{}.", layers - 1);
    let (slots, leaves) = (std::mem::take(&mut model.clip.slots), std::mem::take(&mut model.clip.leaves));
    let left = slots.into_iter().zip(leaves).filter(|(slot, _)| !slot.name.contains(&last));
    (model.clip.slots, model.clip.leaves) = left.unzip();
    assert_eq!(said(-2, &mut model), None);
    assert!(said(-1, &mut model).is_some(), "the last block is not there");
}

#[test]
fn every_layout_computes_what_pytorch_computes() {
    for (name, folder) in [
        ("linear224", "authors"),
        ("mlp336", "authors"),
        ("mlp336", "bundled"),
        ("mlp336", "hf"),
        ("gqa", "hf"),
    ] {
        let model = model(name, folder, false);
        let deviation = &json(name)["deviation"];
        for (what, found) in ["features", "projected", "logits"].iter().zip(stages(&model, name)) {
            let expected = recorded(&goldens().join(format!("{name}.safetensors")), what);
            let (off, one) = (worst(&found, &expected), deviation[what].as_f64().expect("a deviation"));
            println!("{name} {folder} {what}: {:.2} of the recorded deviation", off / one);
            assert!(off <= SLACK * one, "{name} {folder} {what}: off by {off:e}, recorded deviation {one:e}");
        }
    }
}

/// The runtime's features, rows and logits of the same prompt, from the same weights in an f32 GGUF.
fn runtime(source: &Source, name: &str) -> [Vec<f32>; 3] {
    let mut recipe = Recipe::new(FileType::F32);
    recipe.vision_type = DType::F32;
    let bytes = run_in_memory(source, &Options { threads: 1, ..Options::new(recipe) }, &()).expect("a GGUF");
    let file = File::from_bytes("memory", Bytes::new(bytes)).expect("our own GGUF");
    let b = &mut Cpu::new(CpuOptions { threads: 1, isa: None });
    let batch = prompt(name);
    let tower = pumice_models::clip::Clip::load(&file, b).expect("a tower");
    let features = tower.encode(b, &batch.images);
    let mut read = vec![0.0; features.rows * features.cols];
    b.read(&mut read, features).expect("the CPU is not lost");
    let rows = Vision::load(&file, b).expect("a tower").encode(b, &batch.images).expect("rows");
    let options = LlamaOptions { ctx: 256, cache_type: DType::F32, batch: 512, logit_rows: batch.t };
    let mut llama = Llama::load(&file, b, &options).expect("a text model");
    let tokens: Vec<u32> = batch.ids.iter().map(|&i| i as u32).collect();
    let (first, count) = (batch.places[0].1, json(name)["image_tokens"].as_u64().expect("a count") as usize);
    let input =
        [Input::Tokens(&tokens[..first]), Input::Rows(&rows), Input::Tokens(&tokens[first + count..])];
    llama.forward(b, &input, 0, Logits::All, &mut |_, _| true).expect("a pass");
    let width = llama.config().vocab;
    let mut logits = vec![0.0; batch.t * width];
    llama.logits(b, &mut logits).expect("logits");
    let vocab = recorded(&goldens().join(format!("{name}.safetensors")), "logits").len() / batch.t;
    [read, rows, logits.chunks(width).flat_map(|row| &row[..vocab]).copied().collect()]
}

#[test]
fn the_runtime_computes_the_same_from_what_is_saved() {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, folder) in [("linear224", "authors"), ("mlp336", "authors"), ("gqa", "hf")] {
        let model = model(name, folder, false);
        let tokenizer = Some(goldens().join(name).join(folder));
        let saved = Saved { kind: Kind::Float, tokenizer, tower: true };
        let (hf, authors) =
            (dir.path().join(format!("{name}-hf")), dir.path().join(format!("{name}-authors")));
        let mut folders = vec![&authors];
        save_authors(&model, &authors, &saved).expect("a folder");
        let refused = save_llava_hf(&model, &hf, &saved);
        match name {
            "linear224" => assert!(refused.expect_err("one layer").to_string().contains("mlp2x_gelu")),
            _ => folders.push(&hf),
        }
        let tower = dir.path().join(format!("{name}-clip"));
        let vision = model.vision().expect("a tower");
        save_clip(&vision.clip, &model.clip, vision.pad, &tower, Kind::Float).expect("a folder");
        let ours = stages(&model, name);
        for path in folders {
            let vision_tower = (path == &authors).then(|| tower.clone());
            let source = Source::open(path, &SourceOptions { vision_tower, ..SourceOptions::default() });
            let theirs = runtime(&source.expect("what was saved is a source"), name);
            for ((what, ours), theirs) in ["features", "projected", "logits"].iter().zip(&ours).zip(&theirs) {
                let one = json(name)["deviation"][what].as_f64().expect("a deviation");
                let off = worst(ours, theirs);
                println!("{}: {what}: {:.2} of the recorded deviation", path.display(), off / one);
                assert!(off <= SLACK * one, "{}: {what}: off by {off:e}, may be {one:e}", path.display());
            }
        }
    }
}

/// The padded batch of two that tests/golden/model.py makes, and its labels.
fn labelled(name: &str) -> Batch {
    let mut batch = prompt(name);
    let greedy = ids(&json(name), "greedy");
    let start = batch.t;
    batch.ids.extend(&greedy[..12]);
    let second: Vec<i64> = [1].into_iter().chain(greedy[..40].iter().copied()).collect();
    batch.t = batch.ids.len().max(second.len());
    let mut labels: Vec<i64> = (0..batch.t).map(|i| if i < start { -100 } else { batch.ids[i] }).collect();
    labels.extend((0..batch.t).map(|i| if i < 5 { -100 } else { *second.get(i).unwrap_or(&-100) }));
    batch.ids.extend((0..batch.t).map(|i| second.get(i).unwrap_or(&0)));
    Batch { labels, b: 2, rows: vec!["first".into(), "second".into()], ..batch }
}

/// All gradients of a model's leaves by plain autograd, under their names.
fn gradients(model: &Llava, batch: &Batch) -> (f64, Vec<(String, Tensor)>) {
    let loss = model.loss(batch).expect("a loss");
    loss.backward();
    let slots = model.units().flat_map(|u| u.slots.iter().zip(&u.leaves));
    let grads = slots.filter(|(_, t)| t.requires_grad()).map(|(s, t)| (s.name.clone(), t.grad())).collect();
    (loss.double_value(&[]), grads)
}

/// Compares with what tests/golden/model.py recorded under `prefix`. Both sides are f32 programs whose sums run in other orders; relative to
/// the largest gradient of a tensor, √k·2⁻²⁴ a product over a few hundred products in a row stays below 3e-5 (found: 6e-6).
fn check_gradients(prefix: &str, found: (f64, Vec<(String, Tensor)>)) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/model.safetensors");
    let loss = f64::from(recorded(&path, &format!("{prefix}.loss"))[0]);
    assert!((loss - found.0).abs() < 2e-6 * loss, "{prefix}: loss {} and not {loss}", found.0);
    let folder = checkpoint::Folder::open(&path).expect("safetensors");
    let mut compared = 0;
    for (name, grad) in &found.1 {
        let key = format!("{prefix}.{name}");
        if folder.tensor(&key).is_none() {
            continue;
        }
        let expected = recorded(&path, &key);
        let found = &flat(grad)[..expected.len()];
        let largest = grad.abs().max().double_value(&[]);
        let off = worst(found, &expected) / largest;
        println!("{key}: {off:.1e} of the largest");
        assert!(off < 3e-5, "{key}: off by {off:e} of the largest gradient");
        compared += 1;
    }
    assert!(compared >= 3, "{prefix}: {compared} gradients compared");
}

#[test]
fn loss_and_gradients_are_transformers() {
    for (name, folder) in [("gqa", "hf"), ("mlp336", "hf")] {
        check_gradients(name, gradients(&model(name, folder, true), &labelled(name)));
    }
}

/// As `formula` in tests/golden/model.py.
fn formula(shape: &[i64], seed: i64) -> Tensor {
    let n: i64 = shape.iter().product();
    let values: Vec<f32> =
        (0..n).map(|i| (((i * 7919 + seed * 104729) % 1009) as f64 / 1009.0 - 0.5) as f32).collect();
    Tensor::from_slice(&values).reshape(shape)
}

/// Fills units by [`formula`], seeds by the order of the names.
fn fill(units: Vec<&mut pumice_train::unit::Unit>, scale: f64) {
    let mut slots: Vec<_> =
        units.into_iter().flat_map(|u| u.slots.iter().map(|s| s.name.clone()).zip(&mut u.leaves)).collect();
    slots.sort_by(|a, b| a.0.cmp(&b.0));
    for (seed, (name, leaf)) in slots.into_iter().enumerate() {
        let one = f64::from(name.contains("norm") && name.ends_with("weight"));
        *leaf = formula(&leaf.size(), seed as i64) * scale + one;
    }
}

/// The tied LLaMA of tests/golden/model.py, with Llama 3's frequencies.
fn tied() -> (Llava, Batch) {
    let mut text = LlamaConfig::new(96, 32, 48, 2, 4, 64);
    (text.kv_heads, text.tied, text.rope_base) = (2, true, 500.0);
    text.scaling = Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, context: 16.0 };
    let mut model = Llava::init(LlavaConfig { text, vision: None, image_id: None }, Kind::Float, Device::Cpu);
    fill(model.units_mut().collect(), 1.0);
    for unit in model.units_mut() {
        let frozen = std::mem::replace(unit, pumice_train::unit::Unit::frozen("", Vec::new()));
        *unit = frozen.trainable(Kind::Float, Device::Cpu, 1);
    }
    let ids: Vec<i64> = (0..40).map(|i| i * 37 % 96).collect();
    (model, Batch { labels: ids.clone(), ids, b: 2, t: 20, ..Batch::default() })
}

#[test]
fn a_tied_table_learns_from_both_its_uses() {
    let (model, batch) = tied();
    check_gradients("tied", gradients(&model, &batch));
}

#[test]
fn the_whole_tower_with_exact_gelu_is_transformers() {
    let mut cfg = ClipConfig::new(28, 14, 32, 64, 2, 2);
    cfg.gelu = true;
    let mut unit = clip::init(&cfg, Kind::Float, Device::Cpu);
    fill(vec![&mut unit], 0.5);
    let found = clip::forward(&unit, &cfg, &formula(&[2, 3, 28, 28], 99));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/model.safetensors");
    for (name, found) in [("tower.pooled", found.pooled), ("tower.patches", found.patches)] {
        let off = worst(&flat(&found), &recorded(&path, name));
        assert!(off < 1e-5, "{name}: off by {off:e}");
    }
}

#[test]
fn the_head_chunk_by_chunk_gives_the_gradients_of_the_whole() {
    for is_tied in [true, false] {
        let (model, batch) = tied();
        let mut cfg = model.config.text.clone();
        cfg.tied = is_tied;
        let table = is_tied.then(|| model.embed.get("embed_tokens.weight"));
        let head = llama::init("head", llama::head_slots(&cfg), Kind::Float, Device::Cpu);
        let head = head.trainable(Kind::Float, Device::Cpu, 1);
        let x = formula(&[2, 20, 32], 5).set_requires_grad(true);
        let targets = llama::Targets::new(&batch, Device::Cpu).expect("labels");
        assert_eq!(targets.len(), 38, "the first position of each sample is predicted by none");
        let leaves: Vec<&Tensor> = [&x].into_iter().chain(&head.leaves).chain(table).collect();
        // Whole, and in five chunks of 7 with a rest of 3.
        let [whole, parts] = [1000, 7].map(|chunk| {
            let loss = llama::head_loss(&head, table, &cfg, &x, &targets, chunk);
            let mut all = Tensor::run_backward(&[&loss], &leaves, false, false);
            all.push(loss);
            all
        });
        assert_eq!(whole.len(), 4);
        for (i, (expected, found)) in whole.iter().zip(&parts).enumerate() {
            let off = worst(&flat(found), &flat(expected)) / expected.abs().max().double_value(&[]);
            assert!(off < 2e-6, "gradient {i}: off by {off:e}");
        }
    }
}

/// A tiny LLaVA with random weights.
fn tiny(projector: Projector, tied: bool) -> Llava {
    let mut text = LlamaConfig::new(70, 32, 48, 2, 4, 64);
    text.tied = tied;
    let mut vision = VisionConfig::new(ClipConfig::new(28, 14, 16, 32, 3, 2), projector, true);
    vision.clip.gelu = true;
    Llava::init(LlavaConfig { text, vision: Some(vision), image_id: None }, Kind::Float, Device::Cpu)
}

/// That `found` holds what `model` does, rounded to `kind`; the added rows of llava-hf aside.
fn same(model: &Llava, found: &Llava, kind: Kind) {
    for (a, b) in model.units().zip(found.units()) {
        assert_eq!(a.slots.len(), b.slots.len(), "{}", a.name);
        for ((slot, x), (other, y)) in a.slots.iter().zip(&a.leaves).zip(b.slots.iter().zip(&b.leaves)) {
            assert_eq!(slot.name, other.name);
            assert_eq!(y.kind(), kind);
            assert!(x.to_kind(kind).equal(&y.narrow(0, 0, x.size()[0])), "{}", slot.name);
        }
    }
}

#[test]
fn what_is_saved_is_loaded_bit_for_bit() {
    let dir = tempfile::tempdir().expect("a folder");
    for (tied, kind) in [(false, Kind::Float), (true, Kind::BFloat16), (false, Kind::Half)] {
        let mut model = tiny(Projector::Mlp(2), tied);
        model.config.vision.as_mut().expect("a tower").pad = tied;
        let saved = Saved { kind, tokenizer: None, tower: true };
        let path = dir.path().join("hf");
        // Twice: the second replaces the first.
        for _ in 0..2 {
            save_llava_hf(&model, &path, &saved).expect("a folder");
        }
        let found = load(&path, &Load::default()).expect("what was saved");
        same(&model, &found, kind);
        assert_eq!(found.config.text.vocab, 128, "rows for <image> and <pad>, and up to a multiple of 64");
        assert_eq!(found.config.image_id, Some(70));
        assert_eq!((found.config.text.tied, found.head.slots.len()), (tied, if tied { 1 } else { 2 }));
        assert!(
            found.config.vision.as_ref().is_some_and(|v| v.clip.gelu && v.projector == Projector::Mlp(2))
        );
        // Choices that are not the defaults.
        let vision = model.config.vision.as_mut().expect("a tower");
        (vision.select_layer, vision.keep_class, vision.im_start_end) = (-1, true, true);
        save_llava_hf(&model, &path, &saved).expect("a folder");
        let processor = checkpoint::json(&path.join("processor_config.json")).expect("JSON");
        let tokens =
            (&processor["num_additional_image_tokens"], &processor["vision_feature_select_strategy"]);
        assert_eq!(tokens, (&1.into(), &"full".into()), "LlavaProcessor takes one off for \"default\" only");
        let path = dir.path().join("authors");
        save_authors(&model, &path, &saved).expect("a folder");
        let found = load(&path, &Load::default()).expect("what was saved");
        same(&model, &found, kind);
        assert_eq!((&found.config.text, &found.config.vision), (&model.config.text, &model.config.vision));
        assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 2, "nothing temporary is left");
        std::fs::remove_dir_all(dir.path().join("hf")).expect("a folder");
        std::fs::remove_dir_all(path).expect("a folder");
    }
}

#[test]
fn an_image_token_in_the_last_row_gets_a_row_for_padding_behind_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut model = tiny(Projector::Mlp(2), false);
    model.config.image_id = Some(69);
    let saved = Saved { kind: Kind::Float, tokenizer: None, tower: true };
    save_llava_hf(&model, &dir.path().join("hf"), &saved).expect("a folder");
    let found = load(&dir.path().join("hf"), &Load::default()).expect("what was saved");
    assert_eq!((found.config.image_id, found.config.text.vocab), (Some(69), 128));
}

#[test]
fn a_run_begins_with_a_text_model_a_tower_and_a_projector() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name);
    let (model, saved) = (tiny(Projector::Linear, true), Saved { kind: Kind::Float, ..Saved::default() });
    save_llama(&model, &path("text"), &saved).expect("a folder");
    let vision = model.vision().expect("a tower");
    save_clip(&vision.clip, &model.clip, true, &path("clip"), Kind::Float).expect("a folder");
    save_projector(&model, &path("stage1/projector.safetensors"), Kind::Float).expect("a file");
    let options = Load {
        vision_tower: Some(path("clip")),
        projector: Some(path("stage1/projector.safetensors")),
        ..Load::default()
    };
    same(&model, &load(&path("text"), &options).expect("three parts"), Kind::Float);
    let fresh = Load { projector: None, fresh: Some(Projector::Mlp(2)), ..options.clone() };
    let found = load(&path("text"), &fresh).expect("a fresh projector");
    assert_eq!(found.projector.numel(), 16 * 32 + 32 + 32 * 32 + 32);
    // U(±1/√in): within the bound, and filling it.
    let largest = found.projector.get("0.weight").abs().max().double_value(&[]);
    assert!(largest <= 0.25 && largest > 0.24, "{largest}");
    let text = load(&path("text"), &Load::default()).expect("a text model alone");
    assert!(text.config.vision.is_none() && text.clip.leaves.is_empty());
    let (cfg, unit) = load_clip(&path("clip")).expect("a tower");
    assert_eq!((&cfg, unit.numel()), (&vision.clip, model.clip.numel()));
    assert_eq!(unit.numel(), cfg.parameters());
}

#[test]
fn what_does_not_fit_is_told_with_both_shapes() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name);
    let (model, saved) = (tiny(Projector::Mlp(2), false), Saved { kind: Kind::Float, ..Saved::default() });
    save_llama(&model, &path("text"), &saved).expect("a folder");
    let wide = clip::init(&ClipConfig::new(28, 14, 24, 32, 2, 2), Kind::Float, Device::Cpu);
    save_clip(&ClipConfig::new(28, 14, 24, 32, 2, 2), &wide, true, &path("wide"), Kind::Float)
        .expect("a folder");
    save_projector(&model, &path("projector.safetensors"), Kind::Float).expect("a file");
    let options = Load {
        vision_tower: Some(path("wide")),
        projector: Some(path("projector.safetensors")),
        ..Load::default()
    };
    let error = load(&path("text"), &options).expect_err("another tower").to_string();
    for part in ["mm_projector.0.weight", "[32, 16]", "[32, 24]", "projector.safetensors"] {
        assert!(error.contains(part), "{error}");
    }
    let none = Load { projector: None, ..options };
    let error = load(&path("text"), &none).expect_err("no projector").to_string();
    assert!(error.contains("mlp2x_gelu") && error.contains("projector"), "{error}");
    let config = path("text/config.json");
    let mut value = checkpoint::json(&config).expect("JSON");
    value["hidden_size"] = 64.into();
    std::fs::write(&config, value.to_string()).expect("a file");
    let error = load(&path("text"), &Load::default()).expect_err("another width").to_string();
    assert!(error.contains("[32, 32]") && error.contains("[32, 64]") && error.contains("q_proj"), "{error}");
    value["model_type"] = "gpt2".into();
    std::fs::write(&config, value.to_string()).expect("a file");
    let error = load(&path("text"), &Load::default()).expect_err("another architecture").to_string();
    assert!(error.contains("gpt2") && error.contains("llama"), "{error}");
}

#[test]
fn a_batch_that_does_not_fit_is_refused() {
    let model = model("mlp336", "hf", false);
    let mut batch = prompt("mlp336");
    batch.places[0].1 = batch.t - 3;
    assert!(model.logits(&batch).expect_err("past the end").to_string().contains("36 rows"));
    let none = model.loss(&prompt("mlp336")).expect_err("no labels").to_string();
    assert!(none.contains("labelled") && none.contains("mlp336"), "{none}");
    batch.size = 28;
    assert!(model.logits(&batch).expect_err("too small").to_string().contains("84"));
}
