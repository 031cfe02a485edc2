//! Parameters, hours and memory against what is published.

use std::path::Path;

use super::*;
use crate::recipe::{Preset, ProjectorType, Template};

fn plan(preset: Preset, stage: Stage, machine: &str, change: impl Fn(&mut Recipe)) -> Plan {
    let mut recipe = preset.recipe(stage);
    change(&mut recipe);
    let machine = Machine::named(machine).unwrap();
    Plan::new(&recipe, &Shape::of(preset), &Corpus::published(preset, stage), &machine).unwrap()
}

#[test]
fn parameters_are_the_published_ones() {
    let small = Shape::of(Preset::V15_7b);
    let large = Shape::of(Preset::V15_13b);
    assert_eq!((small.language(), large.language()), (6_738_415_616, 13_015_864_320));
    assert_eq!(small.projector(ProjectorType::Linear), 4_198_400);
    assert_eq!(large.projector(ProjectorType::Linear), 5_248_000);
    assert_eq!(small.projector(ProjectorType::Mlp2xGelu), 20_979_712);
    assert_eq!(large.projector(ProjectorType::Mlp2xGelu), 31_467_520);
    // 303.5 M with all 24 layers, 290.9 M with the 23 that are run.
    assert_eq!(small.vision.parameters(24) / 100_000, 3035);
    assert_eq!(small.vision.parameters(23) / 100_000, 2909);
    // r·(in + out) over q k v o gate up down of 32 layers: 128·32·(4·8192 + 3·15104).
    let lora = Preset::V15_7b.lora_recipe(Stage::Tune).lora.unwrap();
    assert_eq!(small.adapters(&lora), 128 * 32 * (4 * 8192 + 3 * 15_104));
}

#[test]
fn hours_are_within_half_of_the_published() {
    use Preset::{V0_7b, V0_13b, V15_7b, V15_13b};
    let published = [
        (V15_7b, Stage::Tune, 10.0),
        (V15_7b, Stage::Align, 3.5),
        (V15_13b, Stage::Tune, 20.0),
        (V15_13b, Stage::Align, 5.5),
        (V0_13b, Stage::Tune, 10.0),
        (V0_13b, Stage::Align, 4.0),
        (V0_7b, Stage::Align, 2.0),
    ];
    for (preset, stage, hours) in published {
        let ours = plan(preset, stage, "8xA100", |_| ()).hours;
        let ratio = ours / hours;
        assert!(
            (1.0 / 1.5..1.5).contains(&ratio),
            "{} {stage:?}: {ours:.1} h, published {hours}",
            preset.name()
        );
    }
}

#[test]
fn thirteen_billion_need_sharding() {
    let on = |gpus, zero| plan(Preset::V15_13b, Stage::Tune, gpus, move |r| r.zero = zero);
    let at = |zero| on("8xA100", zero);
    assert!(at(3).fits, "{:?}", at(3).memory);
    assert!(!on("A100", 3).fits);
    let alone = on("A100", 3).memory;
    let n = at(3).parameters.trainable;
    // Whole: 4 bytes of master, 8 of moments, 4 of gradient for each learned number.
    assert_eq!((alone.master, alone.moments, alone.gradients), (4 * n, 8 * n, 4 * n));
    assert_eq!(at(2).memory.moments, n);
    assert_eq!(at(0).memory, at(2).memory, "what it would run as");
    assert_eq!(at(2).memory.weights, alone.weights, "ZeRO-2 keeps the weights whole");
    assert!(at(3).memory.weights < alone.weights / 4);
}

#[test]
fn checkpointing_and_adapters_save_memory() {
    let with = plan(Preset::V15_7b, Stage::Tune, "8xA100", |_| ()).memory;
    let without = plan(Preset::V15_7b, Stage::Tune, "8xA100", |r| r.checkpointing = false).memory;
    assert!(without.activations > 8 * with.activations, "{with:?} {without:?}");
    let lora = |bits: u64, batch: u64| {
        plan(Preset::V15_7b, Stage::Tune, "3090", move |r| {
            r.lora = Preset::V15_7b.lora_recipe(Stage::Tune).lora;
            r.lora.as_mut().unwrap().bits = bits;
            r.device_batch = batch;
        })
    };
    let (full, quarter) = (lora(16, 1).memory, lora(4, 1).memory);
    // 16 bits a weight become 4.5 in the layers' matrices; what is learned stays.
    let matrices = 32 * Shape::of(Preset::V15_7b).block_matrices();
    assert_eq!(full.weights - quarter.weights, matrices * 23 / 16);
    assert_eq!(quarter.moments, full.moments);
    assert!(lora(4, 1).fits, "QLoRA of 7B on 24 GB: {quarter:?}");
}

