//! From arguments to an open chat: files, threads, instruction set, memory.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::bail;
use indicatif::{ProgressBar, ProgressStyle};
use pumice_kernels::{
    Bytes, DType,
    cpu::{CpuOptions, Isa},
};
use pumice_models::{config::LlamaConfig, gguf::File, plan::free_memory};
use pumice_quantize::{FileType, synthetic::synthetic};
use pumice_runtime::{
    chat::{self, Chat, Options},
    prompt::ImagePlace,
    sample::SamplerOptions,
};

use super::{Args, demo::Demo};
use crate::{
    Usage,
    device::{Placed, Placing, Reports},
    holding, terminal,
};

/// What the command line names.
pub enum Model {
    /// A GGUF file.
    File(PathBuf),
    /// Random weights: the shape's name, perhaps with `:TYPE`.
    Synthetic(String),
    /// Nothing: the demo model.
    Demo(Demo),
}

/// Opens `model` as `args` say. Where devices are compared, what that finds is in the reports.
pub fn open(args: &Args, model: &Model, cancel: Arc<AtomicBool>) -> anyhow::Result<(Chat, Reports)> {
    let options = options(args, model, cancel.clone())?;
    let (mut chat, reports) = match model {
        Model::File(folder) if folder.join("config.json").is_file() => bail!(
            "{0}: is a checkpoint's folder; make a GGUF file of it: pumice quantize {0} Q4_K_M",
            folder.display()
        ),
        Model::File(path) | Model::Demo(Demo { model: path, .. }) => {
            let text = File::open(path)?;
            let mmproj = args.mmproj.as_deref().filter(|_| options.vision).map(File::open).transpose()?;
            let (placed, options) = place(args, (&text, mmproj.as_ref()), options)?;
            (Chat::open(path, placed.devices, options)?, placed.reports)
        }
        Model::Synthetic(shape) => {
            terminal::note(&format!(
                "random weights of the shape {shape:?}: the words below mean nothing; -m FILE takes a real model"
            ));
            let (shape, file_type) = match shape.split_once(':') {
                Some((shape, name)) => (shape, name.parse::<FileType>()?),
                None => (shape.as_str(), FileType::Q4_K_M),
            };
            let bytes = synthetic(shape, file_type)?;
            let file = File::from_bytes(&format!("synthetic {shape}"), Bytes::new(bytes))?;
            let (placed, options) = place(args, (&file, None), options)?;
            (Chat::from_files(&file, None, placed.devices, options)?, placed.reports)
        }
    };
    holding::note(chat.unlocked());
    show_progress(&mut chat, cancel);
    Ok((chat, reports))
}

/// The devices for a model, and the options as they are with it.
fn place(
    args: &Args,
    (text, mmproj): (&File, Option<&File>),
    options: Options,
) -> anyhow::Result<(Placed, Options)> {
    let options = Options { ctx: context(args, text)?, ..options };
    let isa = match (isa(args)?, args.check) {
        // What a device has to agree with is the specification; faster instructions round activations more coarsely.
        (None, Some(_)) => {
            terminal::note(
                "checking against the CPU's scalar code, which is slow; --isa takes a faster one, which rounds more coarsely",
            );
            Some(Isa::Scalar)
        }
        (isa, _) => isa,
    };
    let placed = args.device.place(&Placing {
        cpu: CpuOptions { threads: threads(args)?, isa },
        plan: &chat::plan(text, mmproj, &options)?,
        free: options.memory,
        check: args.check,
    })?;
    let options = Options { memory: placed.memory, ..options };
    Ok((placed, options))
}

fn options(args: &Args, model: &Model, cancel: Arc<AtomicBool>) -> anyhow::Result<Options> {
    let cache_type = DType::from_name(&args.cache_type)
        .filter(|t| matches!(t, DType::F16 | DType::F32 | DType::Q8_0))
        .ok_or_else(|| Usage(format!("--cache-type {}: f16, f32 or q8_0", args.cache_type)))?;
    let s = &args.sampling;
    // The demo model's figures are those of its likeliest words.
    let usual = if matches!(model, Model::Demo(_)) { 0.0 } else { SamplerOptions::default().temperature };
    let sampling = SamplerOptions {
        temperature: s.temp.unwrap_or(usual),
        top_k: s.top_k,
        top_p: s.top_p,
        min_p: s.min_p,
        repeat_penalty: s.repeat_penalty,
        repeat_last_n: s.repeat_last_n,
        seed: s.seed.unwrap_or_else(clock_seed),
    };
    sampling.check().map_err(|error| Usage(error.to_string()))?;
    Ok(Options {
        mmproj: args.mmproj.clone(),
        vision: !args.no_mmproj,
        cache_type,
        memory: if args.force { None } else { free_memory() },
        holding: args.holding.holding(),
        template: args.template.clone(),
        image_place: if args.image_after { ImagePlace::After } else { ImagePlace::Before },
        predict: usize::try_from(args.predict).ok(),
        sampling,
        cancel,
        ..Options::default()
    })
}

/// Positions of the context. Past what a model was trained for it talks nonsense, so nobody gets there unasked and unwarned.
fn context(args: &Args, text: &File) -> anyhow::Result<usize> {
    let trained = LlamaConfig::read(text)?.context;
    let Some(asked) = args.context else { return Ok(Options::default().ctx.min(trained)) };
    if asked > trained {
        terminal::note(&format!(
            "-c {asked}: this model was trained for {trained} positions; what it says beyond them is not to be trusted"
        ));
    }
    Ok(asked)
}

/// A seed that differs from run to run.
fn clock_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_nanos() as u64)
}

/// More threads than this are a typing error: no board or laptop has them.
const MOST_THREADS: usize = 1024;

fn threads(args: &Args) -> anyhow::Result<usize> {
    if args.threads > MOST_THREADS {
        return Err(Usage(format!("-t {}: at most {MOST_THREADS} threads", args.threads)).into());
    }
    Ok(args.threads)
}

fn isa(args: &Args) -> anyhow::Result<Option<Isa>> {
    let Some(name) = &args.isa else { return Ok(None) };
    let here = Isa::available();
    let found = here.iter().copied().find(|isa| isa.name().eq_ignore_ascii_case(name));
    Ok(Some(found.ok_or_else(|| {
        let names: Vec<_> = here.iter().map(|isa| isa.name()).collect();
        Usage(format!("--isa {name}: this machine has {}", names.join(", ")))
    })?))
}

/// Prompts shorter than this are read before a bar would be seen.
const BAR_FROM: usize = 64;

/// A bar on stderr while a long prompt is read; indicatif hides it where stderr is no terminal.
fn show_progress(chat: &mut Chat, cancel: Arc<AtomicBool>) {
    let style = ProgressStyle::with_template("reading {bar:30} {pos}/{len} tokens, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let mut bar: Option<ProgressBar> = None;
    chat.on_progress(move |done, total| {
        if total < BAR_FROM {
            return;
        }
        let bar_now = bar.get_or_insert_with(|| ProgressBar::new(total as u64).with_style(style.clone()));
        bar_now.set_position(done as u64);
        if done == total || cancel.load(Ordering::SeqCst) {
            bar_now.finish_and_clear();
            bar = None;
        }
    });
}

/// The file name of `path` for messages.
pub fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned())
}
