//! `pumice quantize`: a checkpoint in, one GGUF file out.

mod table;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use indicatif::{ProgressBar, ProgressStyle};
use pumice_kernels::DType;
use pumice_quantize::{
    Error, FileType, Layout, Options, Override, Planned, Progress, Recipe, Source, SourceOptions, plan,
    synthetic, weight_type,
};

use crate::{Usage, interrupt, parts::Parts, terminal};

/// Arguments of `pumice quantize`.
#[derive(ClapArgs)]
#[command(after_help = "\
Types: F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K IQ4_NL IQ4_XS

Examples:
  pumice quantize llava-1.5-7b-hf llava-1.5-7b-q4_k_m.gguf Q4_K_M
  pumice quantize llava-v1.5-7b out.gguf Q4_K_M --vision-tower clip-vit-large-patch14-336
  pumice quantize vicuna-7b-v1.5 out.gguf Q4_K_M --mm-projector mm_projector.bin --vision-tower clip-vit-large-patch14-336
  pumice quantize llava-v1.5-7b-lora out.gguf Q8_0 --base vicuna-7b-v1.5 --vision-tower clip-vit-large-patch14-336
  pumice quantize text-f16.gguf out.gguf Q4_K_M --mmproj mmproj-f16.gguf")]
pub struct Args {
    /// What to read: a checkpoint folder, a LoRA folder, or a GGUF file; `synthetic:SHAPE` for random weights of a true shape
    /// (tiny, llava-1.5-7b, llava-1.5-13b, llava-v1-7b), to measure speed without a download.
    #[arg(value_name = "SOURCE")]
    source: PathBuf,
    /// The file to write, and the type of the text model's matrices. OUT may be left out: it is then named after source and type.
    #[arg(value_names = ["OUT", "TYPE"], num_args = 1..=2, required = true)]
    out_and_type: Vec<OsString>,
    #[command(flatten)]
    parts: Parts,
    /// The vision half of a GGUF pair.
    #[arg(long, value_name = "FILE")]
    mmproj: Option<PathBuf>,
    /// Type of the vision part's matrices; by default F16, and F32 where TYPE is F32.
    #[arg(long, value_name = "TYPE")]
    vision_type: Option<String>,
    /// Another type for the tensors whose GGUF names match PATTERN (a regular expression, somewhere in the name); may be
    /// given several times, the first match wins: --tensor-type 'blk\.0\.=Q8_0'.
    #[arg(long, value_name = "PATTERN=TYPE")]
    tensor_type: Vec<String>,
    /// The named type for every matrix of the text model, without the mixture's exceptions.
    #[arg(long)]
    pure: bool,
    /// Write llama.cpp's pair: OUT, and mmproj-OUT beside it.
    #[arg(long)]
    split: bool,
    /// Keep rows of the vocabulary that only pad, or stand for `<image>`.
    #[arg(long)]
    keep_original_vocab_rows: bool,
    /// Show what would be written, with sizes and bits per weight, and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Measure each tensor's error and show it: rmse, largest difference, signal to noise.
    #[arg(long)]
    report: bool,
    /// Threads (0: one per processor).
    #[arg(short = 't', long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Replace OUT where it exists.
    #[arg(long)]
    force: bool,
    /// One JSON object on stdout instead of a table.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let stopped = interrupt::install()?;
    let (out, file_type) = out_and_type(&args)?;
    check_place(&out)?;
    let recipe = recipe(&args, file_type)?;
    let source = open(&args)?;
    for text in source.notes() {
        terminal::note(text);
    }
    let layout = if args.split { Layout::Pair } else { Layout::OneFile };
    let planned = plan(&source, &out, &recipe, layout)?;
    if args.dry_run {
        table::show_plan(&planned, args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let options = Options { recipe, layout, threads: args.threads, force: args.force, measure: args.report };
    let bar = Bar::new(planned.bytes(), stopped);
    let start = std::time::Instant::now();
    let report = match pumice_quantize::run(&source, &out, &options, &bar) {
        Err(Error::Cancelled) => {
            bar.clear();
            terminal::note("stopped; nothing was written");
            return Ok(ExitCode::from(interrupt::EXIT));
        }
        outcome => outcome?,
    };
    bar.clear();
    table::show_report(&planned, &report, start.elapsed(), args.report, args.json)?;
    Ok(ExitCode::SUCCESS)
}

/// What a SOURCE that is no path begins with.
const SYNTHETIC: &str = "synthetic:";

/// The source that `args` name.
fn open(args: &Args) -> anyhow::Result<Source> {
    if let Some(shape) = args.source.to_str().and_then(|s| s.strip_prefix(SYNTHETIC)) {
        return Ok(synthetic::source(shape)?);
    }
    let options = SourceOptions {
        mmproj: args.mmproj.clone(),
        keep_original_vocab_rows: args.keep_original_vocab_rows,
        ..args.parts.options()
    };
    Ok(Source::open(&args.source, &options)?)
}

/// OUT and TYPE; OUT made from the source's name where only TYPE is given.
fn out_and_type(args: &Args) -> anyhow::Result<(PathBuf, FileType)> {
    let last = args.out_and_type.last().context("TYPE is missing")?.to_string_lossy();
    let file_type: FileType = last.parse().map_err(|_| no_type(&last))?;
    let out = match args.out_and_type.as_slice() {
        [out, _] => PathBuf::from(out),
        _ => derived_name(&args.source, file_type)?,
    };
    Ok((out, file_type))
}

/// What to say of a TYPE that is none: the one that was meant where only case or `_` differ, else all.
fn no_type(given: &str) -> Usage {
    let bare = |name: &str| name.replace(['_', '-'], "").to_ascii_uppercase();
    match FileType::ALL.iter().find(|t| bare(t.name()) == bare(given)) {
        Some(meant) => Usage(format!("{given:?} is no type; {} is", meant.name())),
        None => Usage(format!(
            "{given:?} is no type; the order is SOURCE OUT TYPE, and TYPE one of: {}",
            FileType::ALL.map(FileType::name).join(" ")
        )),
    }
}

/// Tells before any work that `out` is a folder, or in a folder that is not there.
fn check_place(out: &Path) -> anyhow::Result<()> {
    if out.is_dir() {
        bail!("{}: is a folder; name the file to write in it", out.display());
    }
    match out.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            bail!("{}: the folder {} is not there; make it first", out.display(), folder.display())
        }
        _ => Ok(()),
    }
}

