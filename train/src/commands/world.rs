//! `pumice-train world`: the demo world's pictures and texts, on disk.

use std::{io::IsTerminal, path::PathBuf, process::ExitCode};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget};
use pumice_train::world::{
    files::{self, Options},
    scene::Split,
};

use super::terminal;

#[derive(Clone, Copy, ValueEnum)]
enum Sets {
    /// Nine sets of kinds in ten.
    Train,
    /// The rest, never seen in training.
    Test,
}

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  pumice-train world world --pictures 20000
  pumice-train world world-test --pictures 1000 --split test --seed 2")]
pub struct Args {
    /// Folder to write.
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// Pictures.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pictures: u64,
    /// Decides everything.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Which combinations of things.
    #[arg(long, value_name = "SETS", default_value = "train")]
    split: Sets,
    /// Side of a picture in pixels.
    #[arg(long, value_name = "N", default_value_t = Options::default().size as u64, value_parser = clap::value_parser!(u64).range(16..=4096))]
    size: u64,
    /// Questions on one picture.
    #[arg(long, value_name = "N", default_value_t = Options::default().turns as u64, value_parser = clap::value_parser!(u64).range(1..=1000))]
    turns: u64,
    /// Pieces of the vocabulary.
    #[arg(long, value_name = "N", default_value_t = Options::default().vocabulary)]
    vocabulary: usize,
    /// The colour font whose pictograms are drawn; by default the system's Noto Color Emoji.
    #[arg(long, value_name = "FILE")]
    font: Option<PathBuf>,
    /// Write over what is in OUT.
    #[arg(long)]
    force: bool,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let split = match args.split {
        Sets::Train => Split::Train,
        Sets::Test => Split::Test,
    };
    let Args { pictures, seed, size, turns, vocabulary, font, .. } = args;
    let (size, turns) = (size as usize, turns as usize);
    let options = Options { pictures, seed, split, size, turns, vocabulary, font };
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    // Nothing is touched before the font is known to be one.
    pumice_train::world::painter(options.font.as_deref(), size)?;
    files::prepare(&args.out, &options, args.force)?;
    let bar = ProgressBar::with_draw_target(Some(pictures), target);
    files::generate(&args.out, &options, |done| bar.set_position(done))?;
    bar.finish_and_clear();
    terminal::note(&format!("{pictures} pictures with captions and conversations in {}", args.out.display()));
    Ok(ExitCode::SUCCESS)
}
