//! Planes against the file's bytes: decoded by the shaders' formulas they give what [`quant::dequantize`] gives, to the bit.

use super::*;
use crate::quant::{self, F16};

/// Every format that has planes.
fn formats() -> impl Iterator<Item = DType> {
    DType::ALL.into_iter().filter(|dtype| *dtype != DType::I32)
}

/// Numbers in −1..1, alike for a seed (xorshift64*, arXiv 1402.6246).
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// A weight's bytes in a file.
fn file(dtype: DType, rows: usize, cols: usize) -> Vec<u8> {
    let mut bytes = vec![0; dtype.row_bytes(cols).expect("whole blocks") * rows];
    quant::quantize(dtype, cols, &numbers(rows * cols, 7), &mut bytes, None);
    bytes
}

/// The planes of `src`, re-laid `piece` rows at a time into a buffer of garbage.
fn relaid(dtype: DType, rows: usize, cols: usize, src: &[u8], piece: usize) -> (Planes, Vec<u8>) {
    let planes = Planes::new(dtype, rows, cols);
    let mut out = vec![0xa5; planes.bytes as usize];
    let row_bytes = src.len() / rows;
    for start in (0..rows).step_by(piece) {
        let end = rows.min(start + piece);
        let ranges = planes.ranges(start..end);
        let mut parts = ranges.clone().map(|r| vec![0x5a; (r.end - r.start) as usize]);
        let [a, b, c] = &mut parts;
        planes.relay(&src[start * row_bytes..end * row_bytes], end - start, [a, b, c]);
        for (range, part) in ranges.into_iter().zip(&parts) {
            out[range.start as usize..range.end as usize].copy_from_slice(part);
        }
    }
    (planes, out)
}

/// What the shaders see: words.
struct Device {
    words: Vec<u32>,
    at: [usize; 3],
}

impl Device {
    fn half(&self, word: usize, high: usize) -> f32 {
        let bits = (self.words[self.at[2] + word] >> (16 * high)) as u16;
        bytemuck::cast::<[u8; 2], F16>(bits.to_le_bytes()).get()
    }

    /// Element i of `group` without its high bits: `quants` of the nibble formats.
    fn nibble(&self, group: usize, i: usize) -> u32 {
        let (half, w, b) = (i / 16, i % 16 / 4, i % 4);
        self.words[self.at[0] + 4 * group + w] >> (8 * b + 4 * half) & 15
    }

    fn fifth(&self, group: usize, i: usize) -> u32 {
        let (half, w, b) = (i / 16, i % 16 / 4, i % 4);
        (self.words[self.at[1] + group] >> (8 * b + 4 * half + w) & 1) << 4
    }

    fn byte(&self, plane: usize, at: usize) -> u8 {
        (self.words[self.at[plane] + at / 4] >> (8 * (at % 4))) as u8
    }

    /// The scale and the minimum of `group`, Q4_K and Q5_K.
    fn six_bits(&self, group: usize) -> (f32, f32) {
        let (block, j) = (4 * (group / 8), group % 8);
        let byte = |i: usize| u32::from(self.byte(2, 4 * (block + 1) + i));
        let (s, m) = match j {
            0..4 => (byte(j) & 63, byte(4 + j) & 63),
            _ => (byte(4 + j) & 15 | byte(j - 4) >> 6 << 4, byte(4 + j) >> 4 | byte(j) >> 6 << 4),
        };
        (self.half(block, 0) * s as f32, self.half(block, 1) * m as f32)
    }

