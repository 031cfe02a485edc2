//! `pumice bench`: how fast a model is on this machine, from loading it to the second question about a picture.

mod cold;
mod compare;
mod energy;
mod kernels;
mod limits;
mod list;
mod machine;
mod model;
mod picture;
mod plot;
mod record;
mod roofline;
mod session;
mod setting;
mod stats;
mod synthetic;
mod table;
mod test;
mod text;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::bail;
use clap::{Args as ClapArgs, value_parser};
use pumice_kernels::{DType, Isa, cpu::physical_cores};
use pumice_models::{gguf::Holding, llama::LlamaOptions};

use self::{
    energy::{Found, Meter},
    kernels::Shape,
    list::{Numbers, Words},
    model::Model,
    picture::Talk,
    record::Record,
    session::Session,
    setting::{OnCpu, Setting},
    table::Format,
    test::Test,
    text::Plans,
};
use crate::{
    Usage,
    holding::{self, HoldingArgs},
    interrupt, terminal,
};

/// Arguments of `pumice bench`.
#[derive(ClapArgs)]
#[command(after_help = "\
Rows: load cold (file dropped from the page cache; + 1 token: every weight read), load warm, image (JPEG of 1024x768 to rows),
photo (picture given to first token drawn), second question (on the same picture; and the same one without a picture),
memory (most of it, mapped weights included), pp and tg (as llama-bench's). Lists have commas: -t 1,2,4

Examples:
  pumice bench
  pumice bench -m llava-1.5-7b-q4_k_m.gguf -p 512 -n 128 --depth 0,600
  pumice bench --synthetic llava-1.5-7b:q4_0 -t 1,2 --save runs.jsonl
  pumice bench --compare runs.jsonl other-machine.jsonl --plot runs.svg
  pumice bench --kernels Q4_K,Q6_K --isa avx2")]
pub struct Args {
    /// The model: a GGUF file (Pumice's one file, or the text half of llama.cpp's pair); by default the demo model.
    #[arg(short = 'm', long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// The vision half of llama.cpp's pair.
    #[arg(long, value_name = "FILE", requires = "model")]
    mmproj: Option<PathBuf>,
    /// Random weights of the shape SHAPE (tiny, llava-1.5-7b, llava-1.5-13b, llava-v1-7b, demo, or a GGUF file's) instead of a model.
    #[arg(long, value_name = "SHAPE[:TYPE]", conflicts_with = "model")]
    synthetic: Option<String>,
    /// Keep the random weights: text in FILE, vision in mmproj-FILE beside it, as llama.cpp loads them.
    #[arg(long, value_name = "FILE", requires = "synthetic", conflicts_with = "model")]
    write: Option<PathBuf>,
    /// Positions of a prompt (0: none).
    #[arg(short = 'p', long = "n-prompt", value_name = "LIST", default_value = "512")]
    prompt: Numbers,
    /// Tokens to generate (0: none).
    #[arg(short = 'n', long = "n-gen", value_name = "LIST", default_value = "128")]
    generate: Numbers,
    /// Positions in the cache before prompt and generation.
    #[arg(short = 'd', long = "depth", alias = "n-depth", value_name = "LIST", default_value = "0")]
    depth: Numbers,
    /// Pictures of a question (0: no picture is looked at) [default: 1, where the model sees].
    #[arg(long, value_name = "N", value_parser = value_parser!(u8).range(..=64))]
    image: Option<u8>,
    /// Threads (0: one per physical core).
    #[arg(short = 't', long, value_name = "LIST", default_value = "0")]
    threads: Numbers,
    /// Instruction sets: scalar, avx2, avx2-vnni, avx512-vnni, neon, neon-dotprod, neon-i8mm; by default the best that this machine has.
    #[arg(long, value_name = "LIST")]
    isa: Option<Words>,
    /// Devices: cpu, gpu (the best), gpu:N (`pumice devices` lists them), auto (a GPU if there is one, else the CPU).
    #[arg(long, value_name = "LIST", default_value = "cpu")]
    device: Words,
    /// Layers of the text model on a graphics processor, the rest on the processor; by default as many as fit. llama.cpp's -ngl is
    /// understood too.
    #[arg(long = "n-gpu-layers", alias = "gpu-layers", value_name = "N")]
    gpu_layers: Option<usize>,
    /// Samples of each test.
    #[arg(short = 'r', long, value_name = "N", default_value_t = 5, value_parser = value_parser!(u32).range(1..=10_000))]
    repetitions: u32,
    /// Type of the KV cache: f16, f32 or q8_0. llama.cpp's -ctk is understood too.
    #[arg(long = "cache-type", alias = "cache-type-k", value_name = "TYPE", default_value = "f16")]
    cache_type: String,
    #[command(flatten)]
    holding: HoldingArgs,
    /// Leave the file in the page cache: no cold loads.
    #[arg(long)]
    no_cold: bool,
    /// Show where the time of pictures, prompts and tokens goes, op by op.
    #[arg(long)]
    ops: bool,
    /// Measure even where the estimate of memory says that the model does not fit.
    #[arg(long)]
    force: bool,
    /// How results are printed.
    #[arg(short = 'o', long, value_enum, value_name = "FORMAT", default_value = "table")]
    output: Format,
    /// Append the results to FILE (jsonl).
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Measure nothing; print the runs in these files side by side.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["model", "synthetic", "save"])]
    compare: Vec<PathBuf>,
    /// Draw the results, of this run or of --compare, into FILE (SVG): speed by machine, and the roofline.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Measure no model but matrix products: every weight type, or those in TYPES, by instruction set, at LLaVA's shapes. * marks
    /// the instruction set that is taken by default.
    #[arg(long, value_name = "TYPES", num_args = 0..=1, default_missing_value = "all")]
    #[arg(conflicts_with_all = ["model", "synthetic", "save", "compare", "plot"])]
    kernels: Option<Words>,
    /// Other shapes for --kernels: MxKxN, M weight rows of K columns by N rows.
    #[arg(long, value_name = "LIST", requires = "kernels", hide = true, value_delimiter = ',')]
    shapes: Vec<Shape>,
}

