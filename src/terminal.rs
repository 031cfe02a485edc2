//! What a person sees: colours where there is a terminal, sizes and times in words.

use std::io::{IsTerminal, Write};

use anstyle::{AnsiColor, Style};

const RED: Style = AnsiColor::Red.on_default().bold();
const DIM: Style = Style::new().dimmed();

/// Whether stderr takes colours (NO_COLOR: <https://no-color.org>).
fn colours() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// `error: …` on stderr, each cause on a line of its own. A closed stderr is nobody's loss.
pub fn error(error: &anyhow::Error) {
    let mut err = std::io::stderr().lock();
    let (on, off) = if colours() {
        (RED.render().to_string(), RED.render_reset().to_string())
    } else {
        Default::default()
    };
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

/// A quiet line on stderr.
pub fn note(text: &str) {
    let mut err = std::io::stderr().lock();
    let _ = if colours() {
        writeln!(err, "{}{text}{}", DIM.render(), DIM.render_reset())
    } else {
        writeln!(err, "{text}")
    };
}

/// Bytes in decimal units, as disks and model cards have them: `4.08 GB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B", "kB", "MB", "GB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ if value < 10.0 => format!("{value:.2} {}", UNITS[unit]),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

/// `1 thread`, `2 threads`.
pub fn threads(n: usize) -> String {
    format!("{n} thread{}", if n == 1 { "" } else { "s" })
}

/// Seconds with three digits: `0.012 s`, `1.53 s`, `74.1 s`.
pub fn seconds(s: f64) -> String {
    match s {
        s if s < 1.0 => format!("{s:.3} s"),
        s if s < 10.0 => format!("{s:.2} s"),
        s => format!("{s:.1} s"),
    }
}
