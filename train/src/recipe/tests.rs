//! The presets against the published tables, the order of layers, and what is said of a wrong file.

use std::path::Path;

use toml::Table;

use super::*;

/// Template, aspect, projector, epochs, batch, device batch, rate, ZeRO, clip, grouped: llava's table of published runs, written out by hand.
type Row = (Template, AspectRatio, ProjectorType, u64, u64, u64, f64, u64, f64, bool);

fn published(v0: bool, stage: Stage) -> Row {
    use {AspectRatio::*, ProjectorType::*, Template::*};
    match (v0, stage) {
        (true, Stage::Align) => (V0, Square, Linear, 1, 128, 16, 2e-3, 0, 1.0, false),
        (true, Stage::Tune) => (V0, Square, Linear, 3, 32, 4, 2e-5, 3, 1.0, false),
        (true, Stage::Sqa) => (V0, Square, Linear, 12, 32, 4, 2e-5, 3, 1.0, false),
        (false, Stage::Align) => (Plain, Square, Mlp2xGelu, 1, 256, 32, 1e-3, 2, 0.0, false),
        (false, Stage::Tune) => (V1, Pad, Mlp2xGelu, 1, 128, 16, 2e-5, 3, 0.0, true),
        (false, Stage::Sqa) => (V1, Pad, Mlp2xGelu, 12, 128, 16, 2e-5, 2, 0.0, false),
    }
}

#[test]
fn presets_are_the_published_recipes() {
    for preset in Preset::ALL {
        for stage in [Stage::Align, Stage::Tune, Stage::Sqa] {
            let r = preset.recipe(stage);
            let row: Row = (
                r.template,
                r.image_aspect_ratio,
                r.projector_type,
                r.epochs,
                r.batch,
                r.device_batch,
                r.lr,
                r.zero,
                r.clip,
                r.group_by_modality_length,
            );
            assert_eq!(row, published(preset.is_v0(), stage), "{} {stage:?}", preset.name());
            let shared =
                (r.betas, r.eps, r.weight_decay, r.warmup_ratio, r.max_length, r.kind, r.checkpointing);
            assert_eq!(shared, ([0.9, 0.999], 1e-8, 0.0, 0.03, 2048, Kind::Bf16, true));
            assert_eq!((r.schedule, r.seed, r.workers, r.select_layer), (Schedule::Cosine, 42, 4, -2));
            assert_eq!((r.select_feature, &r.lora, r.projector_lr), (SelectFeature::Patch, &None, None));
            let position = if preset.is_v0() { ImagePosition::Random } else { ImagePosition::Front };
            assert_eq!(r.image_position, position);
            assert_eq!(r.accumulation(8).unwrap(), 1, "the published runs filled 8 GPUs at once");
            r.check().unwrap();
        }
    }
}

#[test]
fn lora_presets_are_the_published_ones() {
    let r = Preset::V15_13b.lora_recipe(Stage::Tune);
    let lora = r.lora.unwrap();
    assert_eq!((lora.r, lora.alpha, lora.dropout, lora.bits, lora.targets.len()), (128, 256.0, 0.05, 16, 7));
    assert_eq!((r.lr, r.projector_lr), (2e-4, Some(2e-5)));
    let r = Preset::V0_7b.lora_recipe(Stage::Tune);
    let lora = r.lora.unwrap();
    assert_eq!((lora.r, lora.alpha, r.lr, r.projector_lr), (64, 16.0, 2e-5, None));
}

#[test]
fn steps_are_the_published_ones() {
    let steps = |preset: Preset, stage, rows| preset.recipe(stage).total_steps(rows);
    assert_eq!(steps(Preset::V15_7b, Stage::Align, 558_128), 2181);
    assert_eq!(steps(Preset::V15_7b, Stage::Tune, 665_298), 5198);
    assert_eq!(steps(Preset::V0_13b, Stage::Align, 595_375), 4652);
    // Three epochs of ceil(157712 / 32): the last batch of each is filled up.
    assert_eq!(steps(Preset::V0_13b, Stage::Tune, 157_712), 3 * 4929);
    assert_eq!(Preset::V15_7b.recipe(Stage::Tune).warmup_steps(5198), 156);
}

fn flags(text: &str) -> Table {
    text.parse().unwrap()
}

