//! Weights on their way to the device: arenas, and pieces of a mapped file.
//!
//! `load` only notes what is wanted; the tensors of a layer are then laid out together (`seal`), so that those which one
//! product reads share an arena. They go over in pieces of some MiB, re-laid one after the other, and each piece is on the
//! device before the next is made: beside the file's own pages, which the system may drop, there is no second copy.

use std::ops::Range;

use super::{
    Gpu,
    buffers::{Part, STORAGE, Weight},
    planes::Planes,
};
use crate::{Bytes, Tensor};

/// Bytes of a file that are re-laid and sent at once.
const PIECE_BYTES: usize = 8 << 20;

/// A weight's rows that go to one arena.
struct Load {
    tensor: Tensor,
    bytes: Bytes,
    rows: Range<usize>,
    planes: Planes,
    /// Where they begin in the arena, in bytes.
    at: u64,
}

impl Gpu {
    /// Gives the weights that wait their place on the device and their bytes. What fails is kept for the next call that can say so.
    pub(super) fn seal(&mut self) {
        let pending = std::mem::take(&mut self.buffers.pending);
        if self.device.failed() {
            return;
        }
        let segment = self.device.facts.segment_bytes;
        let mut arena: Vec<Load> = Vec::new();
        let mut taken = 0;
        for (tensor, bytes) in pending {
            let mut first = 0;
            while first < tensor.rows {
                let rows = first..first + rows_within(tensor, first, segment);
                let planes = Planes::new(tensor.dtype, rows.len(), tensor.cols);
                if taken + planes.bytes > segment && !arena.is_empty() {
                    self.send(std::mem::take(&mut arena), taken);
                    taken = 0;
                }
                first = rows.end;
                taken += planes.bytes;
                let at = taken - planes.bytes;
                arena.push(Load { tensor, bytes: bytes.clone(), rows, planes, at });
            }
        }
        self.send(arena, taken);
    }

    /// Makes an arena of `bytes` and fills it.
    fn send(&mut self, loads: Vec<Load>, bytes: u64) {
        let Some(tensor) = loads.first().map(|load| load.tensor) else { return };
        if self.device.failed() {
            return;
        }
        let Some(buffer) = self.device.buffer("weights", bytes, STORAGE) else {
            return self.device.starve(bytes as usize, tensor.rows, tensor.cols, tensor.dtype);
        };
        let number = self.buffers.slots.add(buffer.clone());
        for Load { tensor, bytes, rows, planes, at } in loads {
            let row_bytes = bytes.len() / tensor.rows;
            let file = &bytes[rows.start * row_bytes..rows.end * row_bytes];
            let step = (PIECE_BYTES / row_bytes).max(1).next_multiple_of(planes.step());
            for first in (0..rows.len()).step_by(step) {
                let end = rows.len().min(first + step);
                self.put(&buffer, at, &planes, first..end, &file[first * row_bytes..end * row_bytes]);
                // Else all pieces would wait in memory for the first submission.
                self.device.queue.submit([]);
                self.device.wait();
            }
            bytes.release();
            let part = Part { rows, buffer: number, at: (at / 4) as u32, planes: weight(&planes, at) };
            self.buffers.tensors[tensor.buffer as usize].parts.push(part);
        }
    }

    /// Writes `rows` of a part whose planes begin at byte `at` of `buffer`; `src` are their bytes in GGUF layout.
    pub(super) fn put(
        &self,
        buffer: &wgpu::Buffer,
        at: u64,
        planes: &Planes,
        rows: Range<usize>,
        src: &[u8],
    ) {
        let ranges = planes.ranges(rows.clone());
        let mut relaid = ranges.clone().map(|range| vec![0; (range.end - range.start) as usize]);
        planes.relay(src, rows.len(), relaid.each_mut().map(Vec::as_mut_slice));
        for (range, bytes) in ranges.iter().zip(&relaid) {
            self.device.queue.write_buffer(buffer, at + range.start, bytes);
        }
    }
}

/// Where planes that begin at byte `at` of a buffer lie for the shaders.
pub(super) fn weight(planes: &Planes, at: u64) -> Weight {
    let [quants, high, scales] = planes.at;
    let word = |plane: u64| ((at + plane) / 4) as u32;
    Weight { quants: ((at + quants) / 16) as u32, high: word(high), scales: word(scales) }
}

/// How many rows of `tensor` from `first` on a segment of so many bytes holds; at least one.
fn rows_within(tensor: Tensor, first: usize, segment: u64) -> usize {
    let all = tensor.rows - first;
    let planes = Planes::new(tensor.dtype, all, tensor.cols);
    if planes.bytes <= segment {
        return all;
    }
    // Each plane may be rounded up to its alignment.
    let room = segment.saturating_sub(3 * super::planes::ALIGN);
    ((room / planes.row_bytes().max(1) as u64) as usize).clamp(1, all)
}
