//! GGUF, the file format of llama.cpp: keys with values, tensor infos, aligned tensor bytes.
//!
//! [`File::open`] maps a file and checks all of its header; tensor bytes are ranges of the map and never copied.
//! A model split into `NAME-00001-of-0000N.gguf` opens as one from any of its parts. [`Writer`] streams a file out.
//! The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod get;
mod read;
mod types;
mod value;
mod write;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use pumice_kernels::Bytes;

pub use types::TensorInfo;
pub use value::{Array, Value};
pub use write::{Header, OnDisk, Writer};

pub use crate::map::Holding;
use crate::{
    Error, Result,
    map::{Held, hold, map},
};

/// The key that changes the alignment of tensor data.
const ALIGNMENT_KEY: &str = "general.alignment";
/// GGUF's alignment in bytes where that key is absent.
const DEFAULT_ALIGNMENT: usize = 32;
/// How deep arrays may nest. Nothing known nests more than twice; the bound keeps recursion off a hostile file's hands.
const MAX_DEPTH: usize = 8;

/// An open GGUF file, all shards of it. A clone is the same file, still mapped once.
#[derive(Debug, Clone)]
pub struct File {
    path: PathBuf,
    parts: Arc<Vec<Part>>,
    keys: Arc<Vec<(String, Value)>>,
    key_index: Arc<HashMap<String, usize>>,
    tensors: Arc<Vec<TensorInfo>>,
    tensor_index: Arc<HashMap<String, usize>>,
    unlocked: Option<String>,
}

/// One shard.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    data: Bytes,
}

impl File {
    /// Maps the file at `path`; of a split model all parts, whichever is named.
    ///
    /// # Errors
    /// A part is missing or unreadable, or a header breaks a rule of the format.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_as(path, Holding::default())
    }

    /// As [`File::open`], its bytes held as `holding` says. That they could not be locked is no error:
    /// [`File::unlocked`] tells it.
    ///
    /// # Errors
    /// As [`File::open`].
    pub fn open_as(path: &Path, holding: Holding) -> Result<Self> {
        // Of a split model it may be any part; which, its header says, so that is mapped first.
        let data = map(path)?;
        let head = read::part(path, &data, 0)?;
        if let Some(count @ 2..) = split_number(path, &head.keys, "split.count")? {
            return Self::open_split(path, count, holding);
        }
        if holding == Holding::default() {
            return Self::assemble(path, vec![(path.into(), data, head)]);
        }
        let Held { bytes, unlocked } = hold(path, holding)?;
        // Read anew: the file may be another one by now.
        let head = read::part(path, &bytes, 0)?;
        Ok(Self { unlocked, ..Self::assemble(path, vec![(path.into(), bytes, head)])? })
    }

    /// Why the system did not lock the file's bytes though it was asked to.
    pub fn unlocked(&self) -> Option<&str> {
        self.unlocked.as_deref()
    }

    /// Reads a whole model from memory. `name` stands for the path in messages.
    ///
    /// # Errors
    /// As [`File::open`]; also where the bytes are one part of a split model.
    pub fn from_bytes(name: &str, bytes: Bytes) -> Result<Self> {
        let path = Path::new(name);
        let bytes = aligned(bytes);
        let head = read::part(path, &bytes, 0)?;
        if let Some(count @ 2..) = split_number(path, &head.keys, "split.count")? {
            return Err(Error::unsupported(
                path,
                format!("is one of {count} parts; open it from disk, beside the others"),
            ));
        }
        Self::assemble(path, vec![(path.into(), bytes, head)])
    }

    /// Opens all `count` parts of the split model that `path` belongs to.
    fn open_split(path: &Path, count: u64, holding: Holding) -> Result<Self> {
        let Some((stem, named)) = split_name(path) else {
            return Err(Error::unsupported(
                path,
                format!(
                    "holds one of {count} parts but is not named NAME-00001-of-{count:05}.gguf; give the \
                        parts their original names"
                ),
            ));
        };
        if named != count {
            return Err(Error::key(
                path,
                "split.count",
                format!("is {count} but the file's name says {named}; give it its original name"),
            ));
        }
        let (mut parts, mut unlocked) = (Vec::new(), None);
        for no in 0..count {
            let part = path.with_file_name(format!("{stem}-{:05}-of-{count:05}.gguf", no + 1));
            if !part.exists() {
                return Err(Error::missing(
                    &part,
                    format!(
                        "missing: part {} of the {count} that make up the model; put all parts in one folder",
                        no + 1
                    ),
                ));
            }
            let held = hold(&part, holding)?;
            let data = held.bytes;
            unlocked = unlocked.or(held.unlocked);
            let head = read::part(&part, &data, parts.len())?;
            for (key, wanted) in [("split.no", no), ("split.count", count)] {
                let found = split_number(&part, &head.keys, key)?;
                if found != Some(wanted) {
                    let found = found.map_or("missing".into(), |n| format!("{n}"));
                    return Err(Error::key(
                        &part,
                        key,
                        format!(
                            "is {found} where {wanted} is needed; the parts are of different models, \
                                fetch them again"
                        ),
                    ));
                }
            }
            parts.push((part, data, head));
        }
        let total: usize = parts.iter().map(|p| p.2.tensors.len()).sum();
        let (first, _, head) = &parts[0];
        match split_number(first, &head.keys, "split.tensors.count")? {
            Some(n) if n != total as u64 => Err(Error::key(
                first,
                "split.tensors.count",
                format!(
                    "is {n} but the {count} parts hold {total} tensors; the parts are of different \
                        models, fetch them again"
                ),
            )),
            _ => Ok(Self { unlocked, ..Self::assemble(path, parts)? }),
        }
    }

    /// One file of its parts: the keys are those of the first, the tensors those of all.
    fn assemble(path: &Path, parts: Vec<(PathBuf, Bytes, read::Part)>) -> Result<Self> {
        let (mut keys, mut key_index) = (Vec::new(), HashMap::new());
        let (mut tensors, mut tensor_index) = (Vec::new(), HashMap::new());
        let mut shards = Vec::new();
        for (i, (path, data, head)) in parts.into_iter().enumerate() {
            if i == 0 {
                key_index = head.keys.iter().enumerate().map(|(i, (k, _))| (k.clone(), i)).collect();
                keys = head.keys;
            }
            for t in head.tensors {
                if tensor_index.insert(t.name.clone(), tensors.len()).is_some() {
                    return Err(Error::tensor(
                        &path,
                        &t.name,
                        "stands in an earlier part too; fetch the parts again",
                    ));
                }
                tensors.push(t);
            }
            shards.push(Part { path, data });
        }
        Ok(Self {
            path: path.into(),
            parts: Arc::new(shards),
            keys: Arc::new(keys),
            key_index: Arc::new(key_index),
            tensors: Arc::new(tensors),
            tensor_index: Arc::new(tensor_index),
            unlocked: None,
        })
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All files that make up the model, in order.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.parts.iter().map(|p| p.path.as_path())
    }

    /// Bytes of all parts.
    pub fn size(&self) -> u64 {
        self.parts.iter().map(|p| p.data.len() as u64).sum()
    }

    /// The part that holds `t`.
    fn path_of(&self, t: &TensorInfo) -> &Path {
        self.parts.get(t.part).map_or(&self.path, |p| &p.path)
    }
}

