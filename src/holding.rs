//! `--mlock` and `--no-mmap`: how a model's bytes are held in memory, as the subcommands that run a model take it.

use std::{path::Path, sync::Once};

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

    /// Opens the file at `path` as they ask.
    pub fn open(self, path: &Path) -> anyhow::Result<File> {
        let file = File::open_as(path, self.holding())?;
        note(file.unlocked());
        Ok(file)
    }
}

/// Notes once that the system did not lock a model, where there is a reason why.
pub fn note(unlocked: Option<&str>) {
    static TOLD: Once = Once::new();
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
}