#[test]
fn rows_of_a_file_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.json");
    std::fs::write(
        &path,
        r#"[{"id": "1", "image": "a.jpg", "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "12345678"}]},
            {"id": "2", "conversations": [{"from": "human", "value": "1234"}, {"from": "gpt", "value": "1234"}]}]"#,
    )
    .unwrap();
    let plain = Corpus::count(&path, Template::Plain).unwrap();
    assert_eq!((plain.rows, plain.images, plain.counted), (2, 1, true));
    // Answers of 8 and 4 characters, and two tokens around each.
    assert_eq!((plain.text, plain.most_text), (3.5, 4.0));
    // What a run accepts is counted: a row a line, a row too many bytes short.
    let rows = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, rows.replace("}]},\n", "}]}\n").trim_matches(['[', ']'])).unwrap();
    assert_eq!(Corpus::count(&path, Template::Plain).unwrap(), plain);
    std::fs::write(&path, &rows[..rows.len() - 9]).unwrap();
    let cut = Corpus::count(&path, Template::V1).unwrap();
    // One row is left: 7 and 8 characters, 40 tokens of system and 5 a turn.
    assert_eq!((cut.rows, cut.images, cut.text), (1, 1, 15.0 / 4.0 + 50.0));
    std::fs::write(&path, r#"[{"conversations": []}, {"conv"#).unwrap();
    let message = Corpus::count(&path, Template::Plain).unwrap_err().to_string();
    assert!(message.contains("rows.json") && message.contains("no row"), "{message}");
}

#[test]
fn machines_are_named() {
    let m = Machine::named("8xA100-40G").unwrap();
    assert_eq!((m.count, m.memory, m.peak), (8, 40_000_000_000, 312e12));
    assert_eq!(Machine::named("h100").unwrap().count, 1);
    assert!(Machine::named("8xtoaster").unwrap_err().to_string().contains("a100"));
    assert_eq!(Machine::driver("NVIDIA H200", 1, 5).unwrap().peak, 989e12);
    assert_eq!(Machine::driver("NVIDIA T1000", 1, 5), None);
}

#[test]
fn the_table_tells_who_set_what() {
    let over = "lr = 0.25".parse().unwrap();
    let file = (Path::new("a.toml"), "batch = 64");
    let layered = Layered::new(Preset::V15_7b, Stage::Tune, Some(file), &over).unwrap();
    let machine = Machine::named("4xH100").unwrap();
    let corpus = Corpus::published(Preset::V15_7b, Stage::Tune);
    let plan = Plan::new(&layered.recipe, &Shape::of(Preset::V15_7b), &corpus, &machine).unwrap();
    let text = plan.text(&layered);
    let has = |words: &[&str]| text.lines().any(|line| line.split_whitespace().collect::<Vec<_>>() == words);
    assert!(
        has(&["lr", "0.25", "flag"]) && has(&["batch", "64", "file"]) && has(&["eps", "1e-8", "preset"]),
        "{text}"
    );
    assert!(text.contains("10,396 (10,396 an epoch, 312 of warm-up)"), "{text}");
    let json = plan.json(&layered);
    assert_eq!(json["settings"]["batch"], serde_json::json!({"value": 64, "from": "file"}));
    assert_eq!(json["plan"]["steps"], 10_396);
    assert_eq!(json["plan"]["accumulation"], 1);
}

#[test]
fn this_machine_is_measured() {
    let m = Machine::measure("CPU", tch::Device::Cpu, Kind::F32, 1, 1).unwrap();
    assert!(m.measured && m.peak > 1e8, "{m:?}");
}
