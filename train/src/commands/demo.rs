//! `pumice-train demo`: the whole road from an empty folder to the demo model.

use std::{path::PathBuf, process::ExitCode};

#[derive(clap::Args)]
pub struct Args {
    /// Folder to work in.
    #[arg(value_name = "OUT")]
    path: PathBuf,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let _ = args.path;
    super::not_built("demo")
}
