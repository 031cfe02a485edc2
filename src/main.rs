//! `pumice`: LLaVA made light. One file per subcommand; this one reads the command line and turns an outcome into an exit code.
//!
//! Exit codes: 0 done, 1 an error (its message is on stderr), 2 a wrong command line, 130 stopped by Ctrl-C.

#![forbid(unsafe_code)]

mod bench;
mod chat;
mod device;
mod devices;
mod holding;
mod inspect;
mod interrupt;
mod parts;
mod perplexity;
mod quantize;
mod terminal;
mod verify;

use std::{ffi::OsString, io, process::ExitCode};

use clap::{Parser, Subcommand};

/// LLaVA made light: quantize a checkpoint to 4 bits, then chat about pictures offline.
#[derive(Parser)]
#[command(version, about, max_term_width = 110)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Ask a model about pictures: one question with -p, else a conversation.
    Chat(chat::Args),
    /// List what can compute: GPUs with their limits, and the CPU.
    Devices(devices::Args),
    /// Turn a checkpoint (Hugging Face folder, the authors' folder, LoRA, GGUF) into one GGUF file.
    Quantize(quantize::Args),
    /// Show what a GGUF file holds and what memory it needs.
    Inspect(inspect::Args),
    /// Measure a model on this machine: load, picture, prompt, generation, memory, energy; or compare runs.
    Bench(bench::Args),
    /// Compare a GGUF file with the checkpoint that it was made of: image features, logits, tokens.
    Verify(verify::Args),
    /// Measure how well a model foresees a text or the answers about pictures, and how far it is from a better file.
    Perplexity(perplexity::Args),
}

/// llama.cpp's options of several letters behind one dash, and what clap knows them as.
const ONE_DASH: [(&str, &str); 3] =
    [("-ctk", "--cache-type"), ("-mm", "--mmproj"), ("-ngl", "--n-gpu-layers")];

/// The command line with llama.cpp's one-dash options spelled out.
fn spelled_out(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    args.map(|arg| {
        ONE_DASH.iter().find(|(short, _)| arg == *short).map_or(arg, |(_, long)| OsString::from(long))
    })
    .collect()
}

fn main() -> ExitCode {
    let args = Args::parse_from(spelled_out(std::env::args_os()));
    let outcome = match args.command {
        Command::Chat(args) => chat::run(args),
        Command::Devices(args) => devices::run(&args),
        Command::Quantize(args) => quantize::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Perplexity(args) => perplexity::run(args),
    };
    match outcome {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::error(&error);
            if error.is::<Usage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

/// A value on the command line that cannot be, which clap does not know of.
#[derive(Debug)]
struct Usage(String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Whether the reader of our output went away (`pumice chat … | head -1`), which is no error of ours.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
