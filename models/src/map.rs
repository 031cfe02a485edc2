//! How a file's bytes come into memory: mapped, or read into memory of their own. The crate's only unsafe code.
//!
//! Mapped, weights stay in the page cache, shared between processes and paged in as they are read; a 4 GB model opens in
//! milliseconds. Read, they are this process's alone, in huge pages where the system gives them: a core then looks up an
//! address once in 2 MB, not once in 4 kB. A regular file on a disk is taken; anything else (a pipe, `/dev/stdin`) has no
//! length to check counts against and is refused.

use std::{fs, io, path::Path};

use pumice_kernels::{Bytes, bytes::Owner};

use crate::{Error, Result};

/// How the bytes of a model are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Holding {
    /// Read into memory of their own instead of mapped.
    pub copy: bool,
    /// Kept there (mlock): the system does not page them out when another program wants the memory.
    pub lock: bool,
}

/// Bytes, and why they could not be locked though that was asked for.
pub(crate) struct Held {
    pub bytes: Bytes,
    pub unlocked: Option<String>,
}

/// Maps the whole file at `path`, read-only.
///
/// # Errors
/// The file cannot be opened, is no regular file, or cannot be mapped.
pub(crate) fn map(path: &Path) -> Result<Bytes> {
    Ok(hold(path, Holding::default())?.bytes)
}

/// Brings the whole file at `path` into memory as `holding` says. A system that refuses to lock it is no error.
///
/// # Errors
/// The file cannot be opened, is no regular file, or cannot be mapped or read.
pub(crate) fn hold(path: &Path, holding: Holding) -> Result<Held> {
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
        return Ok(Held { bytes: Bytes::new(Vec::new()), unlocked: None });
    }
    let map = if holding.copy {
        read(&file, meta.len()).map_err(|e| Error::io(path, "read into memory", e))?
    } else {
        #[allow(unsafe_code, reason = "a memory map cannot be had without it")]
        // SAFETY: the map is read-only and private to this process. What remains is that another program could shorten or
        // rewrite the file while it is mapped; readers see bytes (never references to typed data with invalid values), so
        // a rewrite gives wrong numbers, and a truncation a SIGBUS from the system. Pumice itself never writes in place:
        // its outputs are new files renamed over old ones, which leaves existing maps intact.
        let map = unsafe { memmap2::Mmap::map(&file) };
        map.map_err(|e| Error::io(path, "map into memory", e))?
    };
    let unlocked = if holding.lock { lock(&map).err().map(|e| e.to_string()) } else { None };
    let shared = !holding.copy && !holding.lock;
    Ok(Held { bytes: Bytes::new(Map { map, shared }), unlocked })
}

/// A file's bytes in memory.
struct Map {
    map: memmap2::Mmap,
    /// Whether the pages are the file's own, so that they can go and come again.
    shared: bool,
}

impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl Owner for Map {
    fn release(&self, range: std::ops::Range<usize>) {
        #[cfg(unix)]
        if self.shared {
            // Whole pages of 64 kB, the largest there are: what lies beside the range stays.
            const PAGE: usize = 1 << 16;
            let (start, end) = (range.start.next_multiple_of(PAGE), range.end / PAGE * PAGE);
            if start < end {
                #[allow(unsafe_code, reason = "the advice that forgets pages is marked unsafe")]
                // SAFETY: the map is of a file and read-only, so that pages which go are read again from the file, with the same
                // bytes; nothing was written to them that could be lost. A refusal changes nothing.
                let _ = unsafe {
                    self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start)
                };
            }
        }
        #[cfg(not(unix))]
        let _ = (range, self.shared);
    }
}

/// Reads the `len` bytes of `file` into pages of their own.
fn read(mut file: &fs::File, len: u64) -> io::Result<memmap2::Mmap> {
    let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    let mut map = memmap2::MmapMut::map_anon(len)?;
    // Where it says no, the pages are small, and all goes as well.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    io::Read::read_exact(&mut file, &mut map)?;
    map.make_read_only()
}

#[cfg(unix)]
fn lock(map: &memmap2::Mmap) -> io::Result<()> {
    map.lock()
}

#[cfg(not(unix))]
fn lock(_map: &memmap2::Mmap) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "not on this system"))
}
