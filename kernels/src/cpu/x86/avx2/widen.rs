//! Widening for AVX2: a slab of 32 weight rows to a tile of bytes, with bit operations on 8 rows at once.
//!
//! 16 bytes of 8 rows become four registers in which lane r holds a dword of row r (`dwords`): four loads, four inserts, eight shuffles.
//! In that order, which is the tile's, nibbles, high bits and scales are put together for all rows at once. Byte
//! layouts are those that [`Unpack`] reads one by one. Nothing past a block is read: where a panel has fewer than 32
//! rows they are copied first.

mod k_blocks;

use std::arch::x86_64::*;

use k_blocks::{q4_k, q5_k, q6_k};

use crate::{
    DType,
    cpu::matmul::{IQ4, PANEL, SLAB, Tile, Unpack, Weights},
};

/// The bytes of the longest slab: eight blocks of Q8_0.
const LONGEST: usize = 272;

/// The slab of eight rows.
#[derive(Clone, Copy)]
struct Rows {
    /// The first row's first byte of the slab.
    first: *const u8,
    /// Bytes from row to row.
    stride: usize,
    /// Where in the tile: 0, 8, 16 or 24.
    lane: usize,
}

/// Widens slab `slab` of the rows from `first` on; rows past the end get scales of 0. Returns its blocks of 32 columns. With `SPLIT` bytes of 8 bits become their low four
/// bits and, from column 4·64 on, their high ones.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) fn widen<F: Unpack, const SPLIT: bool>(
    tile: &mut Tile,
    w: Weights<'_>,
    first: usize,
    slab: usize,
) -> usize {
    let bytes = SLAB / F::DTYPE.block_len() * F::DTYPE.block_bytes();
    // The bytes of this slab in each row: fewer in a last slab of short blocks.
    let part = w.part(first, slab * bytes, bytes);
    let (len, blocks) = (part.len(), part.len() / F::DTYPE.block_bytes());
    if first + PANEL <= w.rows() {
        assert_eq!(w.part(first + PANEL - 1, slab * bytes, bytes).len(), len);
        for lane in (0..PANEL).step_by(8) {
            // SAFETY: rows up to the last one, whose bytes were just sliced, hold `len` bytes each, that is `blocks` blocks.
            unsafe {
                let rows = part.as_ptr().add(lane * w.row_bytes());
                eight::<F, SPLIT>(tile, Rows { first: rows, stride: w.row_bytes(), lane }, blocks);
            }
        }
    } else {
        let mut copy = [[0; LONGEST]; PANEL];
        for (r, copy) in copy.iter_mut().enumerate().take(w.rows() - first) {
            copy[..len].copy_from_slice(w.part(first + r, slab * bytes, len));
        }
        for lane in (0..PANEL).step_by(8) {
            let rows = Rows { first: copy[lane].as_ptr(), stride: LONGEST, lane };
            // SAFETY: eight rows of `len` ≤ LONGEST bytes.
            unsafe { eight::<F, SPLIT>(tile, rows, blocks) };
        }
    }
    blocks * F::DTYPE.block_len() / 32
}

/// Widens `blocks` blocks (one of 256 columns, or up to eight of 32) of eight rows.
///
/// # Safety
/// The rows hold `blocks` blocks of `F` each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn eight<F: Unpack, const SPLIT: bool>(tile: &mut Tile, rows: Rows, blocks: usize) {
    // SAFETY: as this function's.
    unsafe {
        match F::DTYPE {
            DType::Q4_0 => blocks_of_4_bits::<18, 2, false>(tile, rows, blocks),
            DType::Q4_1 => blocks_of_4_bits::<20, 4, true>(tile, rows, blocks),
            DType::Q5_0 => blocks_of_5_bits::<22, false>(tile, rows, blocks),
            DType::Q5_1 => blocks_of_5_bits::<24, true>(tile, rows, blocks),
            DType::Q8_0 => q8_0::<SPLIT>(tile, rows, blocks),
            DType::IQ4_NL => iq4_nl::<SPLIT>(tile, rows, blocks),
            DType::IQ4_XS => iq4_xs::<SPLIT>(tile, rows),
            DType::Q4_K => q4_k(tile, rows),
            DType::Q5_K => q5_k(tile, rows),
            DType::Q6_K => q6_k(tile, rows),
            other => unreachable!("{other} has no bytes"),
        }
    }
}

