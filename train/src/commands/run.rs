//! A run of a stage: model, data, engine, logs and checkpoints brought together.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use pumice_models::checkpoint::Folder;
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
        Engine, Group, Options, Stack,
        memory::or_full,
        ranks::place::{Place, World},
        schedule::{self, Schedule},
        trainer::{Plan, Source, Trainer, Watch as Alarm},
    },
    model::{Llava, LlavaConfig, Lora, VisionConfig, config::is_llava},
    recipe::{self, Recipe, Stage, estimate::Shape},
    report::{Jsonl, Observers, Progress, TensorBoard},
    shim,
};
use serde_json::{Value, json};
use tch::{Device, Kind};

use super::{devices, resume, student, terminal, watch::Watch};

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
        if device.is_cuda() {
            // The published runs have it on; it only concerns products of f32.
            shim::set_tf32(true)?;
        }
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

/// The engine around `stack`, whose units are trainable or frozen already.
///
/// # Errors
/// Ranks are missing, the batch cannot be shared out, settings contradict each other, or the device has no room.
pub fn engine<S: Stack>(recipe: &Recipe, stack: S, here: &Here) -> Result<Engine<S>> {
    let ranks = here.place.size;
    let shard_weights = recipe.zero == 3 && ranks > 1;
    if shard_weights && !recipe.checkpointing {
        return Err(Error::Config(
            "zero = 3 (weights sharded over the ranks) needs checkpointing: without it each layer's graph would keep the gathered weights; \
             give --checkpointing, or --zero 2"
                .into(),
        ));
    }
    let options = Options {
        kind: kind(recipe),
        accumulate: recipe.accumulation(ranks as u64)? as usize,
        checkpoint: recipe.checkpointing,
        shard_weights,
        clip: recipe.clip,
        betas: (recipe.betas[0], recipe.betas[1]),
        eps: recipe.eps,
        seed: recipe.seed,
        ..Options::default()
    };
    let world = World::on(&here.place, here.device)?;
    let projector = recipe.projector_lr.map_or(1.0, |lr| lr / recipe.lr);
    let group = |name: &str| Group::of(name, projector, recipe.weight_decay);
    or_full(Error::ModelMemory, || Engine::new(stack, world.ranks, options, &group))
}

