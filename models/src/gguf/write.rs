//! Writing a GGUF file: the header is declared whole, then tensor bytes stream out in that order.
//!
//! A quantizer never holds more than a few rows, so a model of any size is written in little memory. On disk the
//! bytes go to a temporary file in the target's folder that takes the target's name only when whole and synced: a
//! crash, a full disk or Ctrl-C leaves no half model under a good name. Dropping an unfinished [`Writer`] removes it.

use std::{
    collections::HashSet,
    fs,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use byteorder::{LittleEndian, WriteBytesExt};
use pumice_kernels::DType;
use tempfile::NamedTempFile;

use super::{
    ALIGNMENT_KEY, Array, DEFAULT_ALIGNMENT, MAX_DEPTH, Value,
    read::{check_alignment, size},
};
use crate::{Error, Result};

/// Version written; every reader since October 2023 knows it.
const VERSION: u32 = 3;
/// llama.cpp's `GGML_MAX_NAME` counts a terminating zero; longer names it refuses.
const MAX_NAME: usize = 63;
/// Buffer for the header and for small tensors; rows of large tensors pass it by.
const BUFFER: usize = 1 << 20;

/// Keys and tensor infos of a file to be written. Faults are reported when a [`Writer`] is made of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Header {
    keys: Vec<(String, Value)>,
    tensors: Vec<Declared>,
}

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq)]
struct Declared {
    name: String,
    dims: Vec<usize>,
    dtype: DType,
}

impl Header {
    /// No keys, no tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key`; in place where it is there already, else after the others.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        let value = value.into();
        match self.keys.iter_mut().find(|(k, _)| k == key) {
            Some((_, v)) => *v = value,
            None => self.keys.push((key.to_owned(), value)),
        }
        self
    }

    /// The value set for `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.keys.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// Adds a tensor after the others: `dims` fastest first (PyTorch's shape reversed).
    pub fn tensor(&mut self, name: &str, dims: &[usize], dtype: DType) -> &mut Self {
        self.tensors.push(Declared { name: name.to_owned(), dims: dims.to_vec(), dtype });
        self
    }

    /// Tensors declared so far.
    pub fn tensors(&self) -> usize {
        self.tensors.len()
    }

    /// Checks everything and lays the file out.
    fn layout(self, path: &Path) -> Result<Layout> {
        let alignment = match self.get(ALIGNMENT_KEY) {
            Some(v @ Value::U32(_)) => check_alignment(v).map_err(|e| Error::key(path, ALIGNMENT_KEY, e))?,
            Some(v) => return Err(Error::key(path, ALIGNMENT_KEY, format!("is {v:?}, must be a u32"))),
            None => DEFAULT_ALIGNMENT,
        };
        let mut head = Vec::new();
        let mut tensors = Vec::new();
        let mut seen = HashSet::new();
        let mut offset = 0u64;
        head.extend(b"GGUF");
        put(&mut head, |h| {
            h.write_u32::<LittleEndian>(VERSION)?;
            h.write_u64::<LittleEndian>(self.tensors.len() as u64)?;
            h.write_u64::<LittleEndian>(self.keys.len() as u64)
        });
        for (key, value) in &self.keys {
            string(&mut head, key);
            put(&mut head, |h| h.write_u32::<LittleEndian>(value.type_id()));
            put_value(&mut head, value).map_err(|what| Error::key(path, key, what))?;
        }
        for t in self.tensors {
            let bad = |what: String| Error::tensor(path, &t.name, what);
            if t.name.len() > MAX_NAME {
                return Err(bad(format!(
                    "its name has {} bytes, other programs read at most {MAX_NAME}",
                    t.name.len()
                )));
            }
            if !seen.insert(t.name.clone()) {
                return Err(bad("declared twice".into()));
            }
            if t.dims.len() > 4 {
                return Err(bad(format!("shape {:?} has more than 4 dimensions", t.dims)));
            }
            let dims: Vec<u64> = t.dims.iter().map(|&d| d as u64).collect();
            let (_, bytes) = size(&dims, t.dtype as u32).map_err(|e| bad(format!("shape {dims:?}: {e}")))?;
            string(&mut head, &t.name);
            put(&mut head, |h| {
                h.write_u32::<LittleEndian>(dims.len() as u32)?;
                dims.iter().try_for_each(|&d| h.write_u64::<LittleEndian>(d))?;
                h.write_u32::<LittleEndian>(t.dtype as u32)?;
                h.write_u64::<LittleEndian>(offset)
            });
            let end =
                (bytes as u64).checked_next_multiple_of(alignment as u64).and_then(|b| offset.checked_add(b));
            offset = end.ok_or_else(|| bad("the file grows beyond 2^64 bytes".into()))?;
            tensors.push((t.name, bytes));
        }
        head.resize(head.len().next_multiple_of(alignment), 0);
        let total = offset
            .checked_add(head.len() as u64)
            .ok_or_else(|| Error::unsupported(path, "the file to write grows beyond 2^64 bytes"))?;
        Ok(Layout { head, tensors, alignment, total })
    }
}

