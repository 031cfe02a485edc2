//! One GGUF file (or one shard of several) from bytes to keys and tensor infos.
//!
//! Layout, all little-endian: `"GGUF"`, u32 version, u64 tensors, u64 keys; per key its name, u32 type, value; per
//! tensor its name, u32 dimensions, u64 each, u32 ggml type, u64 offset into the data; padding to the alignment; data.
//! Versions 2 and 3 differ only in that 3 allows big-endian files, which are refused here. Every count is held against
//! the bytes that are left before anything is allocated for it, so a lying header costs no memory.

use std::{collections::HashSet, path::Path};

use byteorder::{ByteOrder, LittleEndian};
use pumice_kernels::{Bytes, DType};

use super::{
    ALIGNMENT_KEY, Array, DEFAULT_ALIGNMENT, MAX_DEPTH, TensorInfo, Value,
    types::{block, type_name},
    value::TYPE_NAMES,
};
use crate::{Error, Result};

/// Keys and tensor infos must lie within this many bytes. The largest vocabularies take some 20 MB; the bound keeps a
/// damaged count from copying gigabytes of weights into "metadata".
const MAX_HEADER: usize = 256 << 20;
/// Dimensions that ggml knows.
const MAX_DIMS: u32 = 4;
/// What to do about most damage.
const FETCH: &str = "the file is cut short or damaged, fetch or make it again";

/// What one file holds.
pub(super) struct Part {
    pub keys: Vec<(String, Value)>,
    pub tensors: Vec<TensorInfo>,
}

/// Reads keys and tensor infos of `data`, the contents of the file at `path`, which is part number `part`.
pub(super) fn part(path: &Path, data: &Bytes, part: usize) -> Result<Part> {
    let file_len = data.len();
    let mut c = Cursor { path, data: &data[..file_len.min(MAX_HEADER)], at: 0 };
    c.magic()?;
    // A tensor info takes at least 24 bytes (length, dimensions, type, offset), a key 13 (length, type, one byte).
    let n_tensors = c.count(24, "number of tensors")?;
    let n_keys = c.count(13, "number of keys")?;

    let mut keys = Vec::new();
    let mut seen = HashSet::new();
    for _ in 0..n_keys {
        let at = c.at;
        let key = c.string("name of a key")?;
        if !seen.insert(key.clone()) {
            return Err(c.bad(at, format!("key {key:?} stands twice; {FETCH}")));
        }
        let id = c.u32(&key)?;
        let value = c.value(id, &key)?;
        keys.push((key, value));
    }
    let alignment = alignment(&c, &keys)?;

    let mut tensors = Vec::new();
    let mut places = Vec::new();
    let mut seen = HashSet::new();
    for _ in 0..n_tensors {
        let at = c.at;
        let (info, offset) = c.tensor(part)?;
        if !seen.insert(info.name.clone()) {
            return Err(c.bad(at, format!("tensor {:?} stands twice; {FETCH}", info.name)));
        }
        tensors.push(info);
        places.push((at, offset));
    }
    // Cannot overflow: `at` is at most MAX_HEADER and the alignment at most MAX_ALIGNMENT.
    let data_start = c.at.next_multiple_of(alignment);
    for (t, (at, offset)) in tensors.iter_mut().zip(places) {
        t.start = place(&c, t, at, offset, data_start, file_len, alignment)?;
    }
    no_overlap(path, &tensors)?;
    Ok(Part { keys, tensors })
}

/// The file's alignment in bytes.
fn alignment(c: &Cursor<'_>, keys: &[(String, Value)]) -> Result<usize> {
    let Some((_, value)) = keys.iter().find(|(k, _)| k == ALIGNMENT_KEY) else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    check_alignment(value).map_err(|what| Error::key(c.path, ALIGNMENT_KEY, what))
}

/// The alignment that `value` asks for, or what is wrong with it.
///
/// GGUF asks for a multiple of 8, llama.cpp for a power of two; 1 MiB is beyond any page size in use.
pub(super) fn check_alignment(value: &Value) -> std::result::Result<usize, String> {
    let n = value.as_integer().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    if n.is_power_of_two() && (8..=1 << 20).contains(&n) {
        return Ok(n);
    }
    Err(format!("{value:?} is no alignment; it must be a power of two from 8 to 1048576. {FETCH}"))
}

/// The tensor's first byte in the file, checked: aligned, inside the file.
fn place(
    c: &Cursor<'_>,
    t: &TensorInfo,
    at: usize,
    offset: u64,
    data_start: usize,
    file_len: usize,
    alignment: usize,
) -> Result<usize> {
    let name = &t.name;
    if !offset.is_multiple_of(alignment as u64) {
        return Err(c.bad(
            at,
            format!(
                "tensor {name:?} starts at offset {offset}, no multiple of the alignment {alignment}; {FETCH}"
            ),
        ));
    }
    let start = usize::try_from(offset).ok().and_then(|o| o.checked_add(data_start));
    let end = start.and_then(|s| s.checked_add(t.bytes));
    match (start, end) {
        (Some(start), Some(end)) if end <= file_len => Ok(start),
        _ => Err(c.bad(
            at,
            format!(
                "tensor {name:?} ({} bytes at offset {offset} of the data, which starts at byte \
                    {data_start}) reaches past the file's end at {file_len}; {FETCH}",
                t.bytes
            ),
        )),
    }
}