/// The number under `key`, which must be a non-negative integer if it is there.
fn split_number(path: &Path, keys: &[(String, Value)], key: &str) -> Result<Option<u64>> {
    let Some((_, v)) = keys.iter().find(|(k, _)| k == key) else { return Ok(None) };
    let n = v.as_integer().and_then(|n| u64::try_from(n).ok());
    n.map(Some).ok_or_else(|| Error::key(path, key, "is no count; the file is damaged, fetch it again"))
}

/// `NAME` and `N` of `NAME-0000i-of-0000N.gguf`.
fn split_name(path: &Path) -> Option<(&str, u64)> {
    let digits = |s: &str| (s.len() == 5).then(|| s.parse::<u64>().ok()).flatten();
    let rest = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let (rest, count) = rest.rsplit_once("-of-")?;
    let (stem, no) = rest.rsplit_once('-')?;
    digits(no)?;
    Some((stem, digits(count)?))
}

/// Bytes whose first is aligned to 16, so that kernels may read numbers in place; copied only where they are not.
/// Maps and vectors are aligned in practice, but nothing promises it of a slice.
fn aligned(bytes: Bytes) -> Bytes {
    /// `u128`s read as bytes.
    struct Words(Vec<u128>);
    impl AsRef<[u8]> for Words {
        fn as_ref(&self) -> &[u8] {
            bytemuck::cast_slice(&self.0)
        }
    }
    impl pumice_kernels::bytes::Owner for Words {}
    let len = bytes.len();
    if bytes.as_ptr().addr().is_multiple_of(align_of::<u128>()) {
        return bytes;
    }
    let mut words = vec![0u128; len.div_ceil(size_of::<u128>())];
    bytemuck::cast_slice_mut(&mut words)[..len].copy_from_slice(&bytes);
    let copy = Bytes::new(Words(words));
    copy.slice(0..len).unwrap_or(copy)
}