/// A checked header.
struct Layout {
    /// All bytes before the tensor data, padded.
    head: Vec<u8>,
    /// Name and bytes of each tensor.
    tensors: Vec<(String, usize)>,
    alignment: usize,
    /// Bytes of the whole file.
    total: u64,
}

/// Writes to memory, which cannot fail.
fn put(to: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) {
    write(to).expect("writing to a Vec cannot fail");
}

fn string(to: &mut Vec<u8>, s: &str) {
    put(to, |h| h.write_u64::<LittleEndian>(s.len() as u64));
    to.extend(s.as_bytes());
}

/// Appends a value without its type; `Err` says what is wrong with it.
fn put_value(to: &mut Vec<u8>, value: &Value) -> std::result::Result<(), String> {
    match value {
        Value::U8(v) => to.push(*v),
        Value::I8(v) => to.extend(v.to_le_bytes()),
        Value::U16(v) => to.extend(v.to_le_bytes()),
        Value::I16(v) => to.extend(v.to_le_bytes()),
        Value::U32(v) => to.extend(v.to_le_bytes()),
        Value::I32(v) => to.extend(v.to_le_bytes()),
        Value::F32(v) => to.extend(v.to_le_bytes()),
        Value::Bool(v) => to.push((*v).into()),
        Value::String(s) => string(to, s),
        Value::Array(a) => put_array(to, a, 1)?,
        Value::U64(v) => to.extend(v.to_le_bytes()),
        Value::I64(v) => to.extend(v.to_le_bytes()),
        Value::F64(v) => to.extend(v.to_le_bytes()),
    }
    Ok(())
}

/// Appends an array that is `depth` deep.
fn put_array(to: &mut Vec<u8>, array: &Array, depth: usize) -> std::result::Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!("arrays nested more than {MAX_DEPTH} deep"));
    }
    put(to, |h| {
        h.write_u32::<LittleEndian>(array.type_id())?;
        h.write_u64::<LittleEndian>(array.len() as u64)
    });
    match array {
        Array::U8(v) => to.extend(v),
        Array::I8(v) => v.iter().for_each(|x| to.extend(x.to_le_bytes())),
        Array::U16(v) => v.iter().for_each(|x| to.extend(x.to_le_bytes())),
        Array::I16(v) => v.iter().for_each(|x| to.extend(x.to_le_bytes())),
        Array::U32(v) => v.iter().for_each(|x| to.extend(x.to_le_bytes())),
        Array::I32(v) => v.iter().for_each(|x| to.extend(x.to_le_bytes())),
        Array::F32(v) => v.iter().for_each(|x| to.extend(x.to_le_bytes())),
        Array::Bool(v) => to.extend(v.iter().map(|&b| u8::from(b))),
        Array::String(v) => v.iter().for_each(|s| string(to, s)),
        Array::Array(v) => v.iter().try_for_each(|a| put_array(to, a, depth + 1))?,
        Array::U64(v) => v.iter().for_each(|x| to.extend(x.to_le_bytes())),
        Array::I64(v) => v.iter().for_each(|x| to.extend(x.to_le_bytes())),
        Array::F64(v) => v.iter().for_each(|x| to.extend(x.to_le_bytes())),
    }
    Ok(())
}

