//! The memory map: the crate's only unsafe code.
//!
//! Weights stay in the page cache, shared between processes and paged in as they are read; a 4 GB model opens in
//! milliseconds. A regular file on a disk is mapped; anything else (a pipe, `/dev/stdin`) has no length to check
//! counts against and is refused.

use std::{fs, path::Path};

use pumice_kernels::Bytes;

use crate::{Error, Result};

/// Maps the whole file at `path`, read-only.
///
/// # Errors
/// The file cannot be opened, is no regular file, or cannot be mapped.
pub fn map(path: &Path) -> Result<Bytes> {
    let file = fs::File::open(path).map_err(|e| Error::io(path, "open", e))?;
    let meta = file.metadata().map_err(|e| Error::io(path, "read the size", e))?;
    if meta.is_dir() {
        return Err(Error::unsupported(path, "is a folder where a file is needed; name a file in it"));
    }
    if !meta.is_file() {
        return Err(Error::unsupported(
            path,
            "is no regular file; copy it to disk first, weights are memory-mapped",
        ));
    }
    if meta.len() == 0 {
        return Ok(Bytes::new(Vec::new()));
    }
    #[allow(unsafe_code, reason = "a memory map cannot be had without it")]
    // SAFETY: the map is read-only and private to this process. What remains is that another program could shorten or
    // rewrite the file while it is mapped; readers see bytes (never references to typed data with invalid values), so
    // a rewrite gives wrong numbers, and a truncation a SIGBUS from the system. Pumice itself never writes in place:
    // its outputs are new files renamed over old ones, which leaves existing maps intact.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(path, "map into memory", e))?;
    Ok(Bytes::new(map))
}
