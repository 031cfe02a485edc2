//! A PyTorch `.bin` or `.pt` file (since 1.6): a zip of one pickle, `NAME/data.pkl`, and one file per storage,
//! `NAME/data/KEY`, none of them compressed.
//!
//! Storages stay where they are in the map. Tensors whose elements do not lie in row-major order (a saved transpose)
//! are gathered into memory at opening; they are rare and small, and a file may claim no more of them than it is long.

use std::{collections::HashMap, io::Cursor, ops::Range, path::Path, sync::Arc};

use pumice_kernels::Bytes;
use zip::{CompressionMethod, ZipArchive};

use super::{
    pickle::{self, Stored},
    tensor::Tensor,
};
use crate::{Error, Result};

/// What to do about damage.
const FETCH: &str = "the file is cut short or damaged, fetch it again";
/// How to modernise a file, for messages.
const RESAVE: &str = "save it again with a current PyTorch: `torch.save(torch.load(FILE, \
    map_location=\"cpu\", weights_only=True), FILE)`";

/// Whether `data` begins like a zip.
pub(super) fn is_zip(data: &[u8]) -> bool {
    data.starts_with(b"PK\x03\x04")
}

/// The refusal of a PyTorch file that is no zip, if `data` begins like one.
pub(super) fn legacy(path: &Path, data: &[u8]) -> Option<Error> {
    // PROTO 2, LONG1 of 10 bytes: torch.save's magic number from before 1.6.
    data.starts_with(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19").then(|| {
        Error::unsupported(path, format!("is a PyTorch file from before version 1.6 (no zip); {RESAVE}"))
    })
}

/// All tensors of the file at `path` with contents `data`, in the order of its dictionary.
pub(super) fn tensors(path: &Path, data: &Bytes) -> Result<Vec<Tensor>> {
    let entries = entries(path, data)?;
    let pickles: Vec<&str> = entries.keys().filter_map(|name| name.strip_suffix("data.pkl")).collect();
    let &[prefix] = pickles.as_slice() else {
        return Err(Error::unsupported(
            path,
            "is a zip but no PyTorch checkpoint (which holds one data.pkl); give a .bin, .pt or \
                .safetensors file",
        ));
    };
    let range = |name: &str| entries.get(&format!("{prefix}{name}")).cloned();
    if range("byteorder").is_some_and(|r| &data[r] == b"big") {
        return Err(Error::unsupported(path, format!("is big-endian; {RESAVE} on a little-endian machine")));
    }
    let Some(at) = range("data.pkl") else {
        return Err(Error::malformed(path, 0, format!("lists data.pkl without contents; {FETCH}")));
    };
    let file: Arc<Path> = path.into();
    let mut budget = data.len();
    let mut tensors = Vec::new();
    for (name, stored) in pickle::tensors(path, at.start, &data[at])? {
        let storage = range(&format!("data/{}", stored.storage)).and_then(|r| data.slice(r));
        let bytes = view(path, name, &stored, storage, &mut budget)?;
        let (name, file) = (name.to_owned(), Arc::clone(&file));
        tensors.push(Tensor { name, shape: stored.shape, element: stored.element, bytes, file });
    }
    Ok(tensors)
}

/// Where each stored file of the zip lies in `data`, by name.
fn entries(path: &Path, data: &Bytes) -> Result<HashMap<String, Range<usize>>> {
    let bad = |e: &dyn std::fmt::Display| Error::malformed(path, 0, format!("zip: {e}; {FETCH}"));
    let mut zip = ZipArchive::new(Cursor::new(&data[..])).map_err(|e| bad(&e))?;
    let mut entries = HashMap::new();
    for i in 0..zip.len() {
        let file = zip.by_index_raw(i).map_err(|e| bad(&e))?;
        let name = file.name().map_err(|e| bad(&e))?.into_owned();
        if file.compression() != CompressionMethod::Stored
            || file.encrypted()
            || file.size() != file.compressed_size()
        {
            return Err(Error::unsupported(
                path,
                format!("zip: {name:?} is compressed or encrypted, which PyTorch never does; {RESAVE}"),
            ));
        }
        let range = file.data_start().and_then(|from| {
            let to = from.checked_add(file.size())?;
            Some(usize::try_from(from).ok()?..usize::try_from(to).ok()?)
        });
        match range.filter(|r| r.end <= data.len()) {
            Some(range) => entries.insert(name, range),
            None => return Err(bad(&format!("{name:?} reaches past the file's end at {}", data.len()))),
        };
    }
    Ok(entries)
}

/// The bytes of tensor `name` in row-major order. `budget` bytes may still be copied for it and those after it.
fn view(
    path: &Path,
    name: &str,
    t: &Stored<'_>,
    storage: Option<Bytes>,
    budget: &mut usize,
) -> Result<Bytes> {
    let bad = |what: String| Error::tensor(path, name, what);
    let Some(storage) = storage else {
        return Err(bad(format!("its storage {:?} is not in the file; {FETCH}", t.storage)));
    };
    let size = t.element.bytes().ok_or_else(|| bad(format!("has elements of unknown type {}", t.element)))?;
    // Left to right, so that products of any leading dimensions are known not to overflow either.
    let elements = t.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let elements = elements.filter(|&n| n <= t.storage_len).ok_or_else(|| {
        bad(format!("shape {:?} has more elements than its storage of {}; {FETCH}", t.shape, t.storage_len))
    })?;
    if t.storage_len.checked_mul(size) != Some(storage.len()) {
        return Err(bad(format!(
            "its storage of {} {} elements has {} bytes; {FETCH}",
            t.storage_len,
            t.element,
            storage.len()
        )));
    }
    if elements == 0 {
        return Ok(Bytes::new(Vec::new()));
    }
    let outside = || {
        bad(format!(
            "shape {:?} with strides {:?} from element {} leaves its storage of {} elements; {FETCH}",
            t.shape, t.stride, t.offset, t.storage_len
        ))
    };
    if let Some(range) = t.contiguous() {
        return storage.slice(range).ok_or_else(outside);
    }
    // The last element's index; every other is smaller, so no sum below overflows.
    let last = t
        .shape
        .iter()
        .zip(&t.stride)
        .try_fold(t.offset, |at, (&n, &stride)| at.checked_add((n - 1).checked_mul(stride)?));
    if last.is_none_or(|last| last >= t.storage_len) {
        return Err(outside());
    }
    *budget = budget.checked_sub(elements * size).ok_or_else(|| {
        bad("is one of too many that are not contiguous; save them again after `.contiguous()`".into())
    })?;
    Ok(Bytes::new(gather(t, &storage, elements, size)))
}

/// Copies the elements of a strided view, last dimension fastest.
fn gather(t: &Stored<'_>, storage: &[u8], elements: usize, size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(elements * size);
    let mut index = vec![0usize; t.shape.len()];
    for _ in 0..elements {
        let at = t.offset + index.iter().zip(&t.stride).map(|(&i, &stride)| i * stride).sum::<usize>();
        out.extend_from_slice(&storage[at * size..(at + 1) * size]);
        for (i, &n) in index.iter_mut().zip(&t.shape).rev() {
            *i += 1;
            if *i < n {
                break;
            }
            *i = 0;
        }
    }
    out
}