/// Writes the tensors of a [`Header`], to a file ([`Writer::create`]) or to memory ([`Writer::in_memory`]).
pub struct Writer<W: Write = OnDisk> {
    to: W,
    /// The target, for messages.
    path: PathBuf,
    /// Name and bytes of each tensor.
    tensors: Vec<(String, usize)>,
    alignment: usize,
    /// The tensor being written and how many of its bytes are.
    current: usize,
    within: usize,
    /// Bytes written and of the whole file.
    written: u64,
    total: u64,
}

/// A temporary file beside the target.
#[derive(Debug)]
pub struct OnDisk {
    file: BufWriter<NamedTempFile>,
    overwrite: bool,
}

impl Write for OnDisk {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.file.write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Writer<OnDisk> {
    /// Starts the file at `path` and writes the header. An existing file stays as it is until [`Writer::finish`], and
    /// is replaced then only if `overwrite`. Where the system can, room for the whole file is reserved now.
    ///
    /// # Errors
    /// The header is faulty, the target exists or is no regular file, its folder cannot be written to, or the disk has
    /// no room.
    pub fn create(path: &Path, header: Header, overwrite: bool) -> Result<Self> {
        let layout = header.layout(path)?;
        match fs::metadata(path) {
            Ok(m) if m.is_dir() => {
                return Err(Error::unsupported(path, "is a folder; give the name of a file to write"));
            }
            Ok(m) if !m.is_file() => {
                return Err(Error::unsupported(path, "is no regular file; give the name of a file to write"));
            }
            Ok(_) if !overwrite => return Err(Error::Exists { path: path.into() }),
            _ => {}
        }
        let name =
            path.file_name().ok_or_else(|| Error::unsupported(path, "is no name of a file to write"))?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut prefix = std::ffi::OsString::from(".");
        prefix.push(name);
        prefix.push(".");
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(".gguf.part");
        // What any new file gets (the system takes the umask away), not the 0600 of a secret.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder
            .tempfile_in(folder)
            .map_err(|e| Error::io(path, "make a temporary file in its folder", e))?;
        reserve(file.as_file(), layout.total).map_err(|e| full_or_io(path, layout.total, 0, e))?;
        let to = OnDisk { file: BufWriter::with_capacity(BUFFER, file), overwrite };
        Self::start(to, path, layout)
    }

    /// Syncs the file and gives it its name.
    ///
    /// # Errors
    /// A tensor is missing, the disk is full, or the target appeared meanwhile. The temporary file is removed then.
    pub fn finish(mut self) -> Result<()> {
        self.check_complete()?;
        self.to.flush().map_err(|e| self.io(e))?;
        self.to.file.get_ref().as_file().sync_all().map_err(|e| self.io(e))?;
        let Self { to: OnDisk { file, overwrite }, path, total, .. } = self;
        let file = file.into_inner().map_err(|e| full_or_io(&path, total, total, e.into_error()))?;
        let renamed = if overwrite { file.persist(&path) } else { file.persist_noclobber(&path) };
        match renamed {
            Ok(_) => Ok(()),
            Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => Err(Error::Exists { path }),
            Err(e) => Err(Error::io(&path, "rename the finished temporary file to it", e.error)),
        }
    }
}

impl Writer<Vec<u8>> {
    /// Starts a file in memory.
    ///
    /// # Errors
    /// The header is faulty.
    pub fn in_memory(header: Header) -> Result<Self> {
        let path = Path::new("(memory)");
        let layout = header.layout(path)?;
        Self::start(Vec::new(), path, layout)
    }

