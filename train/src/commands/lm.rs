//! `pumice-train lm`: the small language model, from text of the demo world.

use std::process::ExitCode;

use pumice_train::{model::LlamaConfig, pretrain::TextRun};

use super::{
    pretrain::{Defaults, Flags},
    terminal,
};

#[derive(clap::Args)]
#[command(after_help = "\
Example:
  pumice-train lm -o lm")]
pub struct Args {
    #[command(flatten)]
    flags: Flags,
    /// Width.
    #[arg(long, value_name = "N", default_value_t = 256)]
    hidden: u32,
    /// Width of the MLP.
    #[arg(long, value_name = "N", default_value_t = 768)]
    ff: u32,
    /// Layers.
    #[arg(long, value_name = "N", default_value_t = 4)]
    layers: u32,
    /// Heads.
    #[arg(long, value_name = "N", default_value_t = 8)]
    heads: u32,
    /// Positions that it is made for.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    context: u32,
    /// Questions on one scene.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1000))]
    turns: u64,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { flags, hidden, ff, layers, heads, context, turns } = args;
    anyhow::ensure!(
        heads > 0 && hidden % (2 * heads) == 0,
        "--hidden {hidden} must be an even multiple of --heads {heads}"
    );
    let run = flags.run(&Defaults { steps: 1300, batch: 16, lr: 1.5e-3 })?;
    let mut config = LlamaConfig::new(
        run.vocabulary as i64,
        hidden.into(),
        ff.into(),
        layers.into(),
        heads.into(),
        context.into(),
    );
    // One table for reading and writing words: a small model learns much sooner so.
    config.tied = true;
    let mut watch = flags.watch(&run, 6.0 * config.parameters() as f64)?;
    let out = run.model();
    let text = TextRun { run, config, turns: turns as usize, template: "v1".into() };
    if !text.train(&mut watch)? {
        return Ok(ExitCode::from(130));
    }
    terminal::note(&format!("wrote {}", out.display()));
    Ok(ExitCode::SUCCESS)
}