fn layered(file: &str, over: &str) -> Result<Layered> {
    Layered::new(Preset::V15_7b, Stage::Tune, Some((Path::new("runs/a.toml"), file)), &flags(over))
}

#[test]
fn flags_win_over_the_file_and_the_file_over_the_preset() {
    let l = layered("lr = 1\nbatch = 64\ndevice-batch = 8\ndata = 'rows.json'", "batch = 32").unwrap();
    assert_eq!((l.recipe.lr, l.recipe.batch, l.recipe.device_batch, l.recipe.epochs), (1.0, 32, 8, 1));
    assert_eq!(l.recipe.data.as_deref(), Some(Path::new("runs/rows.json")), "named from the file's folder");
    let of = |key: &str| l.sources.get(key).copied();
    assert_eq!(of("lr"), Some(Source::File));
    assert_eq!(of("batch"), Some(Source::Flag));
    assert_eq!(of("epochs"), Some(Source::Preset));
    assert_eq!(of("steps"), None);
}

#[test]
fn a_lora_table_begins_with_the_published_lora() {
    let l = layered("[lora]\nr = 8\nalpha = 16", "[lora]\nbits = 4").unwrap();
    let lora = l.recipe.lora.unwrap();
    assert_eq!((lora.r, lora.alpha, lora.dropout, lora.bits), (8, 16.0, 0.05, 4));
    assert_eq!(l.recipe.projector_lr, Some(2e-5));
    assert_eq!(l.sources.get("lora.r"), Some(&Source::File));
    assert_eq!(l.sources.get("lora.bits"), Some(&Source::Flag));
}

#[test]
fn wrong_settings_are_named_with_what_was_meant() {
    let message = |file: &str| layered(file, "").unwrap_err().to_string();
    assert_eq!(
        message("devise-batch = 3"),
        "runs/a.toml: there is no setting `devise-batch`; did you mean `device_batch`?"
    );
    assert_eq!(
        message("warmup = 3"),
        "runs/a.toml: there is no setting `warmup`; did you mean `warmup_ratio`?"
    );
    assert_eq!(
        message("[lora]\nrank = 3"),
        "runs/a.toml: there is no setting `lora.rank`; settings are r, alpha, dropout, targets, bits"
    );
    assert!(message("qqqqqq = 3").contains("settings are model, vision_tower"), "{}", message("qqqqqq = 3"));
    let m = message("batch = 'many'");
    assert!(m.starts_with("runs/a.toml: batch = \"many\": ") && m.contains("invalid type"), "{m}");
    let m = message("template = 'v7'");
    assert!(m.contains("template") && m.contains("llama_2"), "{m}");
    assert_eq!(message("zero = 1"), "zero = 1: must be 0, 2 or 3");
    assert_eq!(message("workers = 1000000"), "workers = 1000000: must be from 1 to 1024");
    assert_eq!(
        message("epochs = 9223372036854775807"),
        "epochs = 9223372036854775807: must be from 1 to 1073741824"
    );
    assert_eq!(message("[lora]\nr = 0"), "lora.r = 0: must be from 1 to 65536");
    assert_eq!(message("betas = [0.9, 1]"), "betas = 1: must be from 0 to less than 1 each");
    assert!(message("lr = ").contains("runs/a.toml"));
}

#[test]
fn a_batch_that_cannot_be_shared_out_is_refused() {
    let m = Preset::V15_7b.recipe(Stage::Tune).accumulation(3).unwrap_err().to_string();
    assert!(m.contains("take batch 96 or 144"), "{m}");
    assert_eq!(Preset::V15_7b.recipe(Stage::Tune).accumulation(1).unwrap(), 8);
}

#[test]
fn every_field_has_its_key() {
    // serde names all fields that it knows when it meets one that it does not.
    let mut table = Table::try_from(Preset::V15_7b.lora_recipe(Stage::Tune)).unwrap();
    table.insert("nothing".into(), 1.into());
    let message = table.try_into::<Recipe>().unwrap_err().to_string();
    let fields: Vec<&str> = message.split('`').skip(3).step_by(2).collect();
    let known: Vec<&str> = std::iter::once("stage").chain(layers::KEYS.iter().copied()).collect();
    assert_eq!(fields, known);
}
