//! What a person sees on stderr: errors with their causes, quiet notes.

use std::io::{self, IsTerminal, Write};

/// Whether stderr takes colours (NO_COLOR: <https://no-color.org>).
fn colours() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// `error: …`, each cause on a line of its own. A closed stderr is nobody's loss.
pub fn error(error: &anyhow::Error) {
    let mut err = io::stderr().lock();
    let (on, off) = if colours() { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
    let _ = writeln!(err, "{on}error{off}: {error}");
    let mut above = error.to_string();
    for cause in error.chain().skip(1) {
        let text = cause.to_string();
        if !above.contains(&text) {
            let _ = writeln!(err, "  because: {text}");
        }
        above = text;
    }
}

/// `warning: …`: nothing failed, but somebody should know.
pub fn warning(text: &str) {
    let (on, off) = if colours() { ("\x1b[1;33m", "\x1b[0m") } else { ("", "") };
    let _ = writeln!(io::stderr().lock(), "{on}warning{off}: {text}");
}

/// A quiet line.
pub fn note(text: &str) {
    let (on, off) = if colours() { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
    let _ = writeln!(io::stderr().lock(), "{on}{text}{off}");
}

/// Whether the reader of our output went away (`pumice-train … | head -1`), which is no error of ours.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
