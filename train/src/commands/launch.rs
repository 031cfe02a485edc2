//! `pumice-train launch N -- …`: this program N times on this machine, with the variables that torchrun sets.

use std::{
    ffi::OsString,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context;
use pumice_train::engine::ranks::launch::{self, Ended};

#[derive(clap::Args)]
#[command(after_help = "\
On several machines start each rank with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT set, as torchrun
--no-python or Slurm do; launch is for the ranks of one machine.

Examples:
  pumice-train launch 8 -- tune --preset v1.5-7b --config run.toml
  torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29400 --no-python \\
    pumice-train tune --preset v1.5-13b --config run.toml")]
pub struct Args {
    /// Ranks: one per GPU.
    #[arg(value_name = "N")]
    ranks: usize,
    /// The command that each rank runs, after `--`.
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    // One that the launcher takes back, so that a second Ctrl-C reaches the ranks too, and one that stays.
    let [stop, stopped] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let flags = [stop.clone(), stopped.clone()];
    ctrlc::set_handler(move || flags.iter().for_each(|flag| flag.store(true, Ordering::Relaxed)))
        .context("Ctrl-C cannot be caught")?;
    let program = std::env::current_exe().context("this program's own path is not known")?;
    // Ranks wait for each other in steps of a second, and libtorch warns of every one.
    let quiet = [("TORCH_CPP_LOG_LEVEL", "ERROR")];
    let quiet = if std::env::var_os(quiet[0].0).is_some() { &[] } else { &quiet[..] };
    let ended = launch::run(args.ranks, program.as_os_str(), &args.command, quiet, &stop)?;
    let stopped = ended == Ended::Stopped || stopped.load(Ordering::Relaxed);
    Ok(ExitCode::from(if stopped { 130 } else { 0 }))
}
