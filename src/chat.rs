//! `pumice chat`: opens a model, then asks once (`-p`) or holds a conversation.

pub mod demo;
mod interactive;
mod open;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

use clap::Args as ClapArgs;
pub use demo::Demo;
use open::Model;
use pumice_runtime::{
    chat::{Chat, Finish, Stats},
    prompt::Format,
};

use crate::{
    device::{self, DeviceArgs, Grain},
    holding::HoldingArgs,
    interrupt, terminal,
};

/// Arguments of `pumice chat`.
#[derive(ClapArgs)]
#[command(after_help = "\
Without -m the demo model answers, about one of its own pictures where --image names none:
a small LLaVA that knows pictures of 1-6 pictograms and nothing else (models/demo/README.md).

Examples:
  pumice chat
  pumice chat -m llava-1.5-7b-q4_k_m.gguf --image cat.jpg -p \"What is the cat doing?\"
  pumice chat -m vicuna-7b-q4_k_m.gguf --mmproj mmproj-f16.gguf
  pumice chat --synthetic tiny --image tests/data/shapes.png -p \"What is this?\"")]
pub struct Args {
    /// The model: a GGUF file (Pumice's one file, or the text half of llama.cpp's pair); by default the demo model.
    #[arg(short = 'm', long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// The vision half of llama.cpp's pair.
    #[arg(long, value_name = "FILE", requires = "model", conflicts_with_all = ["synthetic", "no_mmproj"])]
    mmproj: Option<PathBuf>,
    /// Leave the vision part out: text only, less memory.
    #[arg(long)]
    no_mmproj: bool,
    /// Random weights of the shape SHAPE (tiny, llava-1.5-7b, …) instead of a model: its words mean nothing.
    #[arg(long, value_name = "SHAPE[:TYPE]", conflicts_with = "model")]
    synthetic: Option<String>,
    /// A picture to ask about; may be given several times.
    #[arg(long, value_name = "PATH")]
    image: Vec<PathBuf>,
    /// The question: answer it and end. Without it, a conversation.
    #[arg(short = 'p', long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Tokens of an answer at most (-1: until the context is full).
    #[arg(
        short = 'n',
        long = "predict",
        value_name = "N",
        default_value_t = 512,
        allow_hyphen_values = true
    )]
    predict: i64,
    /// Tokens that prompt, pictures and answers may take together (0: as many as the model was trained for) [default: 2048, or
    /// what the model was trained for where that is less].
    #[arg(short = 'c', long = "ctx-size", value_name = "N")]
    context: Option<usize>,
    /// Type of the KV cache: f16, f32 or q8_0 (half of f16's memory). llama.cpp's -ctk is understood too.
    #[arg(long = "cache-type", alias = "cache-type-k", value_name = "TYPE", default_value = "f16")]
    cache_type: String,
    #[command(flatten)]
    device: DeviceArgs,
    /// Compute all on the CPU as well, tell where a GPU differs by more than rounding, and fail then: after every op (ops), or only
    /// where the model reads, so that the GPU may fuse ops (passes). The answer is the CPU's, by its scalar code where --isa names no other.
    #[arg(long, value_name = "GRAIN", num_args = 0..=1, require_equals = true, default_missing_value = "ops")]
    check: Option<Grain>,
    /// Threads (0: one per physical core).
    #[arg(short = 't', long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Instruction set: scalar, avx2, avx2-vnni, avx512-vnni, neon, neon-dotprod or neon-i8mm; by default the best that this machine has.
    #[arg(long, value_name = "NAME")]
    isa: Option<String>,
    #[arg(long, value_name = "NAME", help = template_help())]
    template: Option<String>,
    /// Put pictures after the question instead of before it.
    #[arg(long)]
    image_after: bool,
    #[command(flatten)]
    sampling: Sampling,
    #[command(flatten)]
    holding: HoldingArgs,
    /// Open the model even where the estimate of memory says that it does not fit.
    #[arg(long)]
    force: bool,
    /// One JSON object on stdout instead of text (with -p).
    #[arg(long, requires = "prompt")]
    json: bool,
}

/// How the next token is drawn.
#[derive(ClapArgs)]
struct Sampling {
    /// Temperature; 0 takes the likeliest token always [default: 0.2, the demo model 0].
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temp: Option<f32>,
    /// Draw among the K likeliest tokens (0: all).
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Draw among the likeliest tokens that make up P of the probability.
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f32,
    /// Leave out tokens less than P times as likely as the likeliest.
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    min_p: f32,
    /// Divide the odds of tokens seen lately by R (1: do not).
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    repeat_penalty: f32,
    /// How many tokens back --repeat-penalty looks.
    #[arg(long, value_name = "N", default_value_t = 64)]
    repeat_last_n: usize,
    /// Seed of the draw; by default a new one each time.
    #[arg(short = 's', long, value_name = "N")]
    seed: Option<u64>,
}

/// What `--help` says of `--template`, with the names that the runtime knows.
fn template_help() -> String {
    let names: Vec<_> = Format::names().collect();
    format!("How the prompt is written: {}; by default as the file says", names.join(", "))
}