    /// Element i of `group`.
    fn value(&self, dtype: DType, group: usize, i: usize) -> f32 {
        let per_group = || self.half(group / 2, group % 2);
        let nibble = || self.nibble(group, i);
        let five = || (self.nibble(group, i) | self.fifth(group, i)) as f32;
        match dtype {
            DType::F32 => f32::from_bits(self.words[self.at[0] + 32 * group + i]),
            DType::F16 | DType::BF16 => {
                let word = self.words[self.at[0] + 16 * group + i / 2];
                let bits = [(word >> (16 * (i % 2))) as u8, (word >> (16 * (i % 2) + 8)) as u8];
                let mut out = [0.0];
                quant::dequantize(dtype, &bits, &mut out);
                out[0]
            }
            DType::Q4_0 => per_group() * (nibble() as f32 - 8.0),
            DType::Q4_1 => self.half(group, 0) * nibble() as f32 + self.half(group, 1),
            DType::Q5_0 => per_group() * (five() - 16.0),
            DType::Q5_1 => self.half(group, 0) * five() + self.half(group, 1),
            DType::Q8_0 => per_group() * f32::from(self.byte(0, 32 * group + i) as i8),
            DType::Q4_K => self.six_bits(group).0 * nibble() as f32 - self.six_bits(group).1,
            DType::Q5_K => self.six_bits(group).0 * five() - self.six_bits(group).1,
            DType::Q6_K => {
                let (block, half, w, b) = (5 * (group / 8), i / 16, i % 16 / 4, i % 4);
                let high = self.words[self.at[1] + 2 * group + half] >> (8 * b + 2 * w) & 3;
                let scale = self.byte(2, 4 * block + 2 * (group % 8) + half) as i8;
                let a = self.half(block + 4, 0) * f32::from(scale);
                a * ((nibble() | high << 4) as f32 - 32.0)
            }
            DType::IQ4_NL => per_group() * f32::from(quant::iq4_nl::VALUES[nibble() as usize]),
            DType::IQ4_XS => {
                let (block, j) = (2 * (group / 8), group % 8);
                let low = self.words[self.at[2] + block + 1] >> (4 * j) & 15;
                let high = self.words[self.at[2] + block] >> (16 + 2 * j) & 3;
                let scale = (low | high << 4) as f32 - 32.0;
                self.half(block, 0) * scale * f32::from(quant::iq4_nl::VALUES[nibble() as usize])
            }
            DType::I32 => unreachable!("no weight"),
        }
    }
}

#[test]
fn planes_decode_to_what_the_file_says() {
    for dtype in formats() {
        // An odd number of groups in a row, where a format allows it, and widths that floats are padded to.
        let widths: &[usize] = match dtype.block_len() {
            256 => &[256, 768],
            32 => &[32, 64, 96],
            _ => &[32, 96],
        };
        for &cols in widths {
            for rows in [1, 2, 5] {
                let src = file(dtype, rows, cols);
                let (planes, out) = relaid(dtype, rows, cols, &src, rows);
                let device = Device {
                    words: out
                        .chunks_exact(4)
                        .map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]))
                        .collect(),
                    at: planes.at.map(|at| at as usize / 4),
                };
                let mut expected = vec![0.0; rows * cols];
                quant::dequantize(dtype, &src, &mut expected);
                for (e, expected) in expected.iter().enumerate() {
                    let got = device.value(dtype, e / 32, e % 32);
                    assert_eq!(got.to_bits(), expected.to_bits(), "{dtype}, {rows}×{cols}: element {e}");
                }
            }
        }
    }
}

#[test]
fn pieces_make_what_the_whole_makes() {
    for dtype in formats() {
        let cols = if dtype.block_len() == 256 { 256 } else { 96 };
        let rows = 11;
        let src = file(dtype, rows, cols);
        let (planes, whole) = relaid(dtype, rows, cols, &src, rows);
        for piece in [planes.step(), 4, 10] {
            let (_, pieces) = relaid(dtype, rows, cols, &src, piece);
            assert!(whole == pieces, "{dtype} in pieces of {piece} rows");
        }
    }
}

#[test]
fn rows_of_halves_are_padded_with_zeros() {
    let src = file(DType::F16, 3, 33);
    let (planes, out) = relaid(DType::F16, 3, 33, &src, 1);
    assert_eq!(planes.row_bytes(), 128);
    for row in 0..3 {
        assert_eq!(out[128 * row..][..66], src[66 * row..][..66]);
        assert!(out[128 * row + 66..][..62].iter().all(|b| *b == 0), "the padding of row {row}");
    }
}

#[test]
fn planes_begin_aligned_and_do_not_meet() {
    for dtype in formats() {
        let planes = Planes::new(dtype, 37, 768);
        let mut end = 0;
        for (at, range) in planes.at.iter().zip(planes.ranges(0..37)) {
            assert!(
                at.is_multiple_of(ALIGN) && *at >= end,
                "{dtype}: a plane at {at}, the last ends at {end}"
            );
            assert_eq!(*at, range.start);
            end = range.end;
        }
        assert!(planes.bytes.is_multiple_of(ALIGN) && planes.bytes >= end, "{dtype}");
        assert!(planes.bytes < end + ALIGN, "{dtype} wastes");
    }
}

#[test]
#[should_panic(expected = "in steps of 2")]
fn a_piece_must_not_begin_within_a_word() {
    Planes::new(DType::Q4_0, 5, 32).ranges(1..3);
}
