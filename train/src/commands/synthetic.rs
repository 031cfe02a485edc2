//! Speed and memory of a step on this machine: random weights of a true shape, random rows of the published length.

use std::process::ExitCode;

use pumice_train::{
    Error, Result,
    data::Batch,
    engine::{
        Stack,
        memory::or_full,
        trainer::{Source, Trainer},
    },
    model::{ClipConfig, LlamaConfig, Llava, LlavaConfig, Projector, VisionConfig},
    recipe::{
        AspectRatio, Preset, ProjectorType, Recipe, SelectFeature,
        estimate::{Corpus, Shape},
    },
    report::Observers,
};
use serde_json::Value;

use super::{devices, run, student, watch::Watch};

/// Steps where neither --steps nor the file says: the first warms up, the rest is measured.
const STEPS: u64 = 4;

/// Trains on noise for a few steps.
pub fn run(recipe: &Recipe, shape: &Shape, preset: Preset) -> anyhow::Result<ExitCode> {
    let here = run::Here::new(recipe)?;
    tch::manual_seed(recipe.seed as i64);
    let config = config(recipe, shape, preset);
    let model = or_full(Error::ModelMemory, || Ok(Llava::init(config, run::kind(recipe), here.device)))?;
    match &recipe.lora {
        None => measure(recipe, shape, preset, &here, student::of_stage(recipe, model, &here)?),
        Some(settings) => {
            measure(recipe, shape, preset, &here, student::adapted(settings, recipe, model, &here)?)
        }
    }
}

/// Trains `stack` and prints what it took.
fn measure<S: Stack<Batch = Batch>>(
    recipe: &Recipe,
    shape: &Shape,
    preset: Preset,
    here: &run::Here,
    stack: S,
) -> anyhow::Result<ExitCode> {
    let ranks = here.place.size as u64;
    let machine = devices::found(here.device, recipe.kind, ranks)?;
    let peak = machine.peak * ranks as f64;
    let engine = run::engine(recipe, stack, here)?;
    let mut noise = Noise::new(recipe, shape, preset);
    let mut trainer =
        Trainer::new(engine, run::plan(recipe, recipe.steps.unwrap_or(STEPS), None, Value::Null));
    let to = if here.place.rank == 0 { run::observers(None, 1, Some(peak))? } else { Observers::default() };
    let mut watch = Watch::of_stage(recipe, shape, ranks, to)?;
    trainer.run(&mut noise, &mut watch)?;
    let measured = &watch.steps[1.min(watch.steps.len().saturating_sub(1))..];
    let seconds: f64 = measured.iter().map(|step| step.seconds).sum();
    let tokens: u64 = measured.iter().map(|step| step.tokens).sum();
    let flops: f64 = measured.iter().map(|step| step.flops).sum();
    if here.place.rank == 0 && seconds > 0.0 {
        let memory = measured.iter().map(|step| step.memory).max().unwrap_or(0);
        println!("device        {} x {} ({:.3} TFLOP/s each)", ranks, machine.name, machine.peak / 1e12);
        println!("steps         {} of {:.2} s", measured.len(), seconds / measured.len() as f64);
        println!("tokens/s      {:.1}", tokens as f64 / seconds);
        println!("MFU           {:.1} %", 100.0 * flops / seconds / peak);
        println!("peak memory   {:.2} GB", memory as f64 / 1e9);
    }
    Ok(ExitCode::SUCCESS)
}

fn config(recipe: &Recipe, shape: &Shape, preset: Preset) -> LlavaConfig {
    let text = if preset.is_13b() { LlamaConfig::vicuna_13b() } else { LlamaConfig::vicuna_7b() };
    let projector = match recipe.projector_type {
        ProjectorType::Linear => Projector::Linear,
        ProjectorType::Mlp2xGelu => Projector::Mlp(2),
    };
    let clip = ClipConfig::large(shape.vision.image as i64);
    let mut vision = VisionConfig::new(clip, projector, recipe.image_aspect_ratio == AspectRatio::Pad);
    vision.select_layer = recipe.select_layer;
    vision.keep_class = recipe.select_feature == SelectFeature::ClsPatch;
    LlavaConfig { text, vision: Some(vision), image_id: None }
}

/// The same batch for ever.
struct Noise(Batch);

impl Noise {
    /// Rows of a picture and the stage's mean number of tokens, all of which are learned.
    fn new(recipe: &Recipe, shape: &Shape, preset: Preset) -> Self {
        let b = recipe.device_batch as usize;
        let slots =
            shape.vision.patches() as usize + usize::from(recipe.select_feature == SelectFeature::ClsPatch);
        let text = Corpus::published(preset, recipe.stage).text as usize;
        let t = (1 + slots + text).min(recipe.max_length as usize);
        let size = shape.vision.image as usize;
        // Weyl's sequence: numbers without a pattern that any optimisation could use.
        let ids: Vec<i64> =
            (0..b * t).map(|i| (i as u64).wrapping_mul(2_654_435_769) as i64 % shape.vocab as i64).collect();
        let labels = ids.iter().enumerate().map(|(i, id)| if i % t > slots { *id } else { -100 }).collect();
        let images = (0..b * 3 * size * size).map(|i| (i as f32 * 0.618_034).fract() * 4.0 - 2.0).collect();
        let places = (0..b).map(|row| (row, 1)).collect();
        let rows = (0..b).map(|row| format!("noise {row}")).collect();
        Self(Batch { ids, labels, b, t, images, places, rows, size })
    }
}

impl Source for Noise {
    type Batch = Batch;

    fn next(&mut self) -> Result<Option<Batch>> {
        Ok(Some(self.0.clone()))
    }

    fn position(&self) -> Value {
        Value::Null
    }
}
