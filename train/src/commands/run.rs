//! A run of a stage: model, data, engine, logs and checkpoints brought together.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use pumice_runtime::pixels::{Aspect, Preprocess};
use pumice_train::{
    Error, Result,
    data::{
        self,
        conversation::{ImagePosition, Template},
        loader::{Loader, Position, Settings},
        order,
        rows::Rows,
    },
    engine::{
        Engine, Group, Options,
        ranks::place::{Place, World},
        schedule::{self, Schedule},
        trainer::{Plan, Source, Trainer, Watch as Alarm},
    },
    model::{
        Llava, Projector, VisionConfig,
        checkpoint::{self, Load, Saved},
    },
    recipe::{self, Recipe, Stage, estimate::Shape},
    report::{Jsonl, Observers, Progress, TensorBoard},
};
use serde_json::{Value, json};
use tch::{Device, Kind};

use super::{devices, terminal, watch::Watch};

/// This rank's place and device.
pub struct Here {
    /// From torchrun's variables.
    pub place: Place,
    /// Where it computes.
    pub device: Device,
}

impl Here {
    /// Finds out.
    ///
    /// # Errors
    /// The variables make no sense, or the device is not here.
    pub fn new(recipe: &Recipe) -> Result<Self> {
        let place = Place::read(|name| std::env::var(name).ok())?;
        let device = devices::choose(recipe.device, &place)?;
        Ok(Self { place, device })
    }
}

/// The crate's name of the recipe's number type.
pub fn kind(recipe: &Recipe) -> Kind {
    number(recipe.kind)
}

/// The same of a flag.
pub fn number(kind: recipe::Kind) -> Kind {
    match kind {
        recipe::Kind::Bf16 => Kind::BFloat16,
        recipe::Kind::F32 => Kind::Float,
    }
}

/// `model` on its device with the units of the recipe's stage trainable, and the engine around it.
///
/// # Errors
/// Adapters are asked for, ranks are missing, or the batch cannot be shared out.
pub fn engine(recipe: &Recipe, mut model: Llava, here: &Here) -> Result<Engine<Llava>> {
    if recipe.lora.is_some() {
        return Err(Error::Config("adapters ([lora], --lora) are not built in this version".into()));
    }
    let (kind, ranks) = (kind(recipe), here.place.size);
    let accumulate = recipe.accumulation(ranks as u64)? as usize;
    for unit in model.units_mut() {
        let taken = std::mem::replace(unit, pumice_train::unit::Unit::frozen("", Vec::new()));
        let learns = match taken.name.as_str() {
            "clip" => false,
            "projector" => true,
            _ => recipe.stage != Stage::Align,
        };
        // A new projector's small numbers would lose bits in bf16 before the first step; the checkpoint's own have none to lose.
        let own = if taken.name == "projector" { Kind::Float } else { kind };
        *unit = if learns {
            taken.trainable(own, here.device, ranks as i64)
        } else {
            taken.to(kind, here.device)
        };
    }
    let world = World::on(&here.place, here.device)?;
    let options = Options {
        kind,
        accumulate,
        checkpoint: recipe.checkpointing,
        shard_weights: recipe.zero == 3 && ranks > 1,
        clip: recipe.clip,
        betas: (recipe.betas[0], recipe.betas[1]),
        eps: recipe.eps,
        seed: recipe.seed,
        ..Options::default()
    };
    let projector = recipe.projector_lr.map_or(1.0, |lr| lr / recipe.lr);
    Engine::new(model, world.ranks, options, &|name| Group::of(name, projector, recipe.weight_decay))
}

/// What the trainer does over `steps` steps.
pub fn plan(recipe: &Recipe, steps: u64, folder: Option<&Path>) -> Plan {
    let shape = match recipe.schedule {
        recipe::Schedule::Cosine => schedule::Shape::Cosine { floor: 0.0 },
        recipe::Schedule::Constant => schedule::Shape::Constant,
    };
    Plan {
        schedule: Schedule { peak: recipe.lr, warmup: recipe.warmup_steps(steps), total: steps, shape },
        save_every: recipe.save_every,
        keep: recipe.keep as usize,
        folder: folder.map(Path::to_owned),
        watch: Alarm::default(),
    }
}

/// Terminal, and in `out` a JSONL log and TensorBoard's events; `first` is the first step that this run does.
///
/// # Errors
/// A log cannot be opened.
pub fn observers(out: Option<&Path>, first: u64, peak: Option<f64>) -> Result<Observers> {
    let stderr = std::io::stderr();
    let progress =
        if stderr.is_terminal() { Progress::bar(peak) } else { Progress::lines(Box::new(stderr), peak) };
    let mut all = Observers(vec![Box::new(progress)]);
    if let Some(out) = out {
        std::fs::create_dir_all(out).map_err(Error::io(out))?;
        all.0.push(Box::new(Jsonl::open(&out.join("log.jsonl"), first, peak)?));
        all.0.push(Box::new(TensorBoard::create(&out.join("tensorboard"), peak)?));
    }
    Ok(all)
}

