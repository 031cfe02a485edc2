//! Asks whether the output will fit, so that a full disk is met before the first hour of work and not after it.

use std::{collections::BTreeMap, path::Path};

use crate::{Error, Plan, Result};

/// Room for headers: the vocabulary takes most of it, about 1 MB for 32 000 tokens.
const HEADER: u64 = 4 << 20;

/// Checks the free space under the plan's files. Where the system does not tell, the run begins and the writer reports a
/// full disk when it meets one.
///
/// # Errors
/// [`Error::NoSpace`].
pub(super) fn check(plan: &Plan) -> Result<()> {
    let mut needed: BTreeMap<usize, u64> = BTreeMap::new();
    for tensor in &plan.tensors {
        *needed.entry(tensor.file).or_default() += tensor.bytes;
    }
    // Both files of a pair lie in one folder.
    let Some(path) = plan.files.first() else { return Ok(()) };
    let needed = needed.values().sum::<u64>() + HEADER;
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
