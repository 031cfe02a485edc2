//! `pumice-train eval`: the table of what a model sees; of several models side by side.

mod table;

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use clap::Args as ClapArgs;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pumice_quantize::FileType;
use pumice_train::{
    Error,
    eval::{Exam, Model, Opening, SEED, Table},
    world,
};

use super::terminal;

#[derive(ClapArgs)]
#[command(after_help = "\
Several models (or --type with several types) stand side by side, with differences in points from the first.

Examples:
  pumice-train eval stage2
  pumice-train eval stage2 --type f32,q8_0,q4_k_m
  pumice-train eval demo-f32.gguf demo-q8_0.gguf demo-q4_k_m.gguf --scenes 2000
  pumice-train eval demo-q4_k_m.gguf --scenes 200 --wrong 5")]
pub struct Args {
    /// Checkpoint folder (llava-hf's or the authors' layout), or GGUF file.
    #[arg(value_name = "MODEL", required = true)]
    models: Vec<PathBuf>,
    /// Convert to this type first, several separated by commas: f32 f16 q8_0 q4_k_m … By default a folder is judged in f32, a GGUF as it is.
    #[arg(long = "type", value_name = "TYPES", value_delimiter = ',')]
    types: Vec<String>,
    /// The vision half of a GGUF pair.
    #[arg(long, value_name = "FILE")]
    mmproj: Option<PathBuf>,
    /// Folder of the vision tower, where a checkpoint does not hold it.
    #[arg(long, value_name = "DIR")]
    vision_tower: Option<PathBuf>,
    /// A projector's file or folder, where MODEL is a text model's folder (what stage 1 leaves).
    #[arg(long, value_name = "PATH")]
    projector: Option<PathBuf>,
    /// Conversation template, where the model names none or a wrong one.
    #[arg(long, value_name = "NAME")]
    template: Option<String>,
    /// Scenes.
    #[arg(long, value_name = "N", default_value_t = Exam::default().scenes, value_parser = clap::value_parser!(u64).range(1..))]
    scenes: u64,
    /// Decides scenes and questions.
    #[arg(long, value_name = "N", default_value_t = SEED)]
    seed: u64,
    /// Mixed questions on each scene in one conversation, in place of one question of each sort in a conversation of its own.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    turns: Option<u64>,
    /// Tokens of an answer at most.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 96, value_parser = clap::value_parser!(u64).range(1..))]
    predict: u64,
    /// Threads (0: one per processor). Small models answer on as many scenes at once.
    #[arg(short = 't', long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// The colour font whose pictograms are drawn; by default the system's Noto Color Emoji.
    #[arg(long, value_name = "FILE")]
    font: Option<PathBuf>,
    /// Show the first N wrong answers of each sort.
    #[arg(long, value_name = "N", default_value_t = 0)]
    wrong: usize,
    /// One JSON object on stdout instead of a table.
    #[arg(long)]
    json: bool,
}

/// A model's outcome.
struct Judged {
    name: String,
    bytes: u64,
    /// Of asking and answering, without opening.
    seconds: f64,
    table: Table,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.mmproj.is_some() && args.models.len() > 1 {
        return Err(Error::Config("--mmproj goes with one model; judge the pairs one by one".into()).into());
    }
    let types = types(&args.types)?;
    let exam = Exam { scenes: args.scenes, seed: args.seed, turns: args.turns.map(|n| n as usize) };
    let mut judged = Vec::new();
    for path in &args.models {
        for file_type in &types {
            judged.push(judge(path, *file_type, &args, &exam)?);
        }
    }
    if args.json {
        table::json(&exam, &judged)?;
    } else {
        table::text(&exam, &judged)?;
        for one in judged.iter().filter(|_| args.wrong > 0) {
            table::wrong(one, args.wrong)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The types asked for; one "as it is" where there are none.
fn types(names: &[String]) -> anyhow::Result<Vec<Option<FileType>>> {
    if names.is_empty() {
        return Ok(vec![None]);
    }
    let known =
        |name: &String| FileType::ALL.into_iter().find(|t| t.name().eq_ignore_ascii_case(name.trim()));
    names
        .iter()
        .map(|name| match known(name) {
            Some(file_type) => Ok(Some(file_type)),
            None => {
                let all = FileType::ALL.map(FileType::name).join(" ");
                Err(Error::Config(format!("--type {name:?}: is no type; types are {all}")).into())
            }
        })
        .collect()
}

/// Models larger than this are bound by memory's speed: one answerer with all threads, not one for each.
const SMALL: u64 = 256 << 20;

fn judge(path: &Path, file_type: Option<FileType>, args: &Args, exam: &Exam) -> anyhow::Result<Judged> {
    if !path.exists() {
        return Err(Error::Config(format!("{}: no such file or folder", path.display())).into());
    }
    let opening = Opening {
        mmproj: args.mmproj.clone(),
        vision_tower: args.vision_tower.clone(),
        projector: args.projector.clone(),
        file_type,
        template: args.template.clone(),
        predict: args.predict as usize,
    };
    let model = Model::open(path, &opening)?;
    for text in &model.notes {
        terminal::note(&format!("{}: {text}", model.name));
    }
    let painter = world::painter(args.font.as_deref(), model.side())?;
    let threads = match args.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let (workers, each) = if model.bytes < SMALL { (threads, 1) } else { (1, threads) };
    let bar = bar(exam.scenes, &model.name);
    let start = Instant::now();
    let student = || {
        let mut student = model.student(&painter, each, exam)?;
        Ok(move |scene: &world::Scene, questions: &[world::Question]| student.answer(scene, questions))
    };
    let table = exam.sit(workers, student, &|done| bar.set_position(done))?;
    let seconds = start.elapsed().as_secs_f64();
    bar.finish_and_clear();
    Ok(Judged { name: model.name, bytes: model.bytes, seconds, table })
}

fn bar(scenes: u64, name: &str) -> ProgressBar {
    let to = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} scenes {per_sec}, {eta} left  {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(Some(scenes), to).with_style(style);
    bar.set_message(name.to_owned());
    bar
}
