//! Starts the ranks of a run on this machine, as torchrun does, and ends them together.
//!
//! For several machines use torchrun (`--no-python`), Slurm, or a shell loop: all a rank needs are the five variables of [`super::place`].

use std::ffi::OsStr;
use std::net::TcpListener;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::shim::process::{Signal, tell};
use crate::{Error, Result};

/// How long interrupted ranks may take to end their step and save: 13B learned whole are 156 GB, at 100 MB/s 26 minutes.
const SAVE: Duration = Duration::from_secs(1800);
/// How long a rank may take to end after another failed.
const END: Duration = Duration::from_secs(5);
/// How often the ranks are looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Exit code of a rank that saved and ended because it was told to.
const STOPPED: i32 = 130;
/// Number of the signal that Ctrl-C sends.
#[cfg(unix)]
const INTERRUPT: i32 = 2;
/// Exit code of a rank whose command line or settings make no sense.
const MISUSED: i32 = 2;

/// How all ranks ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// They did what they had to do.
    Done,
    /// Some were stopped before.
    Stopped,
}

/// Runs `program args…` as `n` ranks until all have ended. Their output is this process's; they read no input. When one fails, the others are ended.
/// Each time `stop` is set (by a handler of Ctrl-C; it is taken back here), each rank is interrupted once: the first time a rank saves and ends, the
/// second it ends at once. A rank that ends with 130 was stopped and did not fail. `variables` are set for the ranks beside those of [`super::place`].
///
/// # Errors
/// [`Error::Config`] for no ranks and for ranks that end with 2, a wrong setting; [`Error::Ranks`] names the first rank that did not start or failed, and how.
pub fn run<S: AsRef<OsStr>>(
    n: usize,
    program: &OsStr,
    args: &[S],
    variables: &[(&str, &str)],
    stop: &AtomicBool,
) -> Result<Ended> {
    if n == 0 {
        return Err(Error::Config("a run needs at least one rank".into()));
    }
    // Free now; that another program takes it before rank 0 serves is possible, and rank 0 then says so.
    let port = TcpListener::bind(("127.0.0.1", 0))
        .and_then(|l| l.local_addr())
        .map_err(|e| Error::Ranks(format!("no free port on 127.0.0.1 for the ranks to meet at: {e}")))?;
    let mut ranks = Running(Vec::new());
    for rank in 0..n {
        let child = start(rank, n, port.port(), program, args, variables).map_err(|e| {
            Error::Ranks(format!("rank {rank} does not start: {}: {e}", program.to_string_lossy()))
        })?;
        ranks.0.push(child);
    }
    let (mut end_by, mut all) = (None, Ended::Done);
    loop {
        let (mut alive, mut failed) = (0, None);
        for (rank, child) in ranks.0.iter_mut().enumerate() {
            match child.try_wait() {
                Ok(None) => alive += 1,
                Ok(Some(status)) if status.success() => {}
                Ok(Some(status)) if was_stopped(status, end_by.is_some()) => all = Ended::Stopped,
                Ok(Some(status)) => failed = failed.or(Some(ended(rank, n, status))),
                Err(e) => {
                    failed =
                        failed.or_else(|| Some(Error::Ranks(format!("rank {rank} cannot be watched: {e}"))))
                }
            }
        }
        match (failed, alive) {
            (None, 0) => return Ok(all),
            (Some(e), 0) => return Err(e),
            // While stopping, one that ends with an error does not take the others' time to save.
            (Some(e), _) if end_by.is_none() => {
                ranks.end();
                return Err(e);
            }
            _ => {}
        }
        if stop.swap(false, Ordering::Relaxed) {
            ranks.0.iter_mut().for_each(|child| tell(child, Signal::Interrupt));
            end_by.get_or_insert_with(|| Instant::now() + SAVE);
        }
        if end_by.is_some_and(|end| Instant::now() > end) {
            ranks.end();
            return Err(Error::Ranks(format!("the ranks did not end within {} s of Ctrl-C", SAVE.as_secs())));
        }
        std::thread::sleep(LOOK);
    }
}

fn start<S: AsRef<OsStr>>(
    rank: usize,
    n: usize,
    port: u16,
    program: &OsStr,
    args: &[S],
    variables: &[(&str, &str)],
) -> std::io::Result<Child> {
    let mut command = Command::new(program);
    command
        .args(args)
        .envs(variables.iter().copied())
        .env("RANK", rank.to_string())
        .env("LOCAL_RANK", rank.to_string())
        .env("WORLD_SIZE", n.to_string())
        .env("MASTER_ADDR", "127.0.0.1")
        .env("MASTER_PORT", port.to_string())
        .stdin(Stdio::null());
    // A group of its own: the terminal's Ctrl-C reaches the launcher alone, and each rank gets it once.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn()
}

/// Whether a rank ended because it was told to: by itself, or, before it listens to interrupts, by the one that was `sent`.
fn was_stopped(status: ExitStatus, sent: bool) -> bool {
    #[cfg(unix)]
    if sent && std::os::unix::process::ExitStatusExt::signal(&status) == Some(INTERRUPT) {
        return true;
    }
    let _ = sent;
    status.code() == Some(STOPPED)
}

fn ended(rank: usize, n: usize, status: ExitStatus) -> Error {
    let said =
        format!("rank {rank} of {n} failed ({status}): its reason stands above; the others were ended");
    if status.code() == Some(MISUSED) { Error::Config(said) } else { Error::Ranks(said) }
}

/// The ranks; none outlives this value.
struct Running(Vec<Child>);

impl Running {
    /// Asks all to end, and kills those that do not.
    fn end(&mut self) {
        self.0.iter_mut().for_each(|child| tell(child, Signal::Terminate));
        let end = Instant::now() + END;
        while Instant::now() < end && self.0.iter_mut().any(|child| matches!(child.try_wait(), Ok(None))) {
            std::thread::sleep(LOOK);
        }
        for child in &mut self.0 {
            // Those that ended already are of no concern.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.iter_mut().any(|child| matches!(child.try_wait(), Ok(None))) {
            self.end();
        }
    }
}
