//! What the host reads and writes: pieces of buffers, and rows of caches in the formats of files.

use std::ops::Range;

use wgpu::{BufferUsages, MapMode};

use super::{
    Gpu,
    buffers::{Place, row_words},
    planes::Planes,
};
use crate::{DType, Result, Tensor, quant};

/// A piece of a buffer: its number, where it begins, its bytes. Both multiples of 4.
pub(super) type Piece = (u32, u64, u64);

impl Gpu {
    /// Submits what is recorded and hands out the bytes of `pieces` of `t`, one after the other.
    fn fetch(&mut self, t: Tensor, pieces: &[Piece], take: &mut dyn FnMut(&[u8])) -> Result<()> {
        self.seal();
        self.device.check()?;
        let bytes = pieces.iter().map(|(_, _, bytes)| bytes).sum();
        if bytes == 0 {
            return Ok(());
        }
        if !self.make_room(bytes) {
            return Err(self.out_of_memory(bytes as usize, t.rows, t.cols, t.dtype));
        }
        let Some(readback) = self.readback.clone() else { return Ok(()) };
        self.flush_then(|buffers, encoder| {
            let mut to = 0;
            for &(number, from, bytes) in pieces {
                encoder.copy_buffer_to_buffer(buffers.slots.get(number), from, &readback, to, bytes);
                to += bytes;
            }
        });
        self.device.check()?;
        let slice = readback.slice(..bytes);
        slice.map_async(MapMode::Read, |_| {});
        self.device.wait();
        self.device.check()?;
        match slice.get_mapped_range() {
            Ok(view) => take(&view),
            Err(error) => self.device.lose(error.to_string()),
        }
        readback.unmap();
        self.device.check()
    }

    /// Room of `bytes` for what is read; false where there is no memory.
    fn make_room(&mut self, bytes: u64) -> bool {
        if self.readback.as_ref().is_some_and(|b| b.size() >= bytes) {
            return true;
        }
        if let Some(small) = self.readback.take() {
            self.device.free(&small);
        }
        self.readback = self.device.buffer("read", bytes, BufferUsages::MAP_READ | BufferUsages::COPY_DST);
        self.readback.is_some()
    }

    /// Reads `src`, dequantized.
    pub(super) fn read_rows(&mut self, dst: &mut [f32], src: Tensor) -> Result<()> {
        match src.dtype {
            DType::F32 => {
                let pieces = self.pieces(src);
                self.fetch(src, &pieces, &mut |bytes| bytemuck::cast_slice_mut(dst).copy_from_slice(bytes))
            }
            DType::F16 => {
                let pieces = self.pieces(src);
                self.fetch(src, &pieces, &mut |bytes| quant::dequantize(DType::F16, bytes, dst))
            }
            DType::Q8_0 => {
                self.seal();
                let mut at = 0;
                for place in self.buffers.places(src) {
                    let rows = place.first..place.first + place.rows;
                    let blocks = self.blocks(src, &place, rows)?;
                    let len = place.rows * src.cols;
                    quant::dequantize(DType::Q8_0, &blocks, &mut dst[at..at + len]);
                    at += len;
                }
                Ok(())
            }
            other => panic!("read: a tensor of {}×{} {other}", src.rows, src.cols),
        }
    }

    /// The pieces that the rows of `t` lie in, which has no planes.
    fn pieces(&mut self, t: Tensor) -> Vec<Piece> {
        self.seal();
        let row = 4 * row_words(t.dtype, t.cols) as u64;
        let places = self.buffers.places(t);
        places.iter().map(|p| (p.buffer, 4 * u64::from(p.at), row * p.rows as u64)).collect()
    }

    /// `rows` of the part that `place` of a Q8_0 cache lies in, as blocks of a file.
    fn blocks(&mut self, t: Tensor, place: &Place, rows: Range<usize>) -> Result<Vec<u8>> {
        let planes = Planes::new(DType::Q8_0, place.part_rows, t.cols);
        // From a whole word of scales on.
        let first = rows.start / planes.step() * planes.step();
        let end = rows.end.next_multiple_of(planes.step()).min(place.part_rows);
        let [codes, _, scales] = planes.ranges(first..end);
        let split = (codes.end - codes.start) as usize;
        let pieces = [codes, scales].map(|range| (place.buffer, range.start, range.end - range.start));
        let mut blocks = Vec::new();
        self.fetch(t, &pieces, &mut |bytes| {
            let (codes, scales) = bytes.split_at(split);
            for (codes, scale) in codes.chunks_exact(32).zip(scales.chunks_exact(2)) {
                blocks.extend(scale);
                blocks.extend(codes);
            }
        })?;
        let row = DType::Q8_0.row_bytes(t.cols).unwrap_or(0);
        Ok(blocks[(rows.start - first) * row..(rows.end - first) * row].to_vec())
    }

    /// Writes rows of a Q8_0 cache, blocks as in a file. Where a word holds scales of a row before or after, that row is written
    /// once more as it was.
    pub(super) fn write_blocks(&mut self, t: Tensor, place: &Place, bytes: &[u8]) -> Result<()> {
        let planes = Planes::new(DType::Q8_0, place.part_rows, t.cols);
        let rows = place.first..place.first + place.rows;
        let first = rows.start / planes.step() * planes.step();
        let end = rows.end.next_multiple_of(planes.step()).min(place.part_rows);
        let mut all = Vec::new();
        if first < rows.start {
            all = self.blocks(t, place, first..rows.start)?;
        }
        all.extend(bytes);
        if rows.end < end {
            all.extend(self.blocks(t, place, rows.end..end)?);
        }
        let buffer = self.buffers.slots.get(place.buffer).clone();
        self.put(&buffer, 0, &planes, first..end, &all);
        Ok(())
    }
}