/// Runs the subcommand.
pub fn run(mut args: Args) -> anyhow::Result<ExitCode> {
    let stopped = interrupt::install()?;
    let model = match (args.model.take(), args.synthetic.take()) {
        (Some(path), _) => Model::File(path),
        (None, Some(shape)) => Model::Synthetic(shape),
        (None, None) => Model::Demo(Demo::find()?),
    };
    let (mut chat, reports) = open::open(&args, &model, stopped.clone())?;
    let demo = match &model {
        Model::Demo(demo) => Some(demo),
        _ => None,
    };
    if let Some(demo) = demo {
        terminal::note(demo.introduction());
    }
    // Without its eyes it is shown nothing.
    let demo = demo.filter(|_| !args.no_mmproj);
    let code = match args.prompt.take() {
        Some(prompt) => {
            if let Some(first) = demo.and_then(|demo| demo.pictures.first()).filter(|_| args.image.is_empty())
            {
                terminal::note(&format!("picture: {} (--image PATH takes another)", first.display()));
                args.image.push(first.clone());
            }
            ask_once(&args, &mut chat, &prompt, &stopped)?
        }
        None => interactive::run(&args, &mut chat, demo, &stopped)?,
    };
    Ok(device::tell(&reports).unwrap_or(code))
}

/// One question, one answer.
fn ask_once(args: &Args, chat: &mut Chat, prompt: &str, stopped: &AtomicBool) -> anyhow::Result<ExitCode> {
    let pictures = args.image.iter().map(|path| chat.see(path)).collect::<Result<Vec<_>, _>>()?;
    if pictures.is_empty() && chat.can_see() {
        terminal::note("no picture is shown; --image PATH shows one");
    }
    let mut out = io::stdout().lock();
    let mut text = String::new();
    let mut answer = chat.ask(prompt, &pictures)?;
    for piece in &mut answer {
        let piece = piece?;
        if args.json {
            text.push_str(&piece);
        } else {
            out.write_all(piece.as_bytes())?;
            out.flush()?;
        }
    }
    let finish = answer.finish();
    drop(answer);
    if args.json {
        let object = serde_json::json!({
            "answer": text.trim_start(),
            "finish": finish.map(finish_name),
            "device": chat.device(),
            "stats": stats_json(chat.stats()),
        });
        writeln!(out, "{object}")?;
    } else {
        writeln!(out)?;
    }
    drop(out);
    say_finish(finish);
    terminal::note(&stats_line(chat.stats()));
    let code = if stopped.load(Ordering::SeqCst) { interrupt::EXIT } else { 0 };
    Ok(ExitCode::from(code))
}

/// Says on stderr why an answer ended, where that was not of its own.
fn say_finish(finish: Option<Finish>) {
    match finish {
        Some(Finish::Length) => terminal::note("(stopped: as many tokens as -n allows)"),
        Some(Finish::ContextFull) => {
            terminal::note("(stopped: the context is full; /clear begins anew, -c N makes room for more)");
        }
        Some(Finish::Cancelled) => terminal::note("(stopped)"),
        Some(Finish::Stop) | None => {}
    }
}

/// What JSON calls the ways an answer ends.
fn finish_name(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
        Finish::ContextFull => "context",
        Finish::Cancelled => "cancelled",
    }
}

/// `load 0.02 s | 1 picture (576 tokens) 1.21 s | prompt 48 tokens 0.9 s, 53.1 t/s | …`
fn stats_line(s: &Stats) -> String {
    let mut parts = vec![format!("load {}", terminal::seconds(s.load.as_secs_f64()))];
    if s.pictures > 0 {
        parts.push(format!(
            "image {} ({} tokens)",
            terminal::seconds(s.picture.as_secs_f64()),
            s.picture_tokens
        ));
    }
    let reused = if s.reused_tokens > 0 { format!(" + {} kept", s.reused_tokens) } else { String::new() };
    parts.push(format!(
        "prompt {}{reused} tokens in {}, {:.1} t/s",
        s.prompt_tokens,
        terminal::seconds(s.prompt.as_secs_f64()),
        s.prompt_rate()
    ));
    parts.push(format!(
        "answer {} tokens in {}, {:.1} t/s",
        s.generated_tokens,
        terminal::seconds(s.generation.as_secs_f64()),
        s.generation_rate()
    ));
    parts.join(" | ")
}

/// The same for programs: seconds, counts, tokens per second.
fn stats_json(s: &Stats) -> serde_json::Value {
    serde_json::json!({
        "memory_bytes": s.memory,
        "load_s": s.load.as_secs_f64(),
        "images": s.pictures,
        "image_tokens": s.picture_tokens,
        "image_s": s.picture.as_secs_f64(),
        "prompt_tokens": s.prompt_tokens,
        "reused_tokens": s.reused_tokens,
        "prompt_s": s.prompt.as_secs_f64(),
        "prompt_tokens_per_s": s.prompt_rate(),
        "generated_tokens": s.generated_tokens,
        "generation_s": s.generation.as_secs_f64(),
        "generated_tokens_per_s": s.generation_rate(),
    })
}