impl Rows {
    /// 16 bytes at `offset` of each row to four registers: register j holds dword j of the rows.
    ///
    /// # Safety
    /// They are in the rows.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn dwords(self, offset: usize) -> [__m256i; 4] {
        let p = self.first.wrapping_add(offset);
        // SAFETY: as this function's.
        let load = |i: usize| unsafe { _mm_loadu_si128(p.wrapping_add(i * self.stride).cast()) };
        let rows = |i: usize| _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(load(i)), load(i + 4));
        let (a, b, c, d) = (rows(0), rows(1), rows(2), rows(3));
        let (ab0, ab1) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let (cd0, cd1) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
        [
            _mm256_unpacklo_epi64(ab0, cd0),
            _mm256_unpackhi_epi64(ab0, cd0),
            _mm256_unpacklo_epi64(ab1, cd1),
            _mm256_unpackhi_epi64(ab1, cd1),
        ]
    }
}

/// The halves in the low 16 bits of each lane as f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn low_half(v: __m256i) -> __m256 {
    let low = _mm256_and_si256(v, _mm256_set1_epi32(0xffff));
    let packed = _mm256_permute4x64_epi64::<0b10_00>(_mm256_packus_epi32(low, low));
    _mm256_cvtph_ps(_mm256_castsi256_si128(packed))
}

/// The halves in the high 16 bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn high_half(v: __m256i) -> __m256 {
    low_half(_mm256_srli_epi32::<16>(v))
}

impl Tile {
    /// Four columns of eight rows.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn put8(&mut self, k4: usize, lane: usize, v: __m256i) {
        let to = &mut self.u[k4][lane..lane + 8];
        // SAFETY: eight times four bytes.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), v) };
    }

    /// Four columns of 8 bits of eight rows.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn put_bytes<const SPLIT: bool>(&mut self, k4: usize, lane: usize, v: __m256i) {
        if SPLIT {
            let (low, high) = nibbles(v);
            self.put8(k4, lane, low);
            self.put8(SLAB / 4 + k4, lane, high);
        } else {
            self.put8(k4, lane, v);
        }
    }

    /// The scales of group `group` of eight rows.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn put_scale8(&mut self, group: usize, lane: usize, v: __m256) {
        let to = &mut self.a[group][lane..lane + 8];
        // SAFETY: eight floats.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), v) };
    }

    /// The minima of block `block` of eight rows.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn put_min8(&mut self, block: usize, lane: usize, v: __m256) {
        let to = &mut self.c[block][lane..lane + 8];
        // SAFETY: eight floats.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), v) };
    }
}

/// The low and the high nibbles of all bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn nibbles(v: __m256i) -> (__m256i, __m256i) {
    let low = _mm256_set1_epi8(15);
    (_mm256_and_si256(v, low), _mm256_and_si256(_mm256_srli_epi16::<4>(v), low))
}

/// Bytes `codes` of 0..16 as values of the IQ4 formats plus 128.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn iq4(codes: __m256i) -> __m256i {
    // SAFETY: 16 bytes.
    let values = unsafe { _mm_loadu_si128(IQ4.as_ptr().cast()) };
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(values), codes)
}

/// Q4_0, Q4_1: half d [, half min], 16 bytes of nibbles at `AT`.
///
/// # Safety
/// As [`eight`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn blocks_of_4_bits<const BYTES: usize, const AT: usize, const MIN: bool>(
    tile: &mut Tile,
    rows: Rows,
    blocks: usize,
) {
    for b in 0..blocks {
        // SAFETY: within block b, which has 18 bytes or more.
        let (head, v) = unsafe { (rows.dwords(b * BYTES)[0], rows.dwords(b * BYTES + AT)) };
        tile.put_scale8(b, rows.lane, low_half(head));
        if MIN {
            tile.put_min8(b, rows.lane, high_half(head));
        }
        for (j, v) in v.into_iter().enumerate() {
            let (low, high) = nibbles(v);
            tile.put8(8 * b + j, rows.lane, low);
            tile.put8(8 * b + 4 + j, rows.lane, high);
        }
    }
}

/// Half d, 16 bytes of nibbles.
///
/// # Safety
/// As [`eight`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn iq4_nl<const SPLIT: bool>(tile: &mut Tile, rows: Rows, blocks: usize) {
    for b in 0..blocks {
        // SAFETY: within block b of 18 bytes.
        let (head, v) = unsafe { (rows.dwords(b * 18)[0], rows.dwords(b * 18 + 2)) };
        tile.put_scale8(b, rows.lane, low_half(head));
        for (j, v) in v.into_iter().enumerate() {
            let (low, high) = nibbles(v);
            tile.put_bytes::<SPLIT>(8 * b + j, rows.lane, iq4(low));
            tile.put_bytes::<SPLIT>(8 * b + 4 + j, rows.lane, iq4(high));
        }
    }
}

