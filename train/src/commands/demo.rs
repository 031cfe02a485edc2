//! `pumice-train demo`: the whole road from an empty folder to the demo model, in the commands that a person would give.
//!
//! Each stage is a process of its own, so that its memory is gone when it ends and its command line can be read, copied and changed. A stage
//! whose result is there is not run again, and one that was stopped goes on from its last checkpoint.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::Context;
use pumice_quantize::{FileType, Options, Recipe, Source, SourceOptions};
use pumice_train::{Error, Result};
use serde::Serialize;
use serde_json::{Value, json};
use tch::Cuda;

use super::terminal;

#[derive(clap::Args)]
#[command(after_help = "\
Example:
  pumice-train demo demo            (an hour on two cores; the result is demo/pumice-demo-q4_k_m.gguf)")]
pub struct Args {
    /// Folder to work in.
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// Pictures of the world that the two stages see.
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    pictures: u64,
    /// Multiplies every stage's steps: 0.01 tries the road, 2 learns longer.
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    scale: f64,
    /// The colour font whose pictograms are drawn; by default the system's Noto Color Emoji.
    #[arg(long, value_name = "FILE")]
    font: Option<PathBuf>,
}

/// A command of this program and the file or folder that it ends with.
struct Step {
    name: &'static str,
    result: PathBuf,
    arguments: Vec<String>,
}

/// What a folder was begun with: another run's stages are no part of this one's model. Kept in `demo.json` there.
#[derive(Serialize)]
struct Begun {
    pictures: u64,
    scale: f64,
    /// Steps of the stages.
    clip: u64,
    lm: u64,
    align: u64,
    tune: u64,
}

impl Begun {
    fn of(args: &Args) -> Self {
        let n = |steps: u64| ((steps as f64 * args.scale) as u64).max(1);
        let Args { pictures, scale, .. } = *args;
        Self { pictures, scale, clip: n(2400), lm: n(1300), align: n(500), tune: n(4500) }
    }

    /// Notes it in `out`, or compares it with what is noted there.
    ///
    /// # Errors
    /// The folder was begun with something else, or before this was noted.
    fn settle(&self, out: &Path, steps: &[Step]) -> Result<()> {
        let path = out.join("demo.json");
        let ours = json!(self);
        let advice = format!("give another folder, or delete {}", out.display());
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                if let Some(step) = steps.iter().find(|step| step.result.exists()) {
                    return Err(Error::Config(format!(
                        "{} is there, but no {} that tells what it was made with; {advice}",
                        step.result.display(),
                        path.display()
                    )));
                }
                std::fs::create_dir_all(out).map_err(Error::io(out))?;
                return std::fs::write(&path, format!("{ours:#}\n")).map_err(Error::io(&path));
            }
            Err(e) => return Err(Error::io(&path)(e)),
        };
        let theirs: Value = serde_json::from_slice(&text)
            .map_err(|e| Error::Config(format!("{}: {e}; {advice}", path.display())))?;
        let names = ["pictures", "scale", "clip", "lm", "align", "tune"];
        let other: Vec<String> = names
            .iter()
            .filter(|name| theirs[name] != ours[name])
            .map(|name| format!("{name} {} there, {} now", theirs[name], ours[name]))
            .collect();
        if other.is_empty() {
            return Ok(());
        }
        let other = other.join("; ");
        Err(Error::Config(format!("{} was begun with other settings ({other}): {advice}", out.display())))
    }
}

/// What stage 1 and stage 2 share. `v1` in stage 1 too (as the first release had its one template in both): a model that knows nothing but
/// conversations cannot continue a bare picture. One rate for projector and language model, a hundred times Vicuna's: the model is a thousand
/// times smaller.
const STAGE: &str = "--template v1 --kind bf16 --checkpointing=false --save-every 250 --keep 2 --workers 1 \
    --group-by-modality-length=false --zero 2";

/// Rows of a step of either stage.
const BATCH: usize = 16;

