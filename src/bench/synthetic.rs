//! Random weights of a true shape as files, so that machines can be compared without a download.

use std::{
    env,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, bail};
use pumice_quantize::{
    FileType, Layout, Options, Progress, Recipe, Source, SourceOptions, plan,
    synthetic::{self, SHAPES},
};
use tempfile::TempDir;

use crate::{Usage, chat, terminal};

/// The type where none is named: the usual choice.
const TYPE: FileType = FileType::Q4_K_M;

/// What was written.
pub struct Made {
    /// The text model, perhaps with all the rest.
    pub text: PathBuf,
    /// The vision half, where it is a file of its own.
    pub mmproj: Option<PathBuf>,
    /// The folder that is removed when this is dropped.
    pub folder: Option<TempDir>,
}

/// Writes random weights of `shape` (`NAME:TYPE`, `FILE.gguf:TYPE`): to a folder of their own that goes when they are dropped,
/// or to `keep` as llama.cpp loads them, text and vision apart.
pub fn make(shape: &str, keep: Option<&Path>, stopped: &Arc<AtomicBool>) -> anyhow::Result<Made> {
    let (name, file_type) = name_and_type(shape)?;
    let source = source(name)?;
    let (folder, out, layout) = match keep {
        Some(out) => (None, out.to_path_buf(), Layout::Pair),
        None => {
            let place = place();
            let folder = tempfile::Builder::new().prefix("pumice-bench-").tempdir_in(&place);
            let folder =
                folder.with_context(|| format!("{}: no folder can be made there", place.display()))?;
            let out = folder.path().join("synthetic.gguf");
            (Some(folder), out, Layout::OneFile)
        }
    };
    let recipe = Recipe::new(file_type);
    let planned = plan(&source, &out, &recipe, layout)?;
    if let Some(there) = planned.files.iter().find(|file| file.exists()) {
        bail!("{}: is there already; measure it with -m, or name another file", there.display());
    }
    let names: Vec<_> = planned.files.iter().map(|file| file.display().to_string()).collect();
    let until = if keep.is_some() { "kept" } else { "removed at the end; --write FILE keeps them" };
    terminal::note(&format!(
        "random weights of {name} in {file_type}: {} to {} ({until})",
        terminal::size(planned.bytes()),
        names.join(" and ")
    ));
    let options = Options { layout, ..Options::new(recipe) };
    let report = pumice_quantize::run(&source, &out, &options, &Stop(Arc::clone(stopped)))?;
    let mut files = report.files.into_iter();
    Ok(Made { text: files.next().context("no file was written")?, mmproj: files.next(), folder })
}

/// Where large files go that nobody keeps: where TMPDIR says, else /var/tmp, which unlike /tmp is never memory.
fn place() -> PathBuf {
    let disk = Path::new("/var/tmp");
    match env::var_os("TMPDIR") {
        None if disk.is_dir() => disk.into(),
        _ => env::temp_dir(),
    }
}

/// The shape's name or file, and the type.
fn name_and_type(shape: &str) -> anyhow::Result<(&str, FileType)> {
    // A path may have colons of its own.
    let known = |name: &str| name == "demo" || SHAPES.contains(&name) || Path::new(name).is_file();
    match shape.rsplit_once(':') {
        Some((name, file_type)) if known(name) => Ok((name, file_type.parse()?)),
        _ if known(shape) => Ok((shape, TYPE)),
        _ => Err(Usage(format!(
            "--synthetic {shape}: is no shape and no file; shapes are {}, demo, or a GGUF file, each with :TYPE behind it \
             for another type than {TYPE}",
            SHAPES.join(", ")
        ))
        .into()),
    }
}

/// Random weights of the shape `name`.
fn source(name: &str) -> anyhow::Result<Source> {
    if SHAPES.contains(&name) {
        return Ok(synthetic::source(name)?);
    }
    let path = if name == "demo" { chat::Demo::find()?.model } else { PathBuf::from(name) };
    Ok(synthetic::like(Source::open(&path, &SourceOptions::default())?))
}

/// Carries Ctrl-C.
struct Stop(Arc<AtomicBool>);

impl Progress for Stop {
    fn advance(&self, _done: u64, _total: u64) -> bool {
        !self.0.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_files_and_types() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a:b.gguf");
        std::fs::write(&path, "").unwrap();
        let path = path.to_str().unwrap();
        for (given, name, file_type) in [
            ("llava-1.5-7b:q4_k_m", "llava-1.5-7b", FileType::Q4_K_M),
            ("tiny:Q8_0", "tiny", FileType::Q8_0),
            ("demo", "demo", TYPE),
            (path, path, TYPE),
            (&format!("{path}:q4_0"), path, FileType::Q4_0),
        ] {
            assert_eq!(name_and_type(given).unwrap(), (name, file_type), "{given}");
        }
        let no_type = name_and_type("tiny:q9").unwrap_err().to_string();
        assert!(no_type.contains("q9") && no_type.contains("Q4_K_M"), "{no_type}");
        let no_shape = name_and_type("huge:q4_0").unwrap_err().to_string();
        assert!(no_shape.contains("huge") && no_shape.contains("llava-1.5-13b"), "{no_shape}");
    }
}
