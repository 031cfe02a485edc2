//! `pumice-train clip`: the small vision tower, from pictures and captions of the demo world.

use std::{path::PathBuf, process::ExitCode};

use pumice_train::{model::ClipConfig, pretrain::ClipRun};

use super::{
    pretrain::{Defaults, Flags},
    terminal,
};

#[derive(clap::Args)]
#[command(after_help = "\
Example:
  pumice-train clip -o clip")]
pub struct Args {
    #[command(flatten)]
    flags: Flags,
    /// Side of a picture in pixels.
    #[arg(long, value_name = "N", default_value_t = 112)]
    size: u32,
    /// Side of a patch in pixels.
    #[arg(long, value_name = "N", default_value_t = 16)]
    patch: u32,
    /// Width.
    #[arg(long, value_name = "N", default_value_t = 192)]
    hidden: u32,
    /// Layers; LLaVA takes its features before the last.
    #[arg(long, value_name = "N", default_value_t = 6)]
    layers: u32,
    /// Heads.
    #[arg(long, value_name = "N", default_value_t = 3)]
    heads: u32,
    /// The colour font whose pictograms are drawn; by default the system's Noto Color Emoji.
    #[arg(long, value_name = "FILE")]
    font: Option<PathBuf>,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { flags, size, patch, hidden, layers, heads, font } = args;
    anyhow::ensure!(
        patch > 0 && size > 0 && size % patch == 0,
        "--size {size} is no multiple of --patch {patch}: patches must cover the picture"
    );
    anyhow::ensure!(
        heads > 0 && hidden % heads == 0 && hidden % 4 == 0,
        "--hidden {hidden} must be a multiple of --heads {heads} and of 4"
    );
    let config = ClipConfig::new(
        size.into(),
        patch.into(),
        hidden.into(),
        (4 * hidden).into(),
        layers.into(),
        heads.into(),
    );
    let run = flags.run(&Defaults { steps: 2400, batch: 64, lr: 1e-3 })?;
    let mut watch = flags.watch(&run, 6.0 * config.parameters() as f64)?;
    let out = run.model();
    let Some(seen) = ClipRun { run, config, font }.train(&mut watch)? else {
        return Ok(ExitCode::from(130));
    };
    terminal::note(&format!(
        "wrote {}; on unseen combinations, patches on things: kind {:.1} %, place {:.1} %; captions found {:.1} %",
        out.display(),
        100.0 * seen.kind,
        100.0 * seen.place,
        100.0 * seen.caption
    ));
    Ok(ExitCode::SUCCESS)
}