/// Ranks of either stage. Without a GPU one per core, of one thread each: matrices as small as these gain little from a second thread (two
/// ranks are 14 % faster than two threads). Every rank takes as many rows.
fn ranks() -> usize {
    if Cuda::device_count() > 0 || tch::utils::has_mps() {
        return 1;
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (1..=BATCH.min(cores)).rev().find(|n| BATCH.is_multiple_of(*n)).unwrap_or(1)
}

/// A command line: words of `text`, where `{name}` stands for a path, which may hold spaces.
fn words(text: &str, paths: &[(&str, PathBuf)]) -> Vec<String> {
    let word = |word: &str| {
        let path = paths.iter().find(|(name, _)| word == format!("{{{name}}}"));
        path.map_or_else(|| word.to_owned(), |(_, path)| path.display().to_string())
    };
    text.split_whitespace().map(word).collect()
}

fn steps(args: &Args) -> Vec<Step> {
    let at = |name: &str| args.out.join(name);
    let mut paths: Vec<(&str, PathBuf)> = [
        ("world", "world"),
        ("images", "world/images"),
        ("captions", "world/captions.json"),
        ("instruct", "world/instruct.json"),
        ("clip", "clip"),
        ("tower", "clip/model"),
        ("lm", "lm"),
        ("model", "lm/model"),
        ("align", "align"),
        ("projector", "align/mm_projector.safetensors"),
        ("tune", "tune"),
    ]
    .map(|(name, path)| (name, at(path)))
    .into();
    let font = if args.font.is_some() { "--font {font}" } else { "" };
    paths.extend(args.font.clone().map(|font| ("font", font)));
    let Begun { pictures, clip, lm, align, tune, .. } = Begun::of(args);
    let ranks = ranks();
    let rows = BATCH / ranks;
    let launch = if ranks > 1 { format!("launch {ranks} -- ") } else { String::new() };
    let stage = format!("{STAGE} --batch {BATCH} --device-batch {rows}");
    let base = "--model {model} --vision-tower {tower} --image-folder {images}";
    [
        // The tokenizer's files are the last that `world` writes.
        ("world", "world/tokenizer_config.json", format!("world {{world}} --pictures {pictures} --turns 10 {font}")),
        ("clip", "clip/model", format!("clip -o {{clip}} --steps {clip} {font}")),
        ("lm", "lm/model", format!("lm -o {{lm}} --steps {lm}")),
        (
            "align",
            "align/mm_projector.safetensors",
            format!("{launch}align {base} --data {{captions}} -o {{align}} --steps {align} --lr 2e-3 {stage}"),
        ),
        (
            "tune",
            "tune/llava",
            format!(
                "{launch}tune {base} --projector {{projector}} --data {{instruct}} -o {{tune}} --steps {tune} --lr 1e-3 {stage}"
            ),
        ),
    ]
    .map(|(name, result, text)| Step { name, result: at(result), arguments: words(&text, &paths) })
    .into()
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if !(args.scale.is_finite() && args.scale > 0.0 && args.pictures > 0) {
        return Err(Error::Config("--scale and --pictures must be more than 0".into()).into());
    }
    let program = std::env::current_exe().context("this program cannot be found to run its own stages")?;
    let begin = Instant::now();
    let steps = steps(&args);
    Begun::of(&args).settle(&args.out, &steps)?;
    for step in steps {
        if step.result.exists() {
            terminal::note(&format!("{}: {} is there", step.name, step.result.display()));
            continue;
        }
        terminal::note(&format!("pumice-train {}", step.arguments.join(" ")));
        let start = Instant::now();
        let mut command = Command::new(&program);
        if step.arguments[0] == "launch" {
            command.env("OMP_NUM_THREADS", "1");
        }
        let status = command.args(&step.arguments).status();
        let status = status.with_context(|| format!("{} cannot be started", program.display()))?;
        if !status.success() {
            terminal::note(&format!("{} ended early; the same command goes on from there", step.name));
            return Ok(ExitCode::from(status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1)));
        }
        terminal::note(&format!("{} took {:.1} min", step.name, start.elapsed().as_secs_f64() / 60.0));
    }
    for (name, kind) in [("f32", FileType::F32), ("q8_0", FileType::Q8_0), ("q4_k_m", FileType::Q4_K_M)] {
        quantize(&args.out.join("tune/llava"), &args.out.join(format!("pumice-demo-{name}.gguf")), kind)?;
    }
    terminal::note(&format!(
        "made {} in {:.0} min; judge it with: pumice-train eval {0}",
        args.out.join("pumice-demo-q4_k_m.gguf").display(),
        begin.elapsed().as_secs_f64() / 60.0
    ));
    Ok(ExitCode::SUCCESS)
}

/// As `pumice quantize` does it.
fn quantize(checkpoint: &Path, out: &Path, kind: FileType) -> anyhow::Result<()> {
    let options = SourceOptions { template: Some("v1".into()), ..SourceOptions::default() };
    let mut source = Source::open(checkpoint, &options)?;
    source.rename("pumice-demo");
    let options = Options { force: true, ..Options::new(Recipe::new(kind)) };
    let report = pumice_quantize::run(&source, out, &options, &())?;
    terminal::note(&format!("wrote {} ({:.1} MB)", out.display(), report.bytes as f64 / 1e6));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_is_not_taken_for_the_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let args = |scale, pictures| Args { out: folder.path().into(), pictures, scale, font: None };
        let settle = |scale, pictures| {
            let args = args(scale, pictures);
            Begun::of(&args).settle(&args.out, &steps(&args))
        };
        settle(0.002, 100).expect("an empty folder");
        settle(0.002, 100).expect("the same again");
        let said = settle(1.0, 50_000).expect_err("a trial's folder").to_string();
        for part in ["pictures 100 there, 50000 now", "clip 4 there, 2400 now", "another folder"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        std::fs::remove_file(folder.path().join("demo.json")).expect("a file");
        settle(1.0, 50_000).expect("nothing made yet");
        std::fs::remove_file(folder.path().join("demo.json")).expect("a file");
        std::fs::create_dir_all(folder.path().join("clip/model")).expect("a folder");
        let said = settle(1.0, 50_000).expect_err("an unknown run's folder").to_string();
        assert!(said.contains("model is there, but no"), "{said}");
    }
}
