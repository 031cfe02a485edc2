//! `pumice perplexity`: how well a model foresees a text or the answers of conversations, and how far it is from a better file.

mod show;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use anyhow::{Context, bail};
use clap::{Args as ClapArgs, builder::RangedU64ValueParser};
use pumice_kernels::{
    DType,
    cpu::{Cpu, CpuOptions, Isa},
};
use pumice_models::{
    config::{LlamaConfig, has_vision},
    gguf::File,
    plan::free_memory,
};
use pumice_runtime::{
    Format,
    perplexity::{Options, Passage, Subject, conversation, measure, read_rows, windows},
};

use crate::{Usage, chat::demo::Demo, holding::HoldingArgs, interrupt, terminal};
use show::{Outcome, Running};

/// Tokens of a window where -c does not say: `llama-perplexity`'s.
const WINDOW: usize = 512;
/// Rows of a conversation at most where -c does not say: LLaVA's `model_max_length`.
const CONVERSATION: usize = 2048;

/// Arguments of `pumice perplexity`.
#[derive(ClapArgs)]
#[command(after_help = "\
A text is cut into windows as llama-perplexity cuts it, so that figures compare. With --images, FILE holds LLaVA's
conversations (JSON or JSONL) and the tokens of the answers are scored. Without -m the demo model is measured.

Examples:
  pumice perplexity -m llava-1.5-7b-q4_k_m.gguf -f wiki.test.raw
  pumice perplexity -m llava-1.5-7b-q4_k_m.gguf -f wiki.test.raw --kl-divergence llava-1.5-7b-f16.gguf
  pumice perplexity -m llava-1.5-7b-q4_k_m.gguf -f llava_instruct_150k.json --images coco/train2017 --chunks 200
  pumice perplexity -m model.gguf -f text.txt --kl-divergence model.gguf --reference-isa scalar")]
pub struct Args {
    /// The model: a GGUF file; by default the demo model.
    #[arg(short = 'm', long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Its vision half, where it is one of llama.cpp's pair.
    #[arg(long, value_name = "FILE", requires = "model")]
    mmproj: Option<PathBuf>,
    /// The text (UTF-8), or with --images the conversations.
    #[arg(short = 'f', long, value_name = "FILE")]
    file: PathBuf,
    /// The folder of the conversations' pictures.
    #[arg(long, value_name = "FOLDER")]
    images: Option<PathBuf>,
    /// Compare with this file, one of higher precision: KL divergence, the same likeliest token, Δp.
    #[arg(long, value_name = "REFERENCE", id = "REFERENCE")]
    kl_divergence: Option<PathBuf>,
    /// The reference's vision half; by default in the reference, else the model's.
    #[arg(long, value_name = "FILE", requires = "REFERENCE")]
    reference_mmproj: Option<PathBuf>,
    /// Tokens of a window [default: 512]; with --images, where conversations are cut [default: 2048].
    #[arg(short = 'c', long = "ctx-size", value_name = "N")]
    context: Option<usize>,
    /// Windows or conversations to measure, from the first on (-1: all).
    #[arg(long, value_name = "N", default_value_t = -1, allow_hyphen_values = true, value_parser = clap::value_parser!(i64).range(-1..))]
    chunks: i64,
    /// Threads (0: one per physical core).
    #[arg(short = 't', long, value_name = "N", default_value_t = 0, value_parser = RangedU64ValueParser::<usize>::new().range(..=1024))]
    threads: usize,
    /// Instruction set: scalar, avx2, avx2-vnni, avx512-vnni, neon, neon-dotprod or neon-i8mm; by default the best that this machine has.
    #[arg(long, value_name = "NAME")]
    isa: Option<String>,
    /// The reference's instruction set; by default the model's.
    #[arg(long, value_name = "NAME", requires = "REFERENCE")]
    reference_isa: Option<String>,
    /// Type of the KV cache: f16, f32 or q8_0.
    #[arg(long = "cache-type", alias = "cache-type-k", value_name = "TYPE", default_value = "f16")]
    cache_type: String,
    /// The reference's; by default the model's.
    #[arg(long, value_name = "TYPE", requires = "REFERENCE")]
    reference_cache_type: Option<String>,
    /// How conversations are written; by default as the file says.
    #[arg(long, value_name = "NAME", requires = "images")]
    template: Option<String>,
    #[command(flatten)]
    holding: HoldingArgs,
    /// Measure even where the estimate of memory says that it does not fit.
    #[arg(long)]
    force: bool,
    /// One JSON object on stdout instead of a table.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let stopped = interrupt::install()?;
    let model = match &args.model {
        Some(path) => path.clone(),
        None => Demo::find()?.model,
    };
    if args.model.is_none() {
        terminal::note(&format!("the demo model: {} (-m FILE takes another)", model.display()));
    }
    // Asked before weights are read into memory, which then is no longer free.
    let memory = if args.force { None } else { free_memory() };
    let all =
        [Some(&model), args.kl_divergence.as_ref(), args.mmproj.as_ref(), args.reference_mmproj.as_ref()];
    args.holding.check(all.into_iter().flatten(), memory)?;
    let text = args.holding.open(&model)?;
    let ctx = context(&args, &text)?;
    let mmproj = args.mmproj.as_deref().map(|path| args.holding.open(path)).transpose()?;
    let vision = sight(&args, &text, mmproj.as_ref())?;
    let first = Machine {
        isa: named_isa("--isa", args.isa.as_deref())?,
        cache_type: cache_type("--cache-type", &args.cache_type)?,
        memory,
    };
    let mut subject = open(&args, &text, vision, ctx, &first)?;
    let mut reference = match &args.kl_divergence {
        Some(path) => Some(reference(&args, path, vision, ctx, first, &subject)?),
        None => None,
    };
    let passages = match &args.images {
        None => text_windows(&args, &subject, ctx)?,
        Some(folder) => conversations(&args, folder, &text, vision, &subject, ctx)?,
    };
    report(&args, &model, &mut subject, reference.as_mut(), &passages, ctx, &stopped)
}

