//! Before anything runs: is the libtorch that was loaded the one this program was built for?

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use pumice_train::Error;

/// The PyTorch whose libtorch this program is compiled against (see build.rs and get-libtorch.sh).
const NEEDED: &str = env!("PUMICE_LIBTORCH_VERSION");

/// Compares the loaded libtorch's `version.py` with the needed version. Where there is none beside it, the linker's word stands.
pub fn check_libtorch() -> anyhow::Result<()> {
    let Some(lib) = loaded() else { return Ok(()) };
    let Some(have) = version(&lib) else { return Ok(()) };
    if have.split('+').next() == Some(NEEDED) {
        return Ok(());
    }
    Err(Error::Config(format!(
        "the libtorch in {} is of PyTorch {have}, needed is {NEEDED}: run train/get-libtorch.sh (CPU) or train/get-libtorch.sh --python \
         (the torch installed in python3), unset LD_LIBRARY_PATH if it names another, and build again",
        lib.display()
    ))
    .into())
}

/// How long the first rank has to say what is wrong with the settings.
const FIRST: Duration = Duration::from_secs(2);

/// Waits where this is not the first rank and its settings are wrong: most likely they are so for all, and `launch` ends the others when the first
/// has said it. What concerns this rank alone is said after the wait.
pub fn let_the_first_speak(error: &anyhow::Error) {
    let rank = std::env::var("RANK").ok().and_then(|rank| rank.parse::<usize>().ok());
    if rank.is_some_and(|rank| rank > 0) && matches!(error.downcast_ref(), Some(Error::Config(_))) {
        std::thread::sleep(FIRST);
    }
}

/// The folder of the libtorch_cpu that this process loaded, where the system tells.
fn loaded() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.contains("/libtorch_cpu."))?;
    Path::new(&line[line.find('/')?..]).parent().map(Path::to_owned)
}

/// `2.11.0+cu130` of `__version__ = '2.11.0+cu130'` in the `version.py` beside `lib`.
fn version(lib: &Path) -> Option<String> {
    let text = std::fs::read_to_string(lib.parent()?.join("version.py")).ok()?;
    let line = text.lines().find(|line| line.starts_with("__version__"))?;
    line.split('\'').nth(1).map(str::to_owned)
}
