//! How weights lie on the device: blocks of a file taken apart into planes of one kind of data each.
//!
//! A block of 18 or 210 bytes is nowhere aligned, and lanes that read neighbouring blocks read neither whole words nor
//! neighbouring ones. In planes every lane reads the 16 bytes beside those that its neighbour reads. Nothing is rounded
//! and nothing grows, but for the scale of `Q6_K`, which becomes a word (1 % of its bytes), and rows of 16-bit floats,
//! which are padded to 32.
//!
//! A *group* is 32 elements of a row, counted row by row (`row·k/32 + j`). Bytes in a word are numbered from the low end.
//! ```text
//! quants  4–6 bits   16 bytes a group: byte i = low 4 bits of element i | those of element 16+i << 4
//!         Q8_0       32 bytes a group, as in the file
//!         F16, BF16  64 bytes a group
//! high    Q5_*       a word a group: bit 8b+w = bit 4 of element 4w+b, bit 8b+4+w = that of element 16+4w+b
//!         Q6_K       two words a group, of elements 0–15 and 16–31: bits 8b+2w.. = high 2 bits of element 4w+b of the half
//! scales  Q4_0 Q5_0 Q8_0 IQ4_NL   a half a group       Q4_1 Q5_1   d, m: two halves a group
//!         Q4_K Q5_K  per 256: d, dmin, 12 bytes of 6-bit scales as in the file: four words
//!         Q6_K       per 256: 16 scales of 8 bits, then d: five words
//!         IQ4_XS     per 256: d, scales_h, scales_l as in the file: two words
//! ```
//! With the bits of the high planes so, one shift and one mask of a word give the bits of four elements in the bytes where
//! these elements' low bits are (`wgsl/formats`).

mod split;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::DType;

/// Planes begin at multiples of so many bytes, which is the largest that any device asks of an offset.
pub(super) const ALIGN: u64 = 256;

/// Bytes of 32 elements, or of 256 where the format has blocks of 256, in each of the three planes.
const fn unit(dtype: DType) -> (usize, [usize; 3]) {
    match dtype {
        DType::F16 | DType::BF16 => (32, [64, 0, 0]),
        DType::Q4_0 | DType::IQ4_NL => (32, [16, 0, 2]),
        DType::Q4_1 => (32, [16, 0, 4]),
        DType::Q5_0 => (32, [16, 4, 2]),
        DType::Q5_1 => (32, [16, 4, 4]),
        DType::Q8_0 => (32, [32, 0, 2]),
        DType::Q4_K => (256, [128, 0, 16]),
        DType::Q5_K => (256, [128, 32, 16]),
        DType::Q6_K => (256, [128, 64, 20]),
        DType::IQ4_XS => (256, [128, 0, 8]),
        DType::F32 | DType::I32 => (1, [4, 0, 0]),
    }
}

/// The planes of a matrix: what they hold and where they begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Planes {
    dtype: DType,
    rows: usize,
    cols: usize,
    /// Bytes of a row in each plane: quants, high, scales. 0: the format has no such plane.
    row_bytes: [usize; 3],
    /// Where each plane begins, in bytes from the weight's beginning, at multiples of [`ALIGN`].
    pub at: [u64; 3],
    /// Bytes of all of them, a multiple of [`ALIGN`].
    pub bytes: u64,
}

impl Planes {
    /// The planes of `[rows, cols]` in `dtype`. F32 has one plane, the file's bytes.
    ///
    /// # Panics
    /// Where `cols` is no multiple of the format's block.
    #[track_caller]
    pub fn new(dtype: DType, rows: usize, cols: usize) -> Self {
        let padded = if dtype.is_quantized() { cols } else { cols.next_multiple_of(unit(dtype).0) };
        assert!(dtype.row_bytes(cols).is_some(), "{cols} columns of {dtype} are no whole blocks");
        let (len, bytes) = unit(dtype);
        let row_bytes = bytes.map(|b| padded / len * b);
        let mut end = 0;
        let at = row_bytes.map(|b| {
            let at = end;
            end = (at + (rows * b) as u64).next_multiple_of(ALIGN);
            at
        });
        Self { dtype, rows, cols, row_bytes, at, bytes: end }
    }

    /// Bytes of one row in all planes together: what a matrix too large for a buffer is cut by.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes.iter().sum()
    }

    /// A piece must begin at a multiple of so many rows, so that its part of every plane begins at a whole word: two where a
    /// row has an odd number of halves for scales.
    pub fn step(&self) -> usize {
        if self.row_bytes.iter().all(|b| b.is_multiple_of(4)) { 1 } else { 2 }
    }

    /// The bytes of each plane that `rows` fill, from the weight's beginning. Whole words: the last row's may hold some
    /// bytes more.
    ///
    /// # Panics
    /// Where the rows leave the matrix or do not begin at a multiple of [`Planes::step`], or end, before the last row, at none.
    #[track_caller]
    pub fn ranges(&self, rows: Range<usize>) -> [Range<u64>; 3] {
        let step = self.step();
        assert!(
            rows.start <= rows.end
                && rows.end <= self.rows
                && rows.start.is_multiple_of(step)
                && (rows.end.is_multiple_of(step) || rows.end == self.rows),
            "rows {rows:?} of {} in steps of {step}",
            self.rows
        );
        std::array::from_fn(|i| {
            let byte = |row: usize| self.at[i] + (row * self.row_bytes[i]).next_multiple_of(4) as u64;
            byte(rows.start)..byte(rows.end)
        })
    }

    /// Writes the planes of `rows` whole rows, `src` in GGUF layout, to the bytes that [`Planes::ranges`] tells. Every byte of
    /// them is written.
    ///
    /// # Panics
    /// Where `src` or `dst` are not as long as these rows.
    #[track_caller]
    pub fn relay(&self, src: &[u8], rows: usize, dst: [&mut [u8]; 3]) {
        let expected = self.row_bytes.map(|b| (rows * b).next_multiple_of(4));
        let got = [dst[0].len(), dst[1].len(), dst[2].len()];
        assert!(
            self.dtype.row_bytes(self.cols).map(|b| b * rows) == Some(src.len()) && got == expected,
            "{rows} rows of {} {} in {} bytes become {expected:?} bytes, there is room for {got:?}",
            self.cols,
            self.dtype,
            src.len()
        );
        let [quants, high, scales] = dst;
        // What the last word holds past the last scale.
        let used = rows * self.row_bytes[2];
        scales[used..].fill(0);
        split::split(self.dtype, self.cols, src, [quants, high, &mut scales[..used]]);
    }
}