/// `llava-1.5-7b-hf` and Q4_K_M → `llava-1.5-7b-hf-Q4_K_M.gguf`, in the folder where one is.
fn derived_name(source: &Path, file_type: FileType) -> anyhow::Result<PathBuf> {
    if let Some(shape) = source.to_str().and_then(|s| s.strip_prefix(SYNTHETIC)) {
        return Ok(PathBuf::from(format!("synthetic-{shape}-{}.gguf", file_type.name())));
    }
    let whole = source.canonicalize().with_context(|| source.display().to_string())?;
    let stem = if whole.is_dir() { whole.file_name() } else { whole.file_stem() };
    let stem = stem.with_context(|| format!("{} has no name: give OUT", source.display()))?;
    Ok(PathBuf::from(format!("{}-{}.gguf", stem.to_string_lossy(), file_type.name())))
}

fn recipe(args: &Args, file_type: FileType) -> anyhow::Result<Recipe> {
    let mut recipe = Recipe::new(file_type);
    recipe.vision_type = match &args.vision_type {
        Some(name) => weight_type(name)?,
        // Asked for F32, nobody expects half of the file rounded.
        None if file_type == FileType::F32 => DType::F32,
        None => DType::F16,
    };
    recipe.pure = args.pure;
    for rule in &args.tensor_type {
        recipe.overrides.push(rule.parse::<Override>()?);
    }
    Ok(recipe)
}

/// A progress bar that also carries Ctrl-C.
struct Bar {
    bar: ProgressBar,
    stopped: Arc<AtomicBool>,
}

impl Bar {
    fn new(total: u64, stopped: Arc<AtomicBool>) -> Self {
        let style = ProgressStyle::with_template(
            "{bar:30} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}, {eta} left  {wide_msg}",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar());
        Self { bar: ProgressBar::new(total).with_style(style), stopped }
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Progress for Bar {
    fn tensor(&self, index: usize, count: usize, tensor: &Planned) {
        self.bar.set_message(format!("{}/{count} {} {}", index + 1, tensor.name, tensor.to));
    }

    fn advance(&self, done: u64, _total: u64) -> bool {
        self.bar.set_position(done);
        !self.stopped.load(Ordering::SeqCst)
    }
}
