//! Going on from a checkpoint with other settings than it was made with: what only changes the rest of the run is told, what would change the order
//! of the data is refused.
//!
//! A checkpoint holds a place in that order, which means other rows where seed, rows or batch are others.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use pumice_train::{Error, Result, engine::state, recipe::Recipe};
use serde_json::{Value, json};

use super::terminal;

/// What decides the order of a stage's data.
pub const OF_A_STAGE: &[&str] = &["seed", "batch", "group_by_modality_length", "data_bytes"];
/// Settings that change no number of a run, or none but the last digits.
const NO_MATTER: &[&str] =
    &["stage", "out", "device", "workers", "save_every", "keep", "checkpointing", "zero", "device_batch"];
/// Paths, which may be written in several ways.
const PATHS: &[&str] = &["model", "vision_tower", "projector", "data", "image_folder"];
/// Bytes at both ends of the data that are compared.
const END: u64 = 1 << 20;

/// A stage's settings as a checkpoint keeps them.
///
/// # Errors
/// The data cannot be read.
pub fn settings(recipe: &Recipe) -> Result<Value> {
    let mut all = json!(recipe);
    if let (Some(map), Some(data)) = (all.as_object_mut(), &recipe.data) {
        map.retain(|name, _| !NO_MATTER.contains(&name.as_str()));
        for name in PATHS {
            if let Some(whole) =
                map.get(*name).and_then(Value::as_str).and_then(|p| Path::new(p).canonicalize().ok())
            {
                map.insert((*name).into(), json!(whole));
            }
        }
        map.insert(
            "data_bytes".into(),
            json!(ends(data).map_err(|e| Error::Data(format!("--data {}: {e}", data.display())))?),
        );
    }
    Ok(all)
}

/// Length of a file and a hash of its beginning and end (FNV-1a): the same rows under another name are the same, and a gigabyte is not read for it.
fn ends(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut bytes = Vec::new();
    (&mut file).take(END).read_to_end(&mut bytes)?;
    file.seek(SeekFrom::Start(length.saturating_sub(END)))?;
    file.take(END).read_to_end(&mut bytes)?;
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    Ok(format!("{length} bytes, {hash:016x}"))
}

/// Refuses an `--out` that is a file.
///
/// # Errors
/// It is.
pub fn is_folder(out: &Path) -> Result<()> {
    if out.exists() && !out.is_dir() {
        return Err(Error::Config(format!("--out {}: a file; give the name of a folder", out.display())));
    }
    Ok(())
}

/// Refuses a `--data` that is a folder.
///
/// # Errors
/// It is.
pub fn is_file(data: &Path) -> Result<()> {
    if data.is_dir() {
        return Err(Error::Config(format!("--data {}: a folder; LLaVA's JSON is a file", data.display())));
    }
    Ok(())
}

/// Compares `ours` with the settings of the newest checkpoint in `out`, if it has any: what differs is told where `chief`.
///
/// # Errors
/// One of `fixed` differs.
pub fn check(ours: &Value, out: &Path, fixed: &[&str], chief: bool) -> Result<()> {
    let Some(theirs) = state::newest(out)?.map(|mut saved| saved["settings"].take()).filter(Value::is_object)
    else {
        return Ok(());
    };
    let (mut refused, mut told) = (Vec::new(), Vec::new());
    for (name, now) in
        ours.as_object().into_iter().flatten().filter(|(name, now)| theirs[name.as_str()] != **now)
    {
        let text = format!("{name} {} then, {now} now", theirs[name.as_str()]);
        if fixed.contains(&name.as_str()) { &mut refused } else { &mut told }.push(text);
    }
    if !refused.is_empty() {
        return Err(Error::Config(format!(
            "{}: its checkpoint was made with other settings ({}), with which the data has another order; give those again, or another --out",
            out.display(),
            refused.join("; ")
        )));
    }
    if chief && !told.is_empty() {
        terminal::warning(&format!("goes on with other settings than before: {}", told.join("; ")));
    }
    Ok(())
}
