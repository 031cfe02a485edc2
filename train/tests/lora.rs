//! LoRA and QLoRA: adapters beside frozen weights, through merging, saving and the training engine; NF4 against its definition in Python.

use std::{
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use pumice_models::checkpoint;
use pumice_quantize::{FileType, Options, Recipe, Source, SourceOptions, run_in_memory};
use pumice_train::{
    data::Batch,
    engine::{self, Engine, Group, ranks::Alone},
    model::{
        ClipConfig, LlamaConfig, Llava, LlavaConfig, Lora, LoraConfig, Projector, VisionConfig,
        checkpoint::{Saved, load, save_authors, save_clip},
        lora::Base,
        nf4::{Nf4, TABLE},
    },
};
use tch::{Device, Kind, Tensor};

/// One test at a time: torch has one random generator on the CPU, and what one test draws, another would miss.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    // Tensors of this size gain nothing by threads, and waiting for each other costs much where a machine is busy.
    tch::set_num_threads(1);
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn flat(t: &Tensor) -> Vec<f32> {
    Vec::try_from(t.detach().to_kind(Kind::Float).reshape([-1])).expect("floats")
}

fn worst(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

/// A tiny LLaVA whose matrices are whole blocks, drawn alike each time.
fn base() -> Llava {
    tch::manual_seed(7);
    let text = LlamaConfig::new(416, 64, 128, 3, 4, 64);
    let vision = VisionConfig::new(ClipConfig::new(28, 14, 32, 32, 2, 2), Projector::Mlp(2), true);
    let mut model =
        Llava::init(LlavaConfig { text, vision: Some(vision), image_id: None }, Kind::Float, Device::Cpu);
    // Larger than a fresh model's, so that layers matter.
    for leaf in model.layers.iter_mut().flat_map(|unit| &mut unit.leaves).filter(|leaf| leaf.dim() == 2) {
        *leaf = &*leaf * 5.0;
    }
    model
}

fn batch() -> Batch {
    let ids: Vec<i64> = (0..48).map(|i| 3 + i * 31 % 400).collect();
    let labels = ids.iter().enumerate().map(|(i, &id)| if i % 24 < 9 { -100 } else { id }).collect();
    let images = (0..3 * 28 * 28).map(|i| ((i * 37 % 101) as f32 - 50.0) / 40.0).collect();
    Batch {
        ids,
        labels,
        b: 2,
        t: 24,
        images,
        places: vec![(1, 2)],
        size: 28,
        rows: vec!["a".into(), "b".into()],
    }
}

fn settings(base: Base, targets: &[&str]) -> LoraConfig {
    let targets = targets.iter().map(|t| t.to_string()).collect();
    LoraConfig { rank: 4, alpha: 8.0, dropout: 0.0, targets, base }
}

const ALL: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
const BASES: [Base; 3] = [Base::Plain, Base::Nf4 { double: false }, Base::Nf4 { double: true }];

fn lora(config: LoraConfig) -> Lora {
    Lora::new(base(), config, (Kind::Float, Device::Cpu), 1).expect("adapters")
}

/// Gives every B numbers, so that the adapters say something.
fn stir(lora: &mut Lora) {
    tch::manual_seed(8);
    for unit in &mut lora.adapters {
        let flat = unit.flat.as_mut().expect("trainable");
        let _ = tch::no_grad(|| flat.normal_(0.0, 0.1));
    }
}

#[test]
fn fresh_adapters_change_nothing() {
    let _alone = alone();
    let plain = base().logits(&batch()).expect("logits");
    let fresh = lora(settings(Base::Plain, &ALL));
    assert!(fresh.logits(&batch()).expect("logits").equal(&plain), "B is zero");
    // A is uniform within ±1/√in, in = 64 (128 for down_proj), and fills it.
    for (name, bound) in [("q_proj", 0.125), ("down_proj", 128.0_f64.sqrt().recip())] {
        let largest = fresh.adapters[0].get(&format!("{name}.lora_A.weight")).abs().max().double_value(&[]);
        assert!(largest <= bound && largest > 0.95 * bound, "{name}: {largest}");
    }
    assert_eq!(lora(settings(Base::Plain, &["q_proj", "v_proj"])).adapters[2].slots.len(), 4);
    // 4 bits change the base, by some percents.
    let coarse = lora(settings(Base::Nf4 { double: false }, &ALL)).logits(&batch()).expect("logits");
    let off = worst(&coarse, &plain) / plain.abs().max().double_value(&[]);
    assert!(off > 1e-3 && off < 0.5, "{off}");
}

#[test]
fn what_is_merged_computes_what_adapters_compute() {
    let _alone = alone();
    for held in BASES {
        let mut with = lora(settings(held, &ALL));
        let before = with.logits(&batch()).expect("logits");
        stir(&mut with);
        let expected = with.logits(&batch()).expect("logits");
        let merged = with.merge();
        assert!(merged.layers.iter().all(|unit| unit.slots.len() == 9), "whole layers again");
        let found = merged.logits(&batch()).expect("logits");
        // Same products in another order: some roundings of f32 over three layers.
        let scale = expected.abs().max().double_value(&[]);
        assert!(worst(&found, &expected) < 2e-5 * scale, "{held:?}: {:e}", worst(&found, &expected) / scale);
        assert!(worst(&before, &expected) > 1e-2 * scale, "{held:?}: the adapters do something");
    }
}

#[test]
fn the_update_is_alpha_over_r_times_b_times_a() {
    let _alone = alone();
    let mut with = lora(settings(Base::Plain, &["q_proj"]));
    stir(&mut with);
    let (a, b) =
        (with.adapters[1].get("lora_A.weight").detach(), with.adapters[1].get("lora_B.weight").detach());
    let expected = base().layers[1].get("q_proj.weight") + b.matmul(&a) * 2.0;
    let merged = with.merge();
    assert!(worst(merged.layers[1].get("q_proj.weight"), &expected) < 1e-6);
    assert!(merged.layers[1].get("k_proj.weight").equal(base().layers[1].get("k_proj.weight")));
}

#[test]
fn the_engine_trains_adapters_and_projector_and_nothing_else() {
    let _alone = alone();
    let steps = |held: Base, dropout: f64, checkpoint: bool| {
        let config = LoraConfig { dropout, ..settings(held, &ALL) };
        let before = lora(config.clone());
        let options =
            engine::Options { kind: Kind::Float, checkpoint, clip: 0.0, ..engine::Options::default() };
        let mut engine =
            Engine::new(lora(config), Box::new(Alone), options, &|name| Group::of(name, 1.0, 0.0))
                .expect("an engine");
        let mut losses = Vec::new();
        for _ in 0..5 {
            engine.micro(&batch()).expect("a pass");
            let measured = engine.measure().expect("a gradient");
            losses.push(measured.loss);
            engine.apply(1e-2, measured.norm).expect("a step");
        }
        engine.gather().expect("weights");
        let after = engine.stack();
        for (a, b) in before.base.units().zip(after.base.units()) {
            let same = a.leaves.iter().zip(&b.leaves).all(|(x, y)| x.equal(y));
            assert_eq!(same, a.name != "projector", "{}", a.name);
        }
        for (a, b) in before.adapters.iter().zip(&after.adapters) {
            assert!(a.leaves.iter().zip(&b.leaves).all(|(x, y)| !x.equal(y)), "{}", a.name);
        }
        losses
    };
    for held in BASES {
        let losses = steps(held, 0.0, true);
        assert!(losses[4] < 0.95 * losses[0], "{held:?}: {losses:?}");
    }
    // A layer that is computed again drops the same inputs, so checkpoints change no bit.
    let dropped = steps(Base::Nf4 { double: true }, 0.3, true);
    assert_eq!(dropped, steps(Base::Nf4 { double: true }, 0.3, false));
    assert_ne!(dropped[1], steps(Base::Nf4 { double: true }, 0.0, true)[1]);
}

#[test]
fn saved_adapters_are_what_quantize_merges() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name);
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/mlp336/authors");
    let saved = Saved { kind: Kind::Float, tokenizer: Some(tokenizer), tower: false };
    save_authors(&base(), &path("base"), &saved).expect("a folder");
    let model = base();
    let vision = model.vision().expect("a tower");
    save_clip(&vision.clip, &model.clip, true, &path("clip"), Kind::Float).expect("a folder");
    let mut with = lora(settings(Base::Plain, &ALL));
    stir(&mut with);
    let bias = with.base.projector.get("2.bias");
    let _ = tch::no_grad(|| bias.shallow_clone().fill_(0.25));
    with.save(&path("llava-lora"), "base", &saved).expect("a folder");
    let merged = with.merge();
    save_authors(&merged, &path("merged"), &saved).expect("a folder");

    // The trained projector comes along in a PyTorch file.
    let folder = checkpoint::Folder::open(&path("llava-lora")).expect("an adapter");
    let bias = folder.need_tensor("base_model.model.model.mm_projector.2.bias").expect("the projector");
    let mut values = vec![0.0; bias.elements()];
    bias.to_f32(0, &mut values).expect("floats");
    assert!(values.iter().all(|v| *v == 0.25));
    let name = "base_model.model.model.layers.2.mlp.down_proj.lora_A.weight";
    assert_eq!(folder.need_tensor(name).expect("an adapter").shape, [4, 128]);

    let gguf = |from: &str, base: Option<&str>| {
        let options = SourceOptions {
            base: base.map(path),
            vision_tower: Some(path("clip")),
            ..SourceOptions::default()
        };
        let source = Source::open(&path(from), &options).expect("a source");
        let run = Options { threads: 1, ..Options::new(Recipe::new(FileType::F32)) };
        let bytes = run_in_memory(&source, &run, &()).expect("a GGUF");
        pumice_models::gguf::File::from_bytes(from, pumice_kernels::Bytes::new(bytes)).expect("our own GGUF")
    };
    let (a, b) = (gguf("llava-lora", Some("base")), gguf("merged", None));
    let floats = |file: &pumice_models::gguf::File, name: &str| {
        let t = file.need_tensor(name).expect("a tensor");
        let bytes = file.bytes(t);
        bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<_>>()
    };
    for name in ["blk.0.attn_q.weight", "blk.2.ffn_down.weight", "mm.2.bias", "token_embd.weight"] {
        let (a, b) = (floats(&a, name), floats(&b, name));
        let off = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(a.len() == b.len() && off < 1e-6, "{name}: {off:e}");
    }
    assert_eq!(load(&path("merged"), &load_with(&path("clip"))).expect("a model").layers.len(), 3);
}

