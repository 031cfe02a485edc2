//! A safetensors file: u64 header length, JSON header, bytes.
//!
//! The crate `safetensors` parses the header and checks that shapes match lengths and that tensors follow each other
//! without gaps. That they end inside the file is checked here instead: the crate's sum can overflow, and its message
//! does not name the tensor.

use std::{path::Path, sync::Arc};

use byteorder::{ByteOrder, LittleEndian};
use pumice_kernels::Bytes;
use safetensors::{Dtype, tensor::Metadata};

use super::tensor::{Element, Tensor};
use crate::{Error, Result};

/// The header's greatest length in bytes, as the format's own library has it.
const MAX_HEADER: u64 = 100_000_000;
/// What to do about damage.
const FETCH: &str = "the file is cut short or damaged, fetch it again";

/// All tensors of the file at `path` with contents `data`, in the order of their bytes.
pub(super) fn tensors(path: &Path, data: &Bytes) -> Result<Vec<Tensor>> {
    let Some(n) = data.get(..8).map(LittleEndian::read_u64).filter(|&n| n <= MAX_HEADER) else {
        return Err(Error::malformed(path, 0, format!("does not begin as a safetensors file does; {FETCH}")));
    };
    // At most MAX_HEADER + 8, so it fits.
    let start = 8 + n as usize;
    let Some(header) = data.get(8..start) else {
        return Err(Error::malformed(
            path,
            0,
            format!("header of {n} bytes in a file of {}; {FETCH}", data.len()),
        ));
    };
    let header: Metadata = serde_json::from_slice(header)
        .map_err(|e| Error::malformed(path, 8, format!("header is not as the format asks ({e}); {FETCH}")))?;
    let file: Arc<Path> = path.into();
    let mut infos: Vec<_> = header.tensors().into_iter().collect();
    infos.sort_by_key(|(_, info)| info.data_offsets);
    let mut tensors = Vec::with_capacity(infos.len());
    for (name, info) in infos {
        let (from, to) = info.data_offsets;
        let bad = |what: String| Error::tensor(path, &name, what);
        let range = start.checked_add(from).zip(start.checked_add(to));
        let Some(bytes) = range.and_then(|(from, to)| data.slice(from..to)) else {
            return Err(bad(format!(
                "bytes {from}..{to} of the data reach past the file's end at {}; {FETCH}",
                data.len() - start
            )));
        };
        let element = element(info.dtype);
        tensors.push(Tensor { name, shape: info.shape.clone(), element, bytes, file: Arc::clone(&file) });
    }
    Ok(tensors)
}

fn element(dtype: Dtype) -> Element {
    match dtype {
        Dtype::F64 => Element::F64,
        Dtype::F32 => Element::F32,
        Dtype::F16 => Element::F16,
        Dtype::BF16 => Element::BF16,
        Dtype::I64 => Element::I64,
        Dtype::I32 => Element::I32,
        Dtype::I16 => Element::I16,
        Dtype::I8 => Element::I8,
        Dtype::U8 => Element::U8,
        Dtype::BOOL => Element::Bool,
        Dtype::U16 => Element::Other("U16"),
        Dtype::U32 => Element::Other("U32"),
        Dtype::U64 => Element::Other("U64"),
        Dtype::C64 => Element::Other("C64"),
        Dtype::F8_E4M3 => Element::Other("F8_E4M3"),
        Dtype::F8_E5M2 => Element::Other("F8_E5M2"),
        Dtype::F8_E8M0 => Element::Other("F8_E8M0"),
        Dtype::F4 => Element::Other("F4"),
        _ => Element::Other("of a new kind"),
    }
}
