//! Tells the program which commit it was built from, so that a figure can be traced to its code.

use std::{path::Path, process::Command};

/// What is built into the program: a change there may make it differ from its commit.
const SOURCES: [&str; 8] = [
    "build.rs",
    "Cargo.toml",
    "Cargo.lock",
    "src",
    "kernels/src",
    "models/src",
    "runtime/src",
    "quantize/src",
];

fn main() {
    let commit = git(&["describe", "--always", "--dirty", "--abbrev=9", "--exclude=*"]);
    println!("cargo::rustc-env=PUMICE_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
    // Its log grows with every commit and checkout.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"]);
    for path in SOURCES.into_iter().chain(log.as_deref()) {
        if Path::new(path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}

/// What git answers; `None` without git or outside of a repository.
fn git(args: &[&str]) -> Option<String> {
    let out = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?.trim().to_owned();
    (out.status.success() && !text.is_empty()).then_some(text)
}
