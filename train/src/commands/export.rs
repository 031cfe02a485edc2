//! `pumice-train export`: a checkpoint read in any layout and written in the one that is asked for.

use std::{path::PathBuf, process::ExitCode};

use clap::ValueEnum;
use pumice_train::{
    Error,
    model::checkpoint::{self, Load, Saved},
};

use super::terminal;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  pumice-train export llava-v1.5-7b llava-1.5-7b-hf --layout llava-hf --vision-tower clip-vit-large-patch14-336
  pumice-train export vicuna-7b-v1.5 stage1-llava --layout authors --vision-tower clip-vit-large-patch14-336 --projector stage1/mm_projector.safetensors
  pumice-train export stage2/llava vicuna --layout llama --kind bf16")]
pub struct Args {
    /// Folder of the checkpoint: llava-hf's layout, the authors', or a LLaMA's.
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: PathBuf,
    /// Folder to make.
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// How the folder is laid out.
    #[arg(long, value_name = "LAYOUT")]
    layout: Layout,
    /// Type of the weights.
    #[arg(long, value_name = "KIND", default_value = "f16")]
    kind: Kind,
    /// Folder of the CLIP checkpoint, where CHECKPOINT does not hold the tower.
    #[arg(long, value_name = "DIR")]
    vision_tower: Option<PathBuf>,
    /// Projector in place of the checkpoint's: mm_projector.bin, .safetensors, or a folder.
    #[arg(long, value_name = "PATH")]
    projector: Option<PathBuf>,
}

/// Layouts that others load.
#[derive(Clone, Copy, ValueEnum)]
enum Layout {
    /// As `transformers`' LlavaForConditionalGeneration.
    LlavaHf,
    /// As the authors' LlavaLlamaForCausalLM, the tower inside.
    Authors,
    /// The language model alone, as `transformers`' LlamaForCausalLM.
    Llama,
}

/// Types of weights in files.
#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// 16 bits, 5 of them exponent.
    F16,
    /// 16 bits, 8 of them exponent.
    Bf16,
    /// 32 bits.
    F32,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { checkpoint: from, out, layout, kind, vision_tower, projector } = args;
    if out.exists() {
        return Err(Error::Config(format!(
            "{} is there already; give the name of a new folder",
            out.display()
        ))
        .into());
    }
    let model = checkpoint::load(&from, &Load { vision_tower, projector, ..Load::default() })?;
    let kind = match kind {
        Kind::F16 => tch::Kind::Half,
        Kind::Bf16 => tch::Kind::BFloat16,
        Kind::F32 => tch::Kind::Float,
    };
    let saved = Saved { kind, tokenizer: Some(from), tower: true };
    match layout {
        Layout::LlavaHf => checkpoint::save_llava_hf(&model, &out, &saved)?,
        Layout::Authors => checkpoint::save_authors(&model, &out, &saved)?,
        Layout::Llama => checkpoint::save_llama(&model, &out, &saved)?,
    }
    terminal::note(&format!("wrote {}", out.display()));
    Ok(ExitCode::SUCCESS)
}