    /// The whole file.
    ///
    /// # Errors
    /// A tensor is missing.
    pub fn finish(self) -> Result<Vec<u8>> {
        self.check_complete()?;
        Ok(self.to)
    }
}

impl<W: Write> Writer<W> {
    fn start(to: W, path: &Path, layout: Layout) -> Result<Self> {
        let Layout { head, tensors, alignment, total } = layout;
        let path = path.to_owned();
        let mut writer = Self { to, path, tensors, alignment, current: 0, within: 0, written: 0, total };
        writer.put(&head)?;
        Ok(writer)
    }

    /// Appends `bytes` to tensor `name`: all of it at once, or any number of pieces. Tensors come in the declared
    /// order; the next begins when the one before is whole.
    ///
    /// # Errors
    /// Another tensor is due, the tensor would become longer than declared, or the disk is full.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let bad = |what: String| Err(Error::tensor(&self.path, name, what));
        let Some((due, len)) = self.tensors.get(self.current) else {
            return bad("written after all declared tensors were whole".into());
        };
        if due != name {
            return bad(format!("written while tensor {due} has {} of its {len} bytes", self.within));
        }
        let (left, len) = (len - self.within, *len);
        if bytes.len() > left {
            return bad(format!("{} bytes written where {left} of its {len} are left", bytes.len()));
        }
        self.put(bytes)?;
        self.within += bytes.len();
        if self.within == len {
            let padding = len.next_multiple_of(self.alignment) - len;
            self.put(&vec![0; padding])?;
            self.current += 1;
            self.within = 0;
        }
        Ok(())
    }

    /// Bytes written so far and bytes of the whole file.
    pub fn progress(&self) -> (u64, u64) {
        (self.written, self.total)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.to.write_all(bytes).map_err(|e| self.io(e))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn check_complete(&self) -> Result<()> {
        match self.tensors.get(self.current) {
            Some((name, len)) => Err(Error::tensor(
                &self.path,
                name,
                format!("only {} of its {len} bytes were written before finishing", self.within),
            )),
            None => Ok(()),
        }
    }

    fn io(&self, e: io::Error) -> Error {
        full_or_io(&self.path, self.total, self.written, e)
    }
}

/// Reserves `bytes` for `file`, so that a full disk shows before the work rather than after it. File systems that
/// cannot reserve are left to show it late.
#[cfg(target_os = "linux")]
fn reserve(file: &fs::File, bytes: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    match fallocate(file, FallocateFlags::empty(), 0, bytes).map_err(io::Error::from) {
        Err(e) if is_full(&e) => Err(e),
        _ => Ok(()),
    }
}

/// Elsewhere a full disk shows when it is full.
#[cfg(not(target_os = "linux"))]
fn reserve(_: &fs::File, _: u64) -> io::Result<()> {
    Ok(())
}

/// Whether the disk is full, the quota used up, or a limit on one file (FAT32's 4 GiB) reached.
fn is_full(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// A failed write.
fn full_or_io(path: &Path, needed: u64, written: u64, source: io::Error) -> Error {
    if is_full(&source) {
        return Error::NoSpace { path: path.into(), needed, written, source };
    }
    Error::io(path, "write", source)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk of so many bytes.
    struct Disk(usize);

    impl Write for Disk {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            let n = buf.len().min(self.0);
            self.0 -= n;
            if n == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(n) }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_told_with_the_bytes_needed() {
        let mut header = Header::new();
        header.tensor("w", &[1000], DType::F32);
        let path = Path::new("out.gguf");
        let layout = header.layout(path).unwrap();
        let mut w = Writer::start(Disk(1024), path, layout).unwrap();
        let head = w.progress().0;
        let e = w.write("w", &[0; 4000]).unwrap_err();
        let Error::NoSpace { needed, written, .. } = e else { panic!("{e}") };
        assert_eq!((needed, written), (head + 4000, head));
        let text = e.to_string();
        assert!(text.contains("out.gguf: no room") && text.contains(&needed.to_string()), "{text}");
    }
}