/// Refuses two tensors that share bytes.
fn no_overlap(path: &Path, tensors: &[TensorInfo]) -> Result<()> {
    let mut order: Vec<&TensorInfo> = tensors.iter().filter(|t| t.bytes > 0).collect();
    order.sort_by_key(|t| t.start);
    match order.windows(2).find(|w| w[0].start + w[0].bytes > w[1].start) {
        Some(w) => Err(Error::malformed(
            path,
            w[1].start as u64,
            format!("tensors {:?} and {:?} overlap; {FETCH}", w[0].name, w[1].name),
        )),
        None => Ok(()),
    }
}

/// A place in the header.
struct Cursor<'a> {
    path: &'a Path,
    data: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn bad(&self, at: usize, what: String) -> Error {
        Error::malformed(self.path, at as u64, what)
    }

    /// The next `n` bytes.
    fn take(&mut self, n: usize, what: &str) -> Result<&'a [u8]> {
        let left = self.data.len() - self.at;
        if n > left {
            return Err(self.bad(self.at, format!("{what}: needs {n} bytes, {left} are left; {FETCH}")));
        }
        let bytes = &self.data[self.at..self.at + n];
        self.at += n;
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(LittleEndian::read_u32(self.take(4, what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(LittleEndian::read_u64(self.take(8, what)?))
    }

    /// A u64 count of things that take at least `least` bytes each, held against the bytes left.
    fn count(&mut self, least: usize, what: &str) -> Result<usize> {
        let at = self.at;
        let n = self.u64(what)?;
        let left = self.data.len() - self.at;
        match usize::try_from(n).ok().filter(|n| n.checked_mul(least).is_some_and(|b| b <= left)) {
            Some(n) => Ok(n),
            None => Err(self.bad(
                at,
                format!(
                    "{what}: {n} of at least {least} bytes each cannot fit in the {left} bytes left; {FETCH}"
                ),
            )),
        }
    }

    fn string(&mut self, what: &str) -> Result<String> {
        let n = self.count(1, what)?;
        let at = self.at;
        let bytes = self.take(n, what)?;
        match std::str::from_utf8(bytes) {
            Ok(s) => Ok(s.to_owned()),
            Err(e) => Err(self.bad(at + e.valid_up_to(), format!("{what}: text is not UTF-8; {FETCH}"))),
        }
    }

    /// Magic and version.
    fn magic(&mut self) -> Result<()> {
        let magic = self.data.get(..4).unwrap_or(self.data);
        let refuse = |what: &str| Err(Error::unsupported(self.path, what));
        match magic {
            b"GGUF" => {}
            b"ggml" | b"lmgg" | b"fmgg" | b"tjgg" | b"algg" => {
                return refuse(
                    "is a GGML file from before GGUF (2023); download the model's GGUF version or convert \
                        the checkpoint with `pumice quantize`",
                );
            }
            [b'P', b'K', 3, 4] => {
                return refuse(
                    "is a zip (a PyTorch checkpoint?), no GGUF file; make one from the checkpoint with \
                        `pumice quantize`",
                );
            }
            _ if self.data.starts_with(b"version https://git-lfs") => {
                return refuse("is a Git LFS pointer, not the model itself; fetch it with `git lfs pull`");
            }
            _ if self.data.is_empty() => return refuse("is empty; fetch or make it again"),
            _ => {
                return refuse(
                    "is no GGUF file (it does not begin with \"GGUF\"); give a .gguf file, or make one \
                        with `pumice quantize`",
                );
            }
        }
        self.at = 4;
        match self.u32("version")? {
            2 | 3 => Ok(()),
            1 => refuse(
                "is GGUF version 1 (August 2023), which is no longer read; download a newer file or \
                    convert the checkpoint again",
            ),
            v if v & 0xffff == 0 => refuse(
                "is a big-endian GGUF file; convert it with gguf-py's `gguf-convert-endian FILE little`",
            ),
            v => Err(Error::unsupported(
                self.path,
                format!(
                    "is GGUF version {v}; Pumice reads 2 and 3. Update Pumice, or fetch the file again if \
                        it should be older"
                ),
            )),
        }
    }

    /// A value of type `id`.
    fn value(&mut self, id: u32, key: &str) -> Result<Value> {
        let at = self.at;
        Ok(match id {
            0 => Value::U8(self.take(1, key)?[0]),
            1 => Value::I8(self.take(1, key)?[0] as i8),
            2 => Value::U16(LittleEndian::read_u16(self.take(2, key)?)),
            3 => Value::I16(LittleEndian::read_i16(self.take(2, key)?)),
            4 => Value::U32(self.u32(key)?),
            5 => Value::I32(self.u32(key)? as i32),
            6 => Value::F32(f32::from_bits(self.u32(key)?)),
            7 => Value::Bool(self.bools(1, key)?[0]),
            8 => Value::String(self.string(key)?),
            9 => Value::Array(self.array(key, 1)?),
            10 => Value::U64(self.u64(key)?),
            11 => Value::I64(self.u64(key)? as i64),
            12 => Value::F64(f64::from_bits(self.u64(key)?)),
            _ => {
                return Err(
                    self.bad(at - 4, format!("key {key:?} has value type {id}, GGUF knows 0 to 12; {FETCH}"))
                );
            }
        })
    }

    fn bools(&mut self, n: usize, key: &str) -> Result<Vec<bool>> {
        let at = self.at;
        let bytes = self.take(n, key)?;
        match bytes.iter().position(|&b| b > 1) {
            Some(i) => {
                Err(self.bad(at + i, format!("{key}: a bool is {}, it must be 0 or 1; {FETCH}", bytes[i])))
            }
            None => Ok(bytes.iter().map(|&b| b == 1).collect()),
        }
    }

    /// An array, `depth` deep (1 = a value itself).
    fn array(&mut self, key: &str, depth: usize) -> Result<Array> {
        let at = self.at;
        let id = self.u32(key)?;
        // The fewest bytes that an element takes; a string has a length, an array a type and a count.
        let least = [1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8];
        let Some(&least) = least.get(id as usize) else {
            return Err(self.bad(at, format!("{key}: array of type {id}, GGUF knows 0 to 12; {FETCH}")));
        };
        let n = self.count(least, &format!("{key} (arr[{}])", TYPE_NAMES[id as usize]))?;
        macro_rules! numbers {
            ($variant:ident, $zero:expr, $read:ident) => {{
                let mut v = vec![$zero; n];
                LittleEndian::$read(self.take(n * least, key)?, &mut v);
                Array::$variant(v)
            }};
        }
        Ok(match id {
            0 => Array::U8(self.take(n, key)?.to_vec()),
            1 => Array::I8(self.take(n, key)?.iter().map(|&b| b as i8).collect()),
            2 => numbers!(U16, 0, read_u16_into),
            3 => numbers!(I16, 0, read_i16_into),
            4 => numbers!(U32, 0, read_u32_into),
            5 => numbers!(I32, 0, read_i32_into),
            6 => numbers!(F32, 0.0, read_f32_into),
            7 => Array::Bool(self.bools(n, key)?),
            8 => Array::String((0..n).map(|_| self.string(key)).collect::<Result<_>>()?),
            9 if depth >= MAX_DEPTH => {
                return Err(self.bad(at, format!("{key}: arrays nested more than {MAX_DEPTH} deep; {FETCH}")));
            }
            9 => Array::Array((0..n).map(|_| self.array(key, depth + 1)).collect::<Result<_>>()?),
            10 => numbers!(U64, 0, read_u64_into),
            11 => numbers!(I64, 0, read_i64_into),
            _ => numbers!(F64, 0.0, read_f64_into),
        })
    }

    /// A tensor info and its offset into the data, the latter not yet checked.
    fn tensor(&mut self, part: usize) -> Result<(TensorInfo, u64)> {
        let at = self.at;
        let name = self.string("name of a tensor")?;
        let what = format!("tensor {name:?}");
        let n_dims = self.u32(&what)?;
        if n_dims > MAX_DIMS {
            return Err(self.bad(
                at,
                format!("{what} has {n_dims} dimensions, at most {MAX_DIMS} are possible; {FETCH}"),
            ));
        }
        let dims: Vec<u64> = (0..n_dims).map(|_| self.u64(&what)).collect::<Result<_>>()?;
        let ggml_type = self.u32(&what)?;
        let offset = self.u64(&what)?;
        let (dims, bytes) =
            size(&dims, ggml_type).map_err(|e| self.bad(at, format!("{what} {dims:?}: {e}; {FETCH}")))?;
        let dtype = DType::from_ggml(ggml_type);
        Ok((TensorInfo { name, dims, ggml_type, dtype, bytes, part, start: 0 }, offset))
    }
}

/// Dimensions as usize and the bytes that they take in type `id` (0 where its size is unknown), or what is wrong.
pub(super) fn size(dims: &[u64], id: u32) -> std::result::Result<(Vec<usize>, usize), String> {
    let too_large = || "more elements than this machine can count".to_owned();
    let dims: Option<Vec<usize>> = dims.iter().map(|&d| usize::try_from(d).ok()).collect();
    let dims = dims.ok_or_else(too_large)?;
    if dims.contains(&0) {
        return Err("a dimension is 0".into());
    }
    let elements = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or_else(too_large)?;
    let Some((len, block_bytes)) = block(id) else {
        return Ok((dims, 0));
    };
    if !dims.first().unwrap_or(&1).is_multiple_of(len) {
        return Err(format!("rows are no multiple of the {len} elements of a {} block", type_name(id)));
    }
    let bytes = (elements / len).checked_mul(block_bytes).ok_or_else(too_large)?;
    Ok((dims, bytes))
}