fn load_with(tower: &Path) -> pumice_train::model::checkpoint::Load {
    pumice_train::model::checkpoint::Load { vision_tower: Some(tower.into()), ..Default::default() }
}

#[test]
fn nf4_is_what_its_definition_says() {
    let _alone = alone();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/nf4.safetensors");
    let folder = checkpoint::Folder::open(&path).expect("safetensors");
    let recorded = |name: &str| {
        let t = folder.need_tensor(name).expect("a recorded tensor");
        let mut out = vec![0.0; t.elements()];
        t.to_f32(0, &mut out).expect("floats");
        Tensor::from_slice(&out).reshape(t.shape.iter().map(|&n| n as i64).collect::<Vec<_>>())
    };
    // The paper prints its quantiles from f32 arithmetic, the golden's are of f64.
    assert!(worst(&Tensor::from_slice(&TABLE), &recorded("table")) < 3e-7);
    let values = recorded("values");
    let found = Nf4::new(&values, false, Device::Cpu).expect("whole blocks");
    assert!(worst(&found.dequantize(Kind::Float), &recorded("rounded")) < 1e-7, "every code is the nearest");
    assert_eq!(found.bytes(), 4 * 96 / 2 + 4 * 96 / 64 * 4);
    assert!(Nf4::new(&Tensor::zeros([3, 50], (Kind::Float, Device::Cpu)), false, Device::Cpu).is_none());
    let zeros =
        Nf4::new(&Tensor::zeros([1, 64], (Kind::Half, Device::Cpu)), true, Device::Cpu).expect("a block");
    assert!(flat(&zeros.dequantize(Kind::BFloat16)).iter().all(|v| *v == 0.0));
}

