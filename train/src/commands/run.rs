//! A run of a stage: model, data, engine, logs and checkpoints brought together.

use std::{io::IsTerminal, path::Path, process::ExitCode};

use pumice_train::{
    Error, Result,
    engine::{
        Engine, Group, Options,
        ranks::place::{Place, World},
        schedule::{self, Schedule},
        trainer::{Plan, Watch as Alarm},
    },
    model::Llava,
    recipe::{self, Recipe, Stage, estimate::Shape},
    report::{Jsonl, Observers, Progress, TensorBoard},
};
use tch::{Device, Kind};

use super::devices;

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
    match recipe.kind {
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

/// Trains.
pub fn run(recipe: &Recipe, _: &Shape) -> anyhow::Result<ExitCode> {
    for (name, value) in [("model", &recipe.model), ("data", &recipe.data), ("out", &recipe.out)] {
        if value.is_none() {
            let flag = name.replace('_', "-");
            return Err(
                Error::Config(format!("{name} is not set: give --{flag}, or {name} in --config")).into()
            );
        }
    }
    super::not_built("training from files")
}
