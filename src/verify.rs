//! `pumice verify`: how far a GGUF file is from the checkpoint that it was made of.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Args as ClapArgs;
use indicatif::{ProgressBar, ProgressStyle};
use pumice_kernels::{
    DType,
    cpu::{Cpu, CpuOptions, Isa},
};
use pumice_models::{config::has_vision, gguf::File};
use pumice_quantize::{FileType, Options, Recipe, Source};
use pumice_runtime::verify::{Agreement, Trace, trace};

use crate::{Usage, parts::Parts, terminal};

/// Arguments of `pumice verify`.
#[derive(ClapArgs)]
#[command(after_help = "\
Example:
  pumice verify llava-1.5-7b-q4_k_m.gguf --reference llava-1.5-7b-hf")]
pub struct Args {
    /// The GGUF file to judge.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Its vision half, where it is one of a pair.
    #[arg(long, value_name = "FILE")]
    mmproj: Option<PathBuf>,
    /// The checkpoint's folder that it was made of.
    #[arg(long, value_name = "FOLDER")]
    reference: PathBuf,
    #[command(flatten)]
    parts: Parts,
    /// Instruction set that the checkpoint is computed with, in f32. `scalar` is the specification and slow: hours for 7B, where
    /// avx2 or avx512-vnni, which add in another order, take minutes.
    #[arg(long, value_name = "NAME", default_value = "scalar")]
    reference_isa: String,
    /// Threads (0: one per physical core).
    #[arg(short = 't', long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// One JSON object on stdout instead of a table.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let isa = Isa::available()
        .into_iter()
        .find(|isa| isa.name().eq_ignore_ascii_case(&args.reference_isa))
        .ok_or_else(|| {
        Usage(format!("--reference-isa {}: this machine does not have it", args.reference_isa))
    })?;
    let file = File::open(&args.file)?;
    let mmproj = args.mmproj.as_deref().map(File::open).transpose()?;
    let source = Source::open(&args.reference, &args.parts.options())?;

    // The checkpoint under GGUF names, every number as it is; gone when this function ends.
    let folder = tempfile::tempdir().context("a folder for the reference")?;
    let whole = folder.path().join("reference.gguf");
    let options = Options::new(exact(&source));
    pumice_quantize::run(&source, &whole, &options, &()).with_context(|| {
        format!("writing the reference to {} (TMPDIR chooses another disk)", whole.display())
    })?;
    let reference = traced(&whole, &args, isa)?;
    let own = traced_files(&file, mmproj.as_ref(), None, args.threads, Some(&reference), "the file")?;
    show(&reference.compare(&own)?, args.json)?;
    Ok(ExitCode::SUCCESS)
}

/// The recipe that rounds nothing in `source`.
fn exact(source: &Source) -> Recipe {
    let types: Vec<String> =
        source.tensors().iter().filter(|t| t.dims.len() > 1).map(|t| t.source_type()).collect();
    let all = |name: &str| types.iter().all(|t| t == name);
    let (file_type, vision_type) = match () {
        () if all("F16") => (FileType::F16, DType::F16),
        () if all("BF16") => (FileType::BF16, DType::BF16),
        () => (FileType::F32, DType::F32),
    };
    Recipe { vision_type, ..Recipe::new(file_type) }
}

fn traced(path: &Path, args: &Args, isa: Isa) -> anyhow::Result<Trace> {
    let file = File::open(path)?;
    traced_files(&file, None, Some(isa), args.threads, None, "the checkpoint")
}

fn traced_files(
    text: &File,
    mmproj: Option<&File>,
    isa: Option<Isa>,
    threads: usize,
    reference: Option<&Trace>,
    what: &str,
) -> anyhow::Result<Trace> {
    let vision = match mmproj {
        Some(file) => Some(file),
        None if has_vision(text)? => Some(text),
        None => None,
    };
    let style = ProgressStyle::with_template("{msg} {bar:20} {pos}/{len} inputs, {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(1).with_style(style).with_message(what.to_string());
    let mut progress = |done: usize, all: usize| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    };
    let mut cpu = Cpu::new(CpuOptions { threads, isa });
    let trace = trace(text, vision, &mut cpu, reference, &mut progress);
    bar.finish_and_clear();
    Ok(trace?)
}

fn show(a: &Agreement, json: bool) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(a)?)?;
        return Ok(());
    }
    let share = |part: usize, all: usize| {
        format!("{part} of {all} ({:.2} %)", 100.0 * part as f64 / all.max(1) as f64)
    };
    if a.image_tokens > 0 {
        writeln!(
            out,
            "image features   cosine {:.6} mean, {:.6} least, over {} tokens",
            a.cosine_mean, a.cosine_min, a.image_tokens
        )?;
    }
    writeln!(
        out,
        "logits           KL divergence {:.3e} mean, {:.3e} largest, over {} positions",
        a.kl_mean, a.kl_max, a.positions
    )?;
    writeln!(out, "likeliest token  the same at {}", share(a.same_top, a.positions))?;
    writeln!(out, "greedy answers   {} tokens the same", share(a.answer_same, a.answer_tokens))?;
    terminal::note("KL in nats; answers are the checkpoint's, fed to both");
    Ok(())
}