/// What the trainer does over `steps` steps; `settings` are kept in its checkpoints.
pub fn plan(recipe: &Recipe, steps: u64, folder: Option<&Path>, settings: Value) -> Plan {
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
        settings,
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
/// `asked`: the projector's type was set by a person, not by the preset.
pub fn run(recipe: &Recipe, shape: &Shape, asked: bool) -> anyhow::Result<ExitCode> {
    recipe.check()?;
    let model = wanted("model", &recipe.model)?;
    wanted("data", &recipe.data)?;
    let out = wanted("out", &recipe.out)?;
    resume::is_folder(out)?;
    let here = Here::new(recipe)?;
    resume::check(&resume::settings(recipe)?, out, resume::OF_A_STAGE, here.place.rank == 0)?;
    tch::manual_seed(recipe.seed as i64);
    let llava = student::open(recipe, model)?;
    if asked {
        student::is_as_asked(recipe, &llava)?;
    }
    let learned = recipe.projector.is_some() || is_llava(&Folder::open(model)?.config()?);
    if here.place.rank == 0 && recipe.stage != Stage::Align && !learned {
        terminal::note(
            "no --projector is given: a fresh one learns here, without stage 1 (pumice-train align)",
        );
    }
    let config = llava.config.clone();
    let ended = match &recipe.lora {
        None => {
            let stack = student::of_stage(recipe, llava, &here)?;
            let save = |llava: Llava| student::save(recipe, &llava, model, out);
            train(recipe, shape, &here, (stack, &config), save)?
        }
        Some(settings) => {
            let stack = student::adapted(settings, recipe, llava, &here)?;
            let save = |lora: Lora| student::save_adapted(recipe, lora, model, out);
            train(recipe, shape, &here, (stack, &config), save)?
        }
    };
    Ok(ExitCode::from(if ended { 0 } else { 130 }))
}

/// Trains `stack`, a model of `config`, to its last step and lets the first rank `save` it, which tells what it wrote; false where Ctrl-C came before.
fn train<S: Stack<Batch = data::Batch>>(
    recipe: &Recipe,
    shape: &Shape,
    here: &Here,
    (stack, config): (S, &LlavaConfig),
    save: impl FnOnce(S) -> Result<Vec<PathBuf>>,
) -> anyhow::Result<bool> {
    let (model, data) = (wanted("model", &recipe.model)?, wanted("data", &recipe.data)?);
    let out = wanted("out", &recipe.out)?;
    let (first, ranks) = (here.place.rank == 0, here.place.size as u64);
    let vision = config.vision.as_ref().ok_or_else(|| {
        Error::Config(format!("{} has no vision tower; give --vision-tower", model.display()))
    })?;
    let vocabulary = Arc::new(data::vocabulary::open(model)?);
    data::vocabulary::check(&vocabulary, config.text.vocab)?;
    let (rows, report) = rows(data, first)?;
    let left_out = report.skipped() as u64;
    let steps = recipe.total_steps(rows.len() as u64);
    let peak = devices::found(here.device, recipe.kind, ranks)?.peak * ranks as f64;
    let mut trainer =
        Trainer::new(engine(recipe, stack, here)?, plan(recipe, steps, Some(out), resume::settings(recipe)?));
    trainer.resume()?;
    // By steps, not by what this rank took: a resumed run may have another number of ranks.
    let (done, epoch) = (trainer.engine.steps(), recipe.steps_per_epoch(rows.len() as u64).max(1));
    let start =
        Position { epoch: done / epoch, micro: done % epoch * trainer.engine.options().accumulate as u64 };
    let loader = Loader::new(
        rows,
        Template::new(recipe.template.format(), vocabulary, vision.im_start_end)?,
        settings(recipe, vision, here)?,
        start,
        data::Report::default(),
    )?;
    let mut watch = watch(recipe, shape, here, &trainer, peak)?;
    let mut batches = Batches { loader, left_out, skipped: watch.skipped.clone() };
    let done = trainer.run(&mut batches, &mut watch)?;
    let unusable = batches.loader.report();
    if !unusable.is_clean() {
        let rank = if ranks > 1 { format!("rank {}: ", here.place.rank) } else { String::new() };
        terminal::note(&format!("{rank}{} rows could not be used\n{unusable}", unusable.skipped()));
    }
    if first {
        warn_of_cut(&report);
    }
    if done < steps {
        return Ok(false);
    }
    trainer.engine.gather()?;
    // No wait for the first rank's writing, which may outlast any timeout; `_ranks` says goodbye at the end.
    let (stack, _ranks) = trainer.engine.into_parts();
    if first {
        for path in save(stack)? {
            terminal::note(&format!("wrote {}", path.display()));
        }
    }
    Ok(true)
}

/// The rows of `data`; where `first`, with what is wrong with them told.
fn rows(data: &Path, first: bool) -> Result<(Arc<Rows>, data::Report)> {
    let mut report = data::Report::default();
    let rows = Arc::new(Rows::open(&[data.to_owned()], &mut report)?);
    if first && !report.is_clean() {
        terminal::note(&format!("{}: {} rows left out\n{report}", data.display(), report.skipped()));
        warn_of_cut(&report);
    }
    Ok((rows, report))
}

/// A file that lacks its end lacks more than any row.
fn warn_of_cut(report: &data::Report) {
    report.cut().iter().for_each(|cut| terminal::warning(&format!("{cut}: get the whole file")));
}

/// Who looks on: on the first rank the terminal, which is told where the run begins, and the logs in `out`; on the others nobody.
fn watch<S: Stack>(
    recipe: &Recipe,
    shape: &Shape,
    here: &Here,
    trainer: &Trainer<S>,
    peak: f64,
) -> anyhow::Result<Watch> {
    let (ranks, from) = (here.place.size as u64, trainer.engine.steps());
    if here.place.rank > 0 {
        return Watch::of_stage(recipe, shape, ranks, Observers::default());
    }
    let out = wanted("out", &recipe.out)?;
    let watch = Watch::of_stage(recipe, shape, ranks, observers(Some(out), from + 1, Some(peak))?)?;
    let (steps, to) = (trainer.total(), out.display());
    terminal::note(&match from {
        0 => format!("{steps} steps of {} rows; log and checkpoints in {to}", recipe.batch),
        _ => format!("goes on after step {from} of {steps}; log and checkpoints in {to}"),
    });
    Ok(watch)
}

/// A setting that has no default.
fn wanted<'a>(name: &str, value: &'a Option<PathBuf>) -> Result<&'a Path> {
    value.as_deref().ok_or_else(|| {
        let flag = name.replace('_', "-");
        Error::Config(format!("{name} is not set: give --{flag}, or {name} in --config"))
    })
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

/// The loader as the trainer's source; it tells how many rows are left out.
struct Batches {
    loader: Loader,
    /// Rows that have no place in the index.
    left_out: u64,
    /// Where those that reports ask for their number look.
    skipped: Arc<AtomicU64>,
}

impl Source for Batches {
    type Batch = data::Batch;

    fn next(&mut self) -> Result<Option<data::Batch>> {
        let batch = self.loader.next_batch()?;
        self.skipped.store(self.left_out + self.loader.report().skipped() as u64, Ordering::Relaxed);
        Ok(Some(batch))
    }

    fn position(&self) -> Value {
        json!(self.loader.position())
    }
}