/// What a model runs on.
#[derive(Clone, Copy)]
struct Machine {
    /// Instructions; `None`: the best there are.
    isa: Option<Isa>,
    cache_type: DType,
    /// Bytes that it may take; `None`: no limit.
    memory: Option<u64>,
}

fn open(
    args: &Args,
    text: &File,
    vision: Option<&File>,
    ctx: usize,
    machine: &Machine,
) -> anyhow::Result<Subject> {
    let cpu = Cpu::new(CpuOptions { threads: args.threads, isa: machine.isa });
    let options = Options { ctx, cache_type: machine.cache_type, memory: machine.memory };
    Ok(Subject::open(text, vision, Box::new(cpu), &options)?)
}

/// The reference in `path`, which takes what is not said of it from the model: its machine, `first`, and its eyes.
fn reference(
    args: &Args,
    path: &Path,
    eyes: Option<&File>,
    ctx: usize,
    first: Machine,
    subject: &Subject,
) -> anyhow::Result<Subject> {
    let file = args.holding.open(path)?;
    let mmproj = args.reference_mmproj.as_deref().map(|path| args.holding.open(path)).transpose()?;
    let vision = sight(args, &file, mmproj.as_ref())?.or(eyes);
    let mut machine = first;
    if let Some(name) = &args.reference_isa {
        machine.isa = named_isa("--reference-isa", Some(name))?;
    }
    if let Some(name) = &args.reference_cache_type {
        machine.cache_type = cache_type("--reference-cache-type", name)?;
    }
    machine.memory = first.memory.map(|free| free.saturating_sub(subject.memory()));
    let reference = open(args, &file, vision, ctx, &machine)
        .with_context(|| format!("the reference {} beside the model", path.display()))?;
    subject.check_comparable(&reference)?;
    Ok(reference)
}

/// Measures, tells how far it is, and shows the outcome.
fn report(
    args: &Args,
    model: &Path,
    subject: &mut Subject,
    reference: Option<&mut Subject>,
    passages: &[Passage],
    ctx: usize,
    stopped: &AtomicBool,
) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let what = if args.images.is_some() { "conversations" } else { "windows" };
    let mut running = Running::new(what, passages.len());
    let measured = measure(subject, reference, passages, &mut |progress| {
        running.show(progress);
        !stopped.load(Ordering::SeqCst)
    })?;
    running.finish();
    let outcome = Outcome {
        model,
        reference: args.kl_divergence.as_deref(),
        file: &args.file,
        what,
        ctx,
        measured: measured.passages,
        of: passages.len(),
        seconds: start.elapsed().as_secs_f64(),
    };
    outcome.show(&measured.positions, args.json)?;
    let done = measured.passages == passages.len();
    Ok(ExitCode::from(if done { 0 } else { interrupt::EXIT }))
}

