//! The program as the tests run it, and the files that they give it.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use pumice_quantize::{FileType, synthetic::synthetic};

/// What a run left behind.
pub struct Outcome {
    /// Exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// The answer.
    pub stdout: String,
    /// All else.
    pub stderr: String,
}

impl Outcome {
    /// The run failed as it should: exit code 1, a message with all of `words`, no panic, nothing on stdout.
    #[track_caller]
    pub fn fails_with(&self, words: &[&str]) {
        self.ends_with(1, words);
    }

    /// The command line was wrong: the same with exit code 2.
    #[track_caller]
    pub fn is_refused_with(&self, words: &[&str]) {
        self.ends_with(2, words);
    }

    #[track_caller]
    fn ends_with(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        assert!(self.stdout.is_empty(), "{}", self.stdout);
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in: {}", self.stderr);
        }
    }

    /// The run went well.
    #[track_caller]
    pub fn succeeds(&self) -> &Self {
        assert_eq!(self.code, Some(0), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }
}

/// Runs `pumice` with `args`, stdin closed.
pub fn pumice<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Outcome {
    // Compiled shaders are kept among the tests' own files.
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
    run(Command::new(env!("CARGO_BIN_EXE_pumice")).args(args).env("XDG_CACHE_HOME", cache))
}

/// Runs `command` with stdin closed.
pub fn run(command: &mut Command) -> Outcome {
    let out = command.stdin(Stdio::null()).output().expect("the program starts");
    Outcome {
        code: out.status.code(),
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

/// A folder of this test run's own, below cargo's.
pub fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("a folder for the test");
    path
}

/// The bytes of a tiny LLaVA with random weights.
pub fn tiny() -> &'static [u8] {
    static TINY: OnceLock<Vec<u8>> = OnceLock::new();
    TINY.get_or_init(|| synthetic("tiny", FileType::Q4_K_M).expect("the tiny model"))
}

/// The same in a file in `folder`.
pub fn tiny_file(folder: &Path) -> PathBuf {
    let path = folder.join("tiny.gguf");
    fs::write(&path, tiny()).expect("a file for the test");
    path
}

/// A picture of the repository.
pub fn picture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/shapes.png")
}

/// A path as text.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}