/// Q5_0, Q5_1: half d [, half min], 32 fifth bits, 16 bytes of nibbles.
///
/// # Safety
/// As [`eight`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn blocks_of_5_bits<const BYTES: usize, const MIN: bool>(tile: &mut Tile, rows: Rows, blocks: usize) {
    for b in 0..blocks {
        // SAFETY: within block b, which has 22 bytes or more.
        let ([head, next, ..], v) = unsafe { (rows.dwords(b * BYTES), rows.dwords((b + 1) * BYTES - 16)) };
        tile.put_scale8(b, rows.lane, low_half(head));
        let bits = if MIN {
            tile.put_min8(b, rows.lane, high_half(head));
            next
        } else {
            _mm256_or_si256(_mm256_srli_epi32::<16>(head), _mm256_slli_epi32::<16>(next))
        };
        // Columns 4j.. have bits 4j.. of the dword: byte j/2 to all four bytes, each of which tests its own bit.
        let fifth = |v: __m256i, j: usize| {
            let byte = _mm_set1_epi32(0x0101_0101 * (j as i32 / 2));
            let byte = _mm_add_epi8(byte, _mm_setr_epi32(0, 0x0404_0404, 0x0808_0808, 0x0c0c_0c0c));
            let spread = _mm256_shuffle_epi8(bits, _mm256_broadcastsi128_si256(byte));
            let own =
                _mm256_set1_epi32(if j.is_multiple_of(2) { 0x0804_0201 } else { 0x8040_2010u32 as i32 });
            let set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, own), own);
            _mm256_or_si256(v, _mm256_and_si256(set, _mm256_set1_epi8(16)))
        };
        for (j, v) in v.into_iter().enumerate() {
            let (low, high) = nibbles(v);
            tile.put8(8 * b + j, rows.lane, fifth(low, j));
            tile.put8(8 * b + 4 + j, rows.lane, fifth(high, 4 + j));
        }
    }
}

/// Half d, 32 signed bytes.
///
/// # Safety
/// As [`eight`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q8_0<const SPLIT: bool>(tile: &mut Tile, rows: Rows, blocks: usize) {
    for b in 0..blocks {
        // SAFETY: within block b of 34 bytes.
        let (head, parts) =
            unsafe { (rows.dwords(b * 34)[0], [rows.dwords(b * 34 + 2), rows.dwords(b * 34 + 18)]) };
        tile.put_scale8(b, rows.lane, low_half(head));
        // By index: a chained iterator would copy the parts to memory and wait for them there.
        for j in 0..8 {
            let v = _mm256_xor_si256(parts[j / 4][j % 4], _mm256_set1_epi8(-128));
            tile.put_bytes::<SPLIT>(8 * b + j, rows.lane, v);
        }
    }
}

/// # Safety
/// As [`eight`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn iq4_xs<const SPLIT: bool>(tile: &mut Tile, rows: Rows) {
    // SAFETY: half d, 16 high scale bits, 4 bytes of low ones, 128 bytes of nibbles: a block of 136.
    unsafe {
        let [head, mut low, ..] = rows.dwords(0);
        let (d, mut high) = (low_half(head), _mm256_srli_epi32::<16>(head));
        for b in 0..8 {
            let bits = _mm256_slli_epi32::<4>(_mm256_and_si256(high, _mm256_set1_epi32(3)));
            let scale = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi32(15)), bits);
            let scale = _mm256_cvtepi32_ps(_mm256_sub_epi32(scale, _mm256_set1_epi32(32)));
            tile.put_scale8(b, rows.lane, _mm256_mul_ps(d, scale));
            (high, low) = (_mm256_srli_epi32::<2>(high), _mm256_srli_epi32::<4>(low));
            for (j, v) in rows.dwords(8 + 16 * b).into_iter().enumerate() {
                let (first, second) = nibbles(v);
                tile.put_bytes::<SPLIT>(8 * b + j, rows.lane, iq4(first));
                tile.put_bytes::<SPLIT>(8 * b + 4 + j, rows.lane, iq4(second));
            }
        }
    }
}
