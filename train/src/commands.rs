//! The command line: one file per command, and what they share.

mod align;
mod clip;
mod demo;
mod devices;
mod eval;
mod export;
mod flags;
mod launch;
mod lm;
mod pretrain;
mod resume;
mod run;
mod sqa;
mod start;
mod student;
mod synthetic;
mod terminal;
mod watch;
mod world;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use pumice_train::{Error, recipe::Stage};

/// Trains LLaVA: the two published stages, ScienceQA, and the small world that the demo model lives in.
#[derive(Parser)]
#[command(
    name = "pumice-train",
    version,
    about,
    max_term_width = 110,
    after_help = "\
Examples:
  pumice-train align --preset v1.5-7b --show-config --on 8xA100
  pumice-train launch 8 -- align --preset v1.5-7b --config stage1.toml
  pumice-train launch 8 -- tune --preset v1.5-7b --config stage2.toml

stage1.toml holds settings under the flags' names:
  model = \"vicuna-7b-v1.5\"
  vision_tower = \"clip-vit-large-patch14-336\"
  data = \"blip_laion_cc_sbu_558k.json\"
  image_folder = \"images\"
  out = \"stage1\"

Exit codes: 0 done, 1 failed, 2 wrong command line or setting, 130 stopped."
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Stage 1: the projector learns to speak to the language model, on captions.
    Align(align::Args),
    /// Stage 2: projector and language model learn to follow instructions about pictures.
    Tune(align::Args),
    /// Fine-tune on ScienceQA.
    Sqa(sqa::Args),
    /// Write a checkpoint again, in another layout or type.
    Export(export::Args),
    /// Start several ranks of another command on this machine, as torchrun does.
    Launch(launch::Args),
    /// Draw the demo world: pictures, captions, conversations, vocabulary.
    World(world::Args),
    /// Pre-train a small vision tower on pictures and captions of the demo world.
    Clip(clip::Args),
    /// Pre-train a small language model on text of the demo world.
    Lm(lm::Args),
    /// Judge a checkpoint or GGUF file on unseen scenes of the demo world.
    Eval(eval::Args),
    /// Make the demo model from an empty folder.
    Demo(demo::Args),
}

/// Runs the command that the command line names.
pub fn main() -> ExitCode {
    // Before anything asks libtorch which devices there are.
    pumice_train::shim::load_cuda();
    let args = Args::parse();
    let outcome = start::check_libtorch().and_then(|()| match args.command {
        Command::Align(args) => align::run(Stage::Align, args),
        Command::Tune(args) => align::run(Stage::Tune, args),
        Command::Sqa(args) => sqa::run(args),
        Command::Export(args) => export::run(args),
        Command::Launch(args) => launch::run(args),
        Command::World(args) => world::run(args),
        Command::Clip(args) => clip::run(args),
        Command::Lm(args) => lm::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Demo(args) => demo::run(args),
    });
    match outcome {
        Ok(code) => code,
        Err(error) if terminal::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            start::let_the_first_speak(&error);
            terminal::error(&error);
            match error.downcast_ref::<Error>() {
                Some(Error::Config(_)) => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
