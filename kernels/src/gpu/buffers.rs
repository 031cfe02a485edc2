//! Where tensors lie: wgpu buffers by number, and the rows of each tensor in them.
//!
//! Weights that are loaded one after the other share an arena, so that a fused product finds both of its weights in one
//! binding; each is re-laid into planes on its way (`planes.rs`). Everything else has buffers of its own. A tensor larger
//! than a binding may be is cut into parts of whole rows.

use std::{collections::HashMap, ops::Range};

use wgpu::{Buffer, BufferUsages};

use super::{device::Device, planes::Planes, upload::weight};
use crate::{Bytes, DType, Tensor};

/// All buffers of tensors can be written, read back and bound.
pub(super) const STORAGE: BufferUsages =
    BufferUsages::STORAGE.union(BufferUsages::COPY_DST).union(BufferUsages::COPY_SRC);

/// wgpu buffers by number. Numbers are not used again, so that what is kept by them cannot be mistaken.
#[derive(Default)]
pub(super) struct Slots {
    buffers: HashMap<u32, Buffer>,
    next: u32,
}

impl Slots {
    /// Takes `buffer` and gives it a number.
    pub fn add(&mut self, buffer: Buffer) -> u32 {
        let number = self.next;
        self.next += 1;
        self.buffers.insert(number, buffer);
        number
    }

    /// Buffer `number`.
    pub fn get(&self, number: u32) -> &Buffer {
        &self.buffers[&number]
    }

    /// Lets buffer `number` go.
    pub fn remove(&mut self, number: u32) -> Option<Buffer> {
        self.buffers.remove(&number)
    }
}

/// Where the planes of a weight begin in its buffer. See `planes.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Weight {
    /// Codes, in units of 16 bytes.
    pub quants: u32,
    /// Their high bits, in words.
    pub high: u32,
    /// Scales, in words.
    pub scales: u32,
}

/// Rows of a tensor that lie together.
#[derive(Debug, Clone)]
pub(super) struct Part {
    /// Which rows of the tensor.
    pub rows: Range<usize>,
    pub buffer: u32,
    /// Where they begin, in words.
    pub at: u32,
    /// Where their planes begin, for types that have planes.
    pub planes: Weight,
}

/// A tensor's parts, in order of rows.
#[derive(Debug, Default)]
pub(super) struct Stored {
    pub parts: Vec<Part>,
    /// Integers, and single rows of floats that the host wrote: a copy.
    pub host: Option<Vec<u32>>,
}

/// Rows of a view that lie together: what a dispatch can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub buffer: u32,
    /// The first of them, counted in the view's rows.
    pub from: usize,
    /// How many.
    pub rows: usize,
    /// The first of them, counted in the rows of their part: what planes are indexed by.
    pub first: usize,
    /// Where the first of them begins, in words (types without planes).
    pub at: u32,
    /// Rows of their part.
    pub part_rows: usize,
    /// Where the planes of the part begin.
    pub planes: Weight,
}

/// Tensors by number.
#[derive(Default)]
pub(super) struct Buffers {
    pub slots: Slots,
    pub tensors: Vec<Stored>,
    /// Weights whose bytes are still in the file.
    pub pending: Vec<(Tensor, Bytes)>,
}

/// Words of a row without planes: F32, I32, or F16 of even width.
pub(super) fn row_words(dtype: DType, cols: usize) -> usize {
    match dtype {
        DType::F32 | DType::I32 => cols,
        DType::F16 => {
            assert!(cols.is_multiple_of(2), "rows of {cols} halves are no whole words");
            cols / 2
        }
        other => panic!("rows of {other} have planes"),
    }
}

impl Buffers {
    /// The places of `t`'s rows, in order.
    pub fn places(&self, t: Tensor) -> Vec<Place> {
        self.each_place(t).collect()
    }

    fn each_place(&self, t: Tensor) -> impl Iterator<Item = Place> {
        let parts = self.tensors[t.buffer as usize].parts.iter();
        let view = t.first..t.first + t.rows;
        parts.filter_map(move |part| {
            let (start, end) = (view.start.max(part.rows.start), view.end.min(part.rows.end));
            (start < end).then(|| {
                let first = start - part.rows.start;
                let words = match t.dtype {
                    DType::F32 | DType::I32 => t.cols,
                    DType::F16 => t.cols.div_ceil(2),
                    _ => 0,
                };
                Place {
                    buffer: part.buffer,
                    from: start - view.start,
                    rows: end - start,
                    first,
                    part_rows: part.rows.len(),
                    at: part.at + (first * words) as u32,
                    planes: part.planes,
                }
            })
        })
    }

    /// The place of `t`, where it has only one.
    pub fn whole(&self, t: Tensor) -> Option<Place> {
        let mut places = self.each_place(t);
        let first = places.next();
        if places.next().is_none() { first } else { None }
    }

    /// The one place of `t`, which is small enough to have one: weights of norms, biases, ids, positions.
    pub fn place(&self, t: Tensor) -> Place {
        self.whole(t).unwrap_or_else(|| panic!("{t:?} lies in {} parts", self.places(t).len()))
    }

    /// The rows that tensors of equally many rows can take together: stretches in which each of them has one place.
    pub fn stretches(&self, tensors: &[Tensor]) -> Vec<Range<usize>> {
        let rows = tensors[0].rows;
        let mut cuts = vec![0, rows];
        cuts.extend(tensors.iter().flat_map(|t| self.places(*t)).map(|place| place.from));
        cuts.sort_unstable();
        cuts.dedup();
        cuts.windows(2).map(|cut| cut[0]..cut[1]).collect()
    }

    /// Parts for a tensor of `rows`×`cols`, in new buffers; `None` where there is no memory.
    pub fn alloc(
        &mut self,
        device: &mut Device,
        (rows, cols): (usize, usize),
        dtype: DType,
    ) -> Option<Vec<Part>> {
        let planes = |rows| Planes::new(dtype, rows, cols);
        let bytes = |rows: usize| match dtype {
            DType::Q8_0 => planes(rows).bytes,
            DType::F16 => (4 * rows * cols.div_ceil(2)) as u64,
            _ => (4 * rows * row_words(dtype, cols)) as u64,
        };
        let mut per_part = rows.max(1);
        while per_part > 1 && bytes(per_part) > device.facts.segment_bytes {
            per_part = per_part.div_ceil(2);
        }
        let mut parts = Vec::new();
        for start in (0..rows.max(1)).step_by(per_part) {
            let end = rows.min(start + per_part);
            let Some(buffer) = device.buffer("tensor", bytes(end - start), STORAGE) else {
                for part in parts {
                    let Part { buffer, .. } = part;
                    self.slots.remove(buffer).iter().for_each(|b| device.free(b));
                }
                return None;
            };
            let weight =
                if dtype == DType::Q8_0 { weight(&planes(end - start), 0) } else { Weight::default() };
            parts.push(Part { rows: start..end, buffer: self.slots.add(buffer), at: 0, planes: weight });
        }
        Some(parts)
    }
}
