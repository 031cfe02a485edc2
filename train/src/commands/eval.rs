//! `pumice-train eval`: the table of what a model sees.

use std::{path::PathBuf, process::ExitCode};

#[derive(clap::Args)]
pub struct Args {
    /// Checkpoint folder or GGUF file.
    #[arg(value_name = "MODEL")]
    path: PathBuf,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let _ = args.path;
    super::not_built("eval")
}
