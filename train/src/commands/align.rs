//! `pumice-train align | tune | sqa`: settings together, then the plan or the run.

use std::{io::Write, path::PathBuf, process::ExitCode};

use pumice_train::{
    Error, Result,
    engine::ranks::place::Place,
    recipe::{
        Layered, Preset, Source, Stage,
        estimate::{Corpus, Machine, Plan, Shape},
    },
};

use super::{devices, flags::Flags, resume, run, sqa, synthetic};

#[derive(clap::Args)]
// Part of another command's arguments too (`sqa`), whose group of the same name it would be.
#[group(skip)]
#[command(after_help = "\
Settings come from the preset, then --config, then flags; --show-config tells which came from where.

Examples:
  pumice-train tune --preset v1.5-13b --show-config --on 8xA100
  pumice-train tune --config run.toml --lr 1e-5
  pumice-train tune --preset v1.5-7b --synthetic --steps 5      (speed and memory of this machine, no checkpoint needed)")]
pub struct Args {
    /// The published recipe to begin with.
    #[arg(long, value_name = "NAME", default_value = "v1.5-7b", help_heading = "Settings")]
    preset: Preset,
    /// TOML file of settings: the flags' names, with underscores or dashes.
    #[arg(long, value_name = "FILE", help_heading = "Settings")]
    config: Option<PathBuf>,
    /// Show the settings and what they will take (steps, memory, hours), and do nothing.
    #[arg(long, help_heading = "Settings")]
    show_config: bool,
    /// With --show-config: as JSON.
    #[arg(long, requires = "show_config", help_heading = "Settings")]
    json: bool,
    /// With --show-config: for these GPUs instead of this machine's devices (8xA100, 2xH100).
    #[arg(long, value_name = "GPUS", requires = "show_config", help_heading = "Settings")]
    on: Option<String>,
    /// With --on: share of the peak that training reaches (0.25, as the authors' runs did).
    #[arg(long, value_name = "X", requires = "on", help_heading = "Settings")]
    mfu: Option<f64>,
    /// Random weights of the preset's shape and random rows: measures speed and memory, and keeps nothing.
    #[arg(long, help_heading = "Settings", conflicts_with_all = ["model", "data", "out"])]
    synthetic: bool,
    #[command(flatten)]
    flags: Flags,
}

impl Args {
    /// The settings, laid over each other.
    ///
    /// # Errors
    /// The file cannot be read, or a setting is unknown or makes no sense.
    pub fn layered(&self, stage: Stage) -> Result<Layered> {
        let text = match &self.config {
            Some(path) => Some(std::fs::read_to_string(path).map_err(Error::io(path))?),
            None => None,
        };
        let file = self.config.as_deref().zip(text.as_deref());
        Layered::new(self.preset, stage, file, &self.flags.table()?)
    }
}

pub fn run(stage: Stage, args: Args) -> anyhow::Result<ExitCode> {
    let layered = args.layered(stage)?;
    let mut recipe = layered.recipe.clone();
    // ScienceQA's own files become rows beside the run's log; where nothing is run, for as long as they are counted.
    let passing;
    if stage == Stage::Sqa {
        let to = recipe.out.clone().filter(|_| !args.show_config);
        passing = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
        sqa::rows(&mut recipe, args.preset, to.as_deref().unwrap_or(passing.path()))?;
    }
    let recipe = &recipe;
    recipe.data.as_deref().map_or(Ok(()), resume::is_file)?;
    let shape = Shape::of(args.preset).read(recipe.model.as_deref(), recipe.vision_tower.as_deref())?;
    let asked = layered.sources.get("projector_type").is_some_and(|source| *source != Source::Preset);
    if !args.show_config {
        return if args.synthetic {
            synthetic::run(recipe, &shape, args.preset)
        } else {
            run::run(recipe, &shape, asked)
        };
    }
    let corpus = match &recipe.data {
        Some(path) => Corpus::count(path, recipe.template)?,
        None => Corpus::published(args.preset, stage),
    };
    let machine = match &args.on {
        Some(name) => Machine::named(name)?,
        None => {
            let place = Place::read(|name| std::env::var(name).ok())?;
            let device = devices::choose(recipe.device, &place)?;
            // Before a launch: one rank for each GPU that is here.
            let ranks = if place.size > 1 { place.size as i64 } else { tch::Cuda::device_count().max(1) };
            devices::found(
                device,
                recipe.kind,
                if device.is_cuda() { ranks as u64 } else { place.size as u64 },
            )?
        }
    };
    let machine = Machine { mfu: args.mfu.unwrap_or(machine.mfu), ..machine };
    let plan = Plan::new(recipe, &shape, &corpus, &machine)?;
    let text = if args.json { format!("{:#}\n", plan.json(&layered)) } else { plan.text(&layered) };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
