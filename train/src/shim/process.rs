//! Signals to a child process, which Rust's standard library lacks.

use std::process::Child;

/// What a child is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// As Ctrl-C: save and end.
    Interrupt,
    /// End.
    Terminate,
}

/// Sends `signal`; a child that has ended already is left alone.
#[cfg(unix)]
pub fn tell(child: &mut Child, signal: Signal) {
    // Not reaped yet, so the number is still this child's.
    if let (Ok(None), Ok(pid)) = (child.try_wait(), libc::pid_t::try_from(child.id())) {
        let number = match signal {
            Signal::Interrupt => libc::SIGINT,
            Signal::Terminate => libc::SIGTERM,
        };
        // SAFETY: kill takes two numbers; the pid is a child that has not been reaped.
        unsafe { libc::kill(pid, number) };
    }
}

/// Ends the child: there is nothing gentler here.
#[cfg(not(unix))]
pub fn tell(child: &mut Child, _: Signal) {
    let _ = child.kill();
}
