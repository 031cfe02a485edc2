//! Ctrl-C: the first one asks the work at hand to stop, a second one while it is stopping ends the program.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use anyhow::Context;

/// Exit code of a program that SIGINT ended: 128 + 2.
pub const EXIT: u8 = 130;

static ASKED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Catches Ctrl-C (and SIGTERM) from now on. The flag becomes true when it comes.
pub fn install() -> anyhow::Result<Arc<AtomicBool>> {
    let flag = ASKED.get_or_init(Default::default).clone();
    let seen = flag.clone();
    ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::SeqCst) {
            std::process::exit(i32::from(EXIT));
        }
    })
    .context("Ctrl-C cannot be caught")?;
    Ok(flag)
}
