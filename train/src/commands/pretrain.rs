//! What `pumice-train clip` and `pumice-train lm` share: flags, device, reports.

use std::path::PathBuf;

use pumice_train::{
    engine::{ranks::place::Place, state::checkpoints},
    pretrain::Run,
    recipe::{DeviceChoice, Kind},
    report::Observers,
};
use tch::Device;

use super::{devices, resume, run, watch::Watch};

/// Flags of both.
#[derive(clap::Args)]
pub struct Flags {
    /// Folder for the model, its checkpoints and logs; a run that was stopped goes on from the last checkpoint there.
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// Steps.
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Pictures or conversations of a step.
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Highest learning rate.
    #[arg(long, value_name = "X")]
    lr: Option<f64>,
    /// Numbers it computes in.
    #[arg(long, value_name = "KIND", default_value = "bf16")]
    kind: Kind,
    /// Where it computes.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// Of the world and of the fresh weights.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Steps between checkpoints; 0: at the end only.
    #[arg(long, value_name = "N", default_value_t = 500)]
    save_every: u64,
}

/// What a pre-training does where no flag says otherwise.
pub struct Defaults {
    pub steps: u64,
    pub batch: usize,
    pub lr: f64,
}

impl Flags {
    /// The run that they ask for.
    ///
    /// # Errors
    /// The device is not here.
    pub fn run(&self, defaults: &Defaults) -> anyhow::Result<Run> {
        let device: Device = devices::choose(self.device, &Place::default())?;
        Ok(Run {
            out: self.out.clone(),
            steps: self.steps.unwrap_or(defaults.steps).max(1),
            batch: self.batch.unwrap_or(defaults.batch).max(2),
            lr: self.lr.unwrap_or(defaults.lr),
            kind: run::number(self.kind),
            device,
            seed: self.seed,
            save_every: self.save_every,
            vocabulary: pumice_train::world::vocabulary::PIECES,
        })
    }

    /// Terminal and logs; `flops` is what a token takes, forward and backward.
    ///
    /// # Errors
    /// A log cannot be opened, or the checkpoint there was made with another seed or batch.
    pub fn watch(&self, run: &Run, flops: f64) -> anyhow::Result<Watch> {
        let machine = devices::found(run.device, self.kind, 1)?;
        resume::is_folder(&run.out)?;
        resume::check(&run.settings(), &run.out, &["seed", "batch"], true)?;
        let next = checkpoints(&run.out)?.last().map_or(1, |(step, _)| step + 1);
        let to: Observers = run::observers(Some(&run.out), next, Some(machine.peak))?;
        Watch::new(Box::new(move |tokens, _| tokens * flops), 1, to)
    }
}