/// Rows of the longest passage; warns where the model has never seen as many.
fn context(args: &Args, text: &File) -> anyhow::Result<usize> {
    let trained = LlamaConfig::read(text)?.context;
    let usual = if args.images.is_some() { CONVERSATION.min(trained) } else { WINDOW };
    let ctx = args.context.unwrap_or(usual);
    if ctx == 0 {
        return Err(Usage("-c 0: at least 3 tokens, usual are 512".into()).into());
    }
    if ctx > trained {
        terminal::note(&format!(
            "warning: the model was trained on {trained} tokens at once, -c asks for {ctx}: expect worse figures"
        ));
    }
    Ok(ctx)
}

/// The file that holds the eyes of `text`, where pictures are to be seen.
fn sight<'a>(args: &Args, text: &'a File, mmproj: Option<&'a File>) -> anyhow::Result<Option<&'a File>> {
    Ok(match (args.images.is_some(), mmproj) {
        (false, _) => None,
        (true, Some(file)) => Some(file),
        (true, None) => has_vision(text)?.then_some(text),
    })
}

fn named_isa(flag: &str, isa: Option<&str>) -> anyhow::Result<Option<Isa>> {
    let Some(name) = isa else { return Ok(None) };
    let here = Isa::available();
    let found = here.iter().copied().find(|isa| isa.name().eq_ignore_ascii_case(name));
    Ok(Some(found.ok_or_else(|| {
        let names: Vec<_> = here.iter().map(|isa| isa.name()).collect();
        Usage(format!("{flag} {name}: this machine has {}", names.join(", ")))
    })?))
}

fn cache_type(flag: &str, name: &str) -> anyhow::Result<DType> {
    DType::from_name(name)
        .filter(|t| matches!(t, DType::F16 | DType::F32 | DType::Q8_0))
        .ok_or_else(|| Usage(format!("{flag} {name}: f16, f32 or q8_0")).into())
}

/// --chunks as a number of passages.
fn most(args: &Args) -> usize {
    usize::try_from(args.chunks).unwrap_or(usize::MAX)
}

fn text_windows(args: &Args, subject: &Subject, ctx: usize) -> anyhow::Result<Vec<Passage>> {
    let name = args.file.display();
    let bytes = fs::read(&args.file).with_context(|| format!("{name}: cannot read the text"))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        anyhow::anyhow!(
            "{name}: no UTF-8 text: byte {at} belongs to no character; convert it (iconv -t UTF-8)"
        )
    })?;
    if text.trim_start().starts_with(['[', '{']) && text.contains("\"conversations\"") {
        terminal::note("this looks like LLaVA's conversations: --images FOLDER reads them as such");
    }
    let mut passages = windows(subject.vocabulary(), &text, ctx)
        .with_context(|| format!("{name}: cannot be cut into windows"))?;
    passages.truncate(most(args));
    if passages.is_empty() {
        return Err(Usage("--chunks 0: nothing to measure".into()).into());
    }
    Ok(passages)
}

fn conversations(
    args: &Args,
    folder: &Path,
    text: &File,
    vision: Option<&File>,
    subject: &Subject,
    ctx: usize,
) -> anyhow::Result<Vec<Passage>> {
    if most(args) == 0 {
        return Err(Usage("--chunks 0: nothing to measure".into()).into());
    }
    let format = match &args.template {
        Some(name) => Format::named(name)?,
        None => Format::from_gguf(text, vision)?,
    };
    let rows = read_rows(&args.file, folder, most(args))?;
    let image_tokens = subject.image_tokens();
    let (mut passages, mut cut) = (Vec::new(), 0);
    for row in &rows {
        let passage = conversation(&format, subject.vocabulary(), row)?;
        let whole = passage.rows(image_tokens) <= ctx;
        if let Some(passage) = passage.cut(ctx, image_tokens) {
            cut += usize::from(!whole);
            passages.push(passage);
        }
    }
    let left_out = rows.len() - passages.len();
    if passages.is_empty() {
        bail!(
            "{}: none of {} conversations has an answer within {ctx} tokens (a picture takes {image_tokens}); make the context larger (-c N)",
            args.file.display(),
            rows.len()
        );
    }
    if cut + left_out > 0 {
        terminal::note(&format!(
            "{cut} conversations are cut at {ctx} tokens, {left_out} are left out, as no answer begins before that (-c N changes it)"
        ));
    }
    Ok(passages)
}