/// Trains a stage on files, from the newest checkpoint in `out` if there is one, and writes the result there.
pub fn run(recipe: &Recipe, shape: &Shape) -> anyhow::Result<ExitCode> {
    recipe.check()?;
    let model = wanted("model", &recipe.model)?;
    let data = wanted("data", &recipe.data)?;
    let out = wanted("out", &recipe.out)?;
    let here = Here::new(recipe)?;
    let first = here.place.rank == 0;
    tch::manual_seed(recipe.seed as i64);
    let llava = open(recipe, model)?;
    let config = llava.config.vision.clone().ok_or_else(|| {
        Error::Config(format!("{} has no vision tower; give --vision-tower", model.display()))
    })?;
    let vocabulary = Arc::new(data::vocabulary::open(model)?);
    let mut report = data::Report::default();
    let rows = Arc::new(Rows::open(&[data.to_owned()], &mut report)?);
    let steps = recipe.total_steps(rows.len() as u64);
    let ranks = here.place.size as u64;
    let machine = devices::found(here.device, recipe.kind, ranks)?;
    let peak = machine.peak * ranks as f64;
    let mut trainer = Trainer::new(engine(recipe, llava, &here)?, plan(recipe, steps, Some(out)));
    let start = match trainer.resume()? {
        None => Position::default(),
        Some(position) => serde_json::from_value(position).map_err(|e| {
            Error::Data(format!("{}: the checkpoint's place in the data cannot be read: {e}", out.display()))
        })?,
    };
    let loader = Loader::new(
        rows,
        Template::new(template(recipe.template), vocabulary, config.im_start_end)?,
        settings(recipe, &config, &here)?,
        start,
        report,
    )?;
    let to = if first {
        observers(Some(out), trainer.engine.steps() + 1, Some(peak))?
    } else {
        Observers::default()
    };
    let mut watch = Watch::of_stage(recipe, shape, ranks, to)?;
    if first {
        terminal::note(&format!(
            "{steps} steps of {} rows; log and checkpoints in {}",
            recipe.batch,
            out.display()
        ));
    }
    let mut batches = Batches(loader);
    let done = trainer.run(&mut batches, &mut watch)?;
    if first && !batches.0.report().is_clean() {
        terminal::note(&batches.0.report().to_string());
    }
    if done < steps {
        return Ok(ExitCode::from(130));
    }
    trainer.engine.gather()?;
    if first {
        let path = save(recipe, trainer.engine.stack(), model, out)?;
        terminal::note(&format!("wrote {}", path.display()));
    }
    trainer.engine.ranks().barrier()?;
    Ok(ExitCode::SUCCESS)
}

/// A setting that has no default.
fn wanted<'a>(name: &str, value: &'a Option<PathBuf>) -> Result<&'a Path> {
    value.as_deref().ok_or_else(|| {
        let flag = name.replace('_', "-");
        Error::Config(format!("{name} is not set: give --{flag}, or {name} in --config"))
    })
}

/// The model to begin with, with the recipe's choices in place of the checkpoint's.
fn open(recipe: &Recipe, path: &Path) -> Result<Llava> {
    let load = Load {
        vision_tower: recipe.vision_tower.clone(),
        projector: recipe.projector.clone(),
        fresh: Some(match recipe.projector_type {
            recipe::ProjectorType::Linear => Projector::Linear,
            recipe::ProjectorType::Mlp2xGelu => Projector::Mlp(2),
        }),
        pad: Some(recipe.image_aspect_ratio == recipe::AspectRatio::Pad),
    };
    let mut model = checkpoint::load(path, &load)?;
    if let Some(vision) = &mut model.config.vision {
        vision.select_layer = recipe.select_layer;
        vision.keep_class = recipe.select_feature == recipe::SelectFeature::ClsPatch;
    }
    Ok(model)
}

/// The data's name of the recipe's template.
fn template(template: recipe::Template) -> &'static str {
    match template {
        recipe::Template::Plain => "plain",
        recipe::Template::V0 => "v0",
        recipe::Template::V1 => "v1",
        recipe::Template::Llama2 => "llava_llama_2",
    }
}

/// How samples are made for this model and rank.
fn settings(recipe: &Recipe, vision: &VisionConfig, here: &Here) -> Result<Settings> {
    let aspect = if vision.pad { Aspect::Pad } else { Aspect::Square };
    let [mean, std] = vision.clip.colours;
    let preprocess = Preprocess { mean, std, ..Preprocess::clip(vision.clip.image as usize, aspect) };
    Ok(Settings {
        images: recipe.image_folder.clone().unwrap_or_default(),
        preprocess,
        patches: vision.tokens() as usize,
        max_length: recipe.max_length as usize,
        position: match recipe.image_position {
            recipe::ImagePosition::Random => ImagePosition::Random,
            recipe::ImagePosition::Front => ImagePosition::Front,
        },
        shape: order::Shape {
            seed: recipe.seed,
            batch: recipe.device_batch as usize,
            accumulate: recipe.accumulation(here.place.size as u64)? as usize,
            world: here.place.size,
            grouped: recipe.group_by_modality_length,
        },
        rank: here.place.rank,
        threads: recipe.workers as usize,
        ahead: 2,
    })
}

/// Stage 1 gives a projector; the others a whole LLaVA, in llava-hf's layout where that has the projector, else in the authors'.
fn save(recipe: &Recipe, model: &Llava, base: &Path, out: &Path) -> Result<PathBuf> {
    if recipe.stage == Stage::Align {
        let path = out.join("mm_projector.safetensors");
        checkpoint::save_projector(model, &path, kind(recipe))?;
        return Ok(path);
    }
    let saved = Saved { kind: kind(recipe), tokenizer: Some(base.into()), tower: true };
    let path = out.join("llava");
    match recipe.projector_type {
        recipe::ProjectorType::Mlp2xGelu => checkpoint::save_llava_hf(model, &path, &saved)?,
        recipe::ProjectorType::Linear => checkpoint::save_authors(model, &path, &saved)?,
    }
    Ok(path)
}

/// The loader as the trainer's source.
struct Batches(Loader);

impl Source for Batches {
    type Batch = data::Batch;

    fn next(&mut self) -> Result<Option<data::Batch>> {
        self.0.next_batch().map(Some)
    }

    fn position(&self) -> Value {
        json!(self.0.position())
    }
}
