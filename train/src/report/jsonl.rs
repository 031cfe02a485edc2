//! A log of one JSON object per line and step, for plots and programs.
//!
//! A resumed run goes on in the same file: lines of steps that it will do again are dropped first, so that each step stands there once.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{Observer, StepReport};
use crate::{Error, Result};

/// The log.
pub struct Jsonl {
    path: PathBuf,
    file: File,
    peak: Option<f64>,
}

impl Jsonl {
    /// Opens `path` for steps from `first` on; `peak` is the FLOP/s of all devices, for the MFU.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(path: &Path, first: u64, peak: Option<f64>) -> Result<Self> {
        let io = || Error::io(path);
        if path.exists() {
            let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let mut kept = tempfile::NamedTempFile::new_in(folder).map_err(io())?;
            for line in BufReader::new(File::open(path).map_err(io())?).split(b'\n') {
                let line = line.map_err(io())?;
                if before(&line, first) {
                    kept.write_all(&line).and_then(|()| kept.write_all(b"\n")).map_err(io())?;
                }
            }
            // A temporary file is its owner's alone; the log keeps the rights that it has.
            let rights = std::fs::metadata(path).map_err(io())?.permissions();
            kept.as_file().set_permissions(rights).map_err(io())?;
            kept.persist(path).map_err(|e| io()(e.error))?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(io())?;
        Ok(Self { path: path.into(), file, peak })
    }

    fn line(&mut self, value: &Value) -> Result<()> {
        // One write per line: what a kill leaves is whole lines.
        self.file.write_all(format!("{value}\n").as_bytes()).map_err(Error::io(&self.path))
    }
}

/// Whether a line of an earlier run is of a step before `first`; a line that a kill cut is not.
fn before(line: &[u8], first: u64) -> bool {
    serde_json::from_slice::<Value>(line)
        .is_ok_and(|value| value["step"].as_u64().is_some_and(|step| step < first))
}

impl Observer for Jsonl {
    fn step(&mut self, report: &StepReport) -> Result<()> {
        let mut value = serde_json::to_value(report).unwrap_or_default();
        value["tokens_per_second"] = json!(report.tokens_per_second());
        value["mfu"] = json!(report.mfu(self.peak));
        self.line(&value)
    }

    fn note(&mut self, _: &str) {}
}
