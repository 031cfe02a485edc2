//! Asks whether the output will fit, so that a full disk is met before the first hour of work and not after it.

use std::path::Path;

use crate::{Error, Plan, Result};

/// Room for headers: the vocabulary takes most of it, about 1 MB for 32 000 tokens.
const HEADER: u64 = 4 << 20;

/// Checks the free space under the plan's files. Where the system does not tell, the run begins and the writer reports a
/// full disk when it meets one.
///
/// # Errors
/// [`Error::NoSpace`].
pub(super) fn check(plan: &Plan) -> Result<()> {
    // Both files of a pair lie in one folder.
    let Some(path) = plan.files.first() else { return Ok(()) };
    let needed = plan.bytes().saturating_add(HEADER);
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match free(folder) {
        Some(free) if free < needed => Err(Error::NoSpace { path: path.clone(), needed, free }),
        _ => Ok(()),
    }
}

/// Bytes free for this user on the disk of `folder`, where the system tells.
fn free(folder: &Path) -> Option<u64> {
    fs4::available_space(folder).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Planned, plan::Plan};

    #[test]
    fn a_disk_that_is_too_small_is_known_before() {
        let dir = tempfile::tempdir().unwrap();
        let tensor = |bytes| Planned {
            name: "x".into(),
            dims: vec![1],
            from: "F32".into(),
            from_bytes: 4,
            to: pumice_kernels::DType::F32,
            bytes,
            instead_of: None,
            file: 0,
        };
        let plan = |bytes| Plan { tensors: vec![tensor(bytes)], files: vec![dir.path().join("a.gguf")] };
        check(&plan(1)).unwrap();
        // An exabyte.
        let error = check(&plan(1 << 60)).unwrap_err().to_string();
        assert!(error.contains("a.gguf") && error.contains("are free"), "{error}");
    }
}
