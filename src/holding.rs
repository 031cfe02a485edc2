//! `--mlock` and `--no-mmap`: how a model's bytes are held in memory, as the subcommands that run a model take it.

use std::{
    path::{Path, PathBuf},
    sync::Once,
};

use anyhow::bail;
use clap::Args;
use pumice_models::gguf::{File, Holding};

use crate::terminal;

/// llama.cpp's options of these names.
#[derive(Debug, Args, Clone, Copy)]
pub struct HoldingArgs {
    /// Keep the model in memory: the system may not page it out for other programs.
    #[arg(long)]
    mlock: bool,
    /// Read the model into memory of its own, in huge pages where the system gives them, instead of mapping the file: loading
    /// takes as long as reading it, and no other process shares it.
    #[arg(long)]
    no_mmap: bool,
}

impl HoldingArgs {
    /// What they ask for. Where memory is to be locked, this process is first allowed as much as it may allow itself.
    pub fn holding(self) -> Holding {
        if self.mlock {
            raise_limit();
        }
        Holding { copy: self.no_mmap, lock: self.mlock }
    }

    /// Refuses to read or lock `files` that are larger than `memory` bytes together.
    pub fn check<'a>(
        self,
        files: impl Iterator<Item = &'a PathBuf>,
        memory: Option<u64>,
    ) -> anyhow::Result<()> {
        // A file that is not there is told when it is opened.
        let size: u64 = files.filter_map(|path| Some(path.metadata().ok()?.len())).sum();
        match memory {
            Some(free) if (self.mlock || self.no_mmap) && size > free => bail!(
                "--no-mmap and --mlock want {} in memory, {} are free; leave them out, and the files are mapped",
                terminal::size(size),
                terminal::size(free)
            ),
            _ => Ok(()),
        }
    }

    /// Opens the file at `path` as they ask.
    pub fn open(self, path: &Path) -> anyhow::Result<File> {
        let file = File::open_as(path, self.holding())?;
        note(file.unlocked());
        Ok(file)
    }
}

/// Done once the system was seen not to lock a model.
static TOLD: Once = Once::new();

/// Whether the system refused to lock a model that [`HoldingArgs::open`] or [`note`] met.
pub fn was_refused() -> bool {
    TOLD.is_completed()
}

/// Notes once that the system did not lock a model, where there is a reason why.
pub fn note(unlocked: Option<&str>) {
    if let Some(why) = unlocked {
        TOLD.call_once(|| terminal::note(&not_locked(why, limit())));
    }
}

/// What to say of it, where `limit` bytes may be locked.
fn not_locked(why: &str, limit: Option<u64>) -> String {
    let limit = match limit {
        Some(bytes) => format!(
            "; it lets this process lock {}: raise that by ulimit -l unlimited, by memlock in /etc/security/limits.conf or \
             by LimitMEMLOCK of a service",
            terminal::size(bytes)
        ),
        None => String::new(),
    };
    format!("--mlock: the system did not lock the model in memory ({why}){limit}; going on without")
}

/// Raises the soft limit on locked memory to the hard one, which needs no rights. Where it does not work, locking tells.
#[cfg(unix)]
fn raise_limit() {
    use nix::sys::resource::{Resource::RLIMIT_MEMLOCK, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(RLIMIT_MEMLOCK) {
        let _ = setrlimit(RLIMIT_MEMLOCK, hard, hard);
    }
}

#[cfg(not(unix))]
fn raise_limit() {}

/// Bytes that this process may lock; `None` where there is no limit, or none is told.
#[cfg(unix)]
fn limit() -> Option<u64> {
    use nix::sys::resource::{Resource::RLIMIT_MEMLOCK, getrlimit};
    let (soft, _) = getrlimit(RLIMIT_MEMLOCK).ok()?;
    (soft != nix::libc::RLIM_INFINITY).then_some(soft)
}

#[cfg(not(unix))]
fn limit() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_limit_and_what_to_do() {
        let told = not_locked("Cannot allocate memory", Some(65_536));
        for words in
            ["--mlock", "Cannot allocate memory", "65.5 kB", "ulimit -l unlimited", "going on without"]
        {
            assert!(told.contains(words), "no {words:?} in: {told}");
        }
        assert!(!not_locked("not on this system", None).contains("ulimit"));
    }

    #[test]
    fn what_does_not_fit_is_refused_before_it_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1000).unwrap();
        let files = [file.path().to_path_buf(), PathBuf::from("absent")];
        let (copy, map) =
            (HoldingArgs { mlock: false, no_mmap: true }, HoldingArgs { mlock: false, no_mmap: false });
        assert!(copy.check(files.iter(), Some(1000)).is_ok() && copy.check(files.iter(), None).is_ok());
        assert!(map.check(files.iter(), Some(0)).is_ok());
        let told = copy.check(files.iter(), Some(999)).unwrap_err().to_string();
        assert!(told.contains("1.00 kB") && told.contains("999 B"), "{told}");
    }
}