#[test]
fn doubled_scales_cost_little() {
    let _alone = alone();
    tch::manual_seed(9);
    let w = Tensor::randn([64, 1000], (Kind::Float, Device::Cpu)) * 0.02;
    let rms = |x: &Tensor| x.square().mean(Kind::Double).sqrt().double_value(&[]);
    let error = |double| {
        let packed = Nf4::new(&w, double, Device::Cpu).expect("whole blocks");
        (rms(&(packed.dequantize(Kind::Float) - &w)) / rms(&w), packed.bytes() as f64 * 8.0 / 64000.0)
    };
    let ((plain, bits), (doubled, fewer)) = (error(false), error(true));
    println!("rms error {plain:.5} at {bits} bits, {doubled:.5} at {fewer:.3}");
    // Normal weights in blocks of 64 lose 9 % of their norm to 16 levels.
    assert!((0.07..0.11).contains(&plain) && doubled < 1.01 * plain, "{plain} {doubled}");
    // 1000 blocks are padded to 4 groups of 256.
    assert!((bits - 4.5).abs() < 1e-9 && fewer < 4.14, "{bits} {fewer}");
}

#[test]
fn settings_that_make_no_sense_are_told() {
    let refused = |change: &dyn Fn(&mut LoraConfig)| {
        let mut config = settings(Base::Plain, &ALL);
        change(&mut config);
        config.check().expect_err("refused").to_string()
    };
    assert!(refused(&|c| c.targets.push("lm_head".into())).contains("lm_head"));
    assert!(refused(&|c| c.rank = 0).contains("rank 0"));
    assert!(refused(&|c| c.dropout = 1.0).contains("dropout 1"));
    assert!(refused(&|c| c.targets.clear()).contains("targets"));
}
