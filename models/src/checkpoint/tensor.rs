//! A tensor of a checkpoint: PyTorch's shape, element type and mapped bytes, and the way from there to f32.
//!
//! Checkpoints are larger than memory, so conversion is by ranges of elements: a quantizer asks for a few rows at a
//! time and the map pages in only those.

use std::{fmt, path::Path, sync::Arc};

use half::{f16, slice::HalfFloatSliceExt};
use pumice_kernels::Bytes;

use crate::{Error, Result};

/// The type of a checkpoint's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Element {
    /// IEEE 754 double.
    F64,
    /// IEEE 754 single.
    F32,
    /// IEEE 754 half.
    F16,
    /// bfloat16.
    BF16,
    /// Signed 64-bit.
    I64,
    /// Signed 32-bit.
    I32,
    /// Signed 16-bit.
    I16,
    /// Signed 8-bit.
    I8,
    /// Unsigned 8-bit; bitsandbytes keeps packed 4-bit weights in these.
    U8,
    /// One byte, 0 or 1.
    Bool,
    /// A type of the safetensors format that no LLaVA checkpoint needs, by its name there: `F8_E4M3`. Such tensors can
    /// be listed and skipped.
    Other(&'static str),
}

impl Element {
    /// Bytes of an element; `None` for [`Element::Other`].
    pub fn bytes(self) -> Option<usize> {
        match self {
            Element::F64 | Element::I64 => Some(8),
            Element::F32 | Element::I32 => Some(4),
            Element::F16 | Element::BF16 | Element::I16 => Some(2),
            Element::I8 | Element::U8 | Element::Bool => Some(1),
            Element::Other(_) => None,
        }
    }

    /// The name of the type, as safetensors spells it.
    pub fn name(self) -> &'static str {
        match self {
            Element::F64 => "F64",
            Element::F32 => "F32",
            Element::F16 => "F16",
            Element::BF16 => "BF16",
            Element::I64 => "I64",
            Element::I32 => "I32",
            Element::I16 => "I16",
            Element::I8 => "I8",
            Element::U8 => "U8",
            Element::Bool => "BOOL",
            Element::Other(name) => name,
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A tensor of a checkpoint. Elements lie in row-major order without gaps.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// The name in the checkpoint: `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// PyTorch's shape, slowest dimension first: `[m, k]` of a Linear from k to m.
    pub shape: Vec<usize>,
    /// The type of the elements.
    pub element: Element,
    /// The elements, little-endian. Not always aligned to their size.
    pub bytes: Bytes,
    /// The file that holds the tensor.
    pub file: Arc<Path>,
}

impl Tensor {
    /// How many elements; 1 for a scalar (shape `[]`).
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Elements of a row: the last dimension, 1 for a scalar.
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Rows: the product of all dimensions but the last.
    pub fn rows(&self) -> usize {
        self.shape.split_last().map_or(1, |(_, rest)| rest.iter().product())
    }

    /// Converts elements `first .. first + out.len()`, counted in row-major order, to f32 (F64 is rounded).
    ///
    /// # Errors
    /// The elements are no floats, or the range leaves the tensor.
    pub fn to_f32(&self, first: usize, out: &mut [f32]) -> Result<()> {
        let size = match self.element {
            Element::F64 => 8,
            Element::F32 => 4,
            Element::F16 | Element::BF16 => 2,
            other => {
                return Err(self.bad(format!(
                    "has elements of type {other} where floats are needed; a checkpoint quantized by \
                        other software must be saved in float16 first"
                )));
            }
        };
        let range = first
            .checked_add(out.len())
            .and_then(|end| Some(first.checked_mul(size)?..end.checked_mul(size)?));
        let Some(bytes) = range.and_then(|r| self.bytes.get(r)) else {
            return Err(self.bad(format!(
                "elements {first}..{} asked of shape {:?}",
                first.saturating_add(out.len()),
                self.shape
            )));
        };
        match self.element {
            Element::F64 => each(bytes, out, |b| f64::from_le_bytes(b) as f32),
            Element::F32 => each(bytes, out, f32::from_le_bytes),
            Element::BF16 => each(bytes, out, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
            _ => halves(bytes, out),
        }
        Ok(())
    }

    fn bad(&self, what: String) -> Error {
        Error::tensor(&self.file, &self.name, what)
    }
}

/// Converts `N` bytes at a time.
fn each<const N: usize>(bytes: &[u8], out: &mut [f32], convert: impl Fn([u8; N]) -> f32) {
    for (o, b) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *o = convert(*b);
    }
}

/// f16 to f32 by the slice, which takes the machine's conversion instruction where it has one.
fn halves(bytes: &[u8], out: &mut [f32]) {
    /// Elements at a time: 2 KB of stack, long enough to hide the call.
    const CHUNK: usize = 1024;
    let mut buffer = [f16::ZERO; CHUNK];
    for (o, b) in out.chunks_mut(CHUNK).zip(bytes.chunks(2 * CHUNK)) {
        let buffer = &mut buffer[..o.len()];
        for (h, b) in buffer.iter_mut().zip(b.as_chunks::<2>().0) {
            *h = f16::from_le_bytes(*b);
        }
        buffer.convert_to_f32_slice(o);
    }
}