/// More threads than this are a typing error: no board or laptop has them.
const MOST_THREADS: usize = 1024;
/// Positions of a test at most: the longest contexts that models are trained for.
const MOST_POSITIONS: usize = 1 << 20;
/// A processor is in use by others where the last minute's load was more than this share of it.
const BUSY: f64 = 0.5;

/// Runs the subcommand.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    if let Some(path) = &args.plot {
        plot::check(path)?;
    }
    if !args.compare.is_empty() {
        let rows = compare::print(&mut out, &args.compare, args.output)?;
        if let Some(path) = &args.plot {
            plot::write(path, &rows)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let settings = settings(&args)?;
    if let Some(Words(types)) = &args.kernels {
        if settings.iter().any(|setting| setting.gpu.is_some()) {
            return Err(Usage(
                "--kernels measures the processor's instruction sets: leave --device out".into(),
            )
            .into());
        }
        let settings = settings.into_iter().map(|setting| setting.cpu).collect();
        let plan = kernels::Plan { types: kernels::types(types)?, settings, shapes: args.shapes };
        return kernels::run(&mut out, &plan, args.output);
    }
    run_model(&args, settings, &mut out)
}

/// Measures a model, and prints, saves and draws its rows.
fn run_model(args: &Args, mut settings: Vec<Setting>, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let tests = tests(args)?;
    let cache_type = DType::from_name(&args.cache_type)
        .filter(|t| matches!(t, DType::F16 | DType::F32 | DType::Q8_0))
        .ok_or_else(|| Usage(format!("--cache-type {}: f16, f32 or q8_0", args.cache_type)))?;
    warn_of_noise();
    if let Some(path) = &args.save {
        // Better now than when all is measured.
        record::append(path, &[])?;
    }
    let stopped = interrupt::install()?;
    let model = match Model::find(args, &stopped) {
        Err(error) if matches!(error.downcast_ref(), Some(pumice_quantize::Error::Cancelled)) => {
            terminal::note("stopped; nothing was measured");
            return Ok(ExitCode::from(interrupt::EXIT));
        }
        found => found?,
    };
    let images = images(args, &model)?;
    let holding = args.holding;
    let talk = Talk { images, cache_type, holding, ops: args.ops, force: args.force };
    let plans = Plans { tests, cache_type, holding, ops: args.ops, force: args.force };
    if settings.iter().any(|setting| setting.gpu.is_none()) {
        plans.check(&model)?;
    }
    // The longer context of the two needs the more memory.
    let ctx = plans.options().map_or(0, |o| o.ctx).max(talk.context(&model));
    let options = LlamaOptions { ctx, cache_type, ..LlamaOptions::default() };
    setting::place(&mut settings, args, &model, &options)?;
    let mut session = Session::new(settings.clone(), args.repetitions as usize, stopped, meter());
    let each = session.settings.len() * session.repeats;
    session.expect(each * (plans.tests.len() + talk.tests()));
    measure(&mut session, &model, talk, &plans, !args.no_cold)?;
    let was_stopped = session.is_stopped();
    let mut rows = session.finish(&common(&model, cache_type, args.holding.holding()));
    let limits = if was_stopped { Vec::new() } else { limits::measure(&settings)? };
    roofline::fill(&mut rows, &model, cache_type, &limits)?;
    if let Some(path) = &args.save {
        record::append(path, &rows)?;
    }
    table::print(out, &rows, args.output)?;
    limits::print(out, &limits, args.output)?;
    out.flush()?;
    if let Some(path) = &args.plot {
        plot::write(path, &rows)?;
    }
    if was_stopped {
        terminal::note("stopped; these are the samples that were whole by then");
        return Ok(ExitCode::from(interrupt::EXIT));
    }
    Ok(ExitCode::SUCCESS)
}

/// Pictures of the first question: as asked, else one where the model sees.
fn images(args: &Args, model: &Model) -> anyhow::Result<usize> {
    match (args.image, model.image_tokens) {
        (Some(1..), None) => bail!(
            "{}: has no vision part, so no picture can be measured; give --mmproj FILE, or leave out --image",
            model.text.display()
        ),
        (None, None) => {
            terminal::note("the model has no vision part: no rows of image, photo and second question");
            Ok(0)
        }
        (asked, _) => Ok(asked.map_or(1, usize::from)),
    }
}

/// All tests, in an order that keeps them from each other: first what wants an empty cache, last what wants a warm one.
fn measure(
    session: &mut Session,
    model: &Model,
    talk: Talk,
    plans: &Plans,
    cold: bool,
) -> anyhow::Result<()> {
    if cold {
        session.expect(2 * session.repeats);
        cold::measure(session, model, talk)?;
    }
    if !session.is_stopped() {
        picture::measure(session, model, talk)?;
    }
    if !session.is_stopped() {
        text::measure(session, model, plans)?;
    }
    Ok(())
}

/// What all rows of this run have in common.
fn common(model: &Model, cache_type: DType, holding: Holding) -> Record {
    Record {
        run_id: format!("{}-{}", machine::now(), std::process::id()),
        build_commit: machine::COMMIT.into(),
        build_version: env!("CARGO_PKG_VERSION").into(),
        cpu_info: machine::name(),
        os: machine::system(),
        memory_size: machine::memory(),
        no_mmap: holding.copy,
        mlock: holding.lock && !holding::was_refused(),
        type_k: cache_type.name().to_ascii_lowercase(),
        n_batch: LlamaOptions::default().batch,
        ..model.row.clone()
    }
}

/// Every device with every instruction set and every number of threads.
fn settings(args: &Args) -> anyhow::Result<Vec<Setting>> {
    let devices = setting::devices(&args.device.0)?;
    let cpus = cpus(args)?;
    let each = |gpu: &Option<setting::OnGpu>| -> Vec<Setting> {
        cpus.iter().map(|&cpu| Setting { cpu, gpu: gpu.clone() }).collect()
    };
    Ok(devices.iter().flat_map(each).collect())
}

/// Every instruction set with every number of threads.
fn cpus(args: &Args) -> anyhow::Result<Vec<OnCpu>> {
    let isas = match &args.isa {
        // Products are compared over all of them.
        None if args.kernels.is_some() => Isa::available(),
        None => vec![Isa::best()],
        Some(Words(names)) => names.iter().map(|name| isa(name)).collect::<Result<_, _>>()?,
    };
    let mut cpus = Vec::new();
    for &isa in &isas {
        for &threads in &args.threads.0 {
            if threads > MOST_THREADS {
                return Err(Usage(format!("-t {threads}: at most {MOST_THREADS} threads")).into());
            }
            let threads = if threads == 0 { physical_cores() } else { threads };
            let cpu = OnCpu { isa, threads };
            if !cpus.contains(&cpu) {
                cpus.push(cpu);
            }
        }
    }
    Ok(cpus)
}

/// The instruction set `name`, which this machine must have.
fn isa(name: &str) -> Result<Isa, Usage> {
    let here = Isa::available();
    here.iter().copied().find(|isa| isa.name() == name).ok_or_else(|| {
        let names: Vec<_> = here.iter().map(|isa| isa.name()).collect();
        Usage(format!("--isa {name}: this machine has {}", names.join(", ")))
    })
}

/// Prompts and generations at every depth.
fn tests(args: &Args) -> Result<Vec<Test>, Usage> {
    let mut tests = Vec::new();
    for &depth in &args.depth.0 {
        let prompts = args.prompt.0.iter().map(|&n| (n, Test::Prompt { n, depth }));
        let generations = args.generate.0.iter().map(|&n| (n, Test::Generation { n, depth }));
        for (n, test) in prompts.chain(generations).filter(|(n, _)| *n > 0) {
            if n > MOST_POSITIONS || depth > MOST_POSITIONS {
                return Err(Usage(format!("{test}: at most {MOST_POSITIONS} positions")));
            }
            tests.push(test);
        }
    }
    Ok(tests)
}

/// The machine's meter of energy, and a note where there is one that may not be read.
fn meter() -> Option<Meter> {
    match Meter::find() {
        Found::Meter(meter) => {
            terminal::note(&format!("energy by {}, idle draw included", meter.name()));
            Some(meter)
        }
        Found::Forbidden(file) => {
            terminal::note(&format!(
                "no energy: {} is for root; sudo chmod a+r on it, or run as root",
                file.display()
            ));
            None
        }
        Found::Nothing => None,
    }
}

/// Says what makes figures worthless.
fn warn_of_noise() {
    if cfg!(debug_assertions) {
        terminal::note("this is a debug build: its figures mean nothing; build with --release");
    }
    let cores = std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64);
    if let Some(load) = machine::load().filter(|load| *load > BUSY * cores) {
        terminal::note(&format!(
            "other programs use the processor (load {load:.1} on {cores:.0}): figures will be low and vary"
        ));
    }
}
