//! `pumice-train clip`: the small vision tower, from pictures and captions.

use std::{path::PathBuf, process::ExitCode};

#[derive(clap::Args)]
pub struct Args {
    /// Folder of the demo world.
    #[arg(value_name = "WORLD")]
    path: PathBuf,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let _ = args.path;
    super::not_built("clip")
}
