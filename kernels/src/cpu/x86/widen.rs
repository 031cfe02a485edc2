//! Widening for AVX-512: a slab of 32 weight rows to a tile of bytes, with bit operations on 16 rows at once.
//!
//! 16 bytes of 16 rows become four registers in which lane r holds a dword of row r (`dwords`); in that order, which is
//! the tile's, nibbles and high bits are put together for all rows at once, and scales are decoded for all rows at
//! once. It costs some 2–5 % of a product of 512 tokens. Byte layouts are those that [`Unpack`] reads one by one.
//! Nothing past a block is read: where a panel has fewer than 32 rows they are copied first.

use std::arch::x86_64::*;

use crate::{
    DType,
    cpu::matmul::{IQ4, PANEL, SLAB, Tile, Unpack, Weights},
};

/// Half a panel: the slab of 16 rows.
#[derive(Clone, Copy)]
struct Rows {
    /// The first row's first byte of the slab.
    first: *const u8,
    /// Bytes from row to row.
    stride: usize,
    /// Which half of the tile: 0 or 16.
    lane: usize,
}

/// Widens slab `slab` of the rows from `first` on; rows past the end get scales of 0. Returns its blocks of 32 columns.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn widen<F: Unpack>(tile: &mut Tile, w: Weights<'_>, first: usize, slab: usize) -> usize {
    let bytes = SLAB / F::DTYPE.block_len() * F::DTYPE.block_bytes();
    // The bytes of this slab in each row: fewer in a last slab of short blocks.
    let len = w.part(first, slab * bytes, bytes).len();
    let blocks = len / F::DTYPE.block_bytes();
    if first + PANEL <= w.rows() {
        let last = w.part(first + PANEL - 1, slab * bytes, len);
        assert_eq!(last.len(), len);
        let start = w.part(first, slab * bytes, len).as_ptr();
        for lane in [0, 16] {
            // SAFETY: rows up to the last one, whose bytes were just sliced, hold `len` bytes each, that is `blocks` blocks.
            unsafe {
                let rows = Rows { first: start.add(lane * w.row_bytes()), stride: w.row_bytes(), lane };
                half::<F>(tile, rows, blocks);
            }
        }
    } else {
        // 272 bytes, eight blocks of Q8_0, is the longest slab.
        let mut copy = [[0; 272]; PANEL];
        for (r, copy) in copy.iter_mut().enumerate().take(w.rows() - first) {
            copy[..len].copy_from_slice(w.part(first + r, slab * bytes, len));
        }
        for lane in [0, 16] {
            // SAFETY: 16 rows of `len` ≤ 272 bytes.
            unsafe { half::<F>(tile, Rows { first: copy[lane].as_ptr(), stride: 272, lane }, blocks) };
        }
    }
    blocks * F::DTYPE.block_len() / 32
}

/// Fetches slab `slab` of the rows from `first` on into the second cache.
pub(super) fn prefetch<F: Unpack>(w: Weights<'_>, first: usize, slab: usize) {
    let bytes = SLAB / F::DTYPE.block_len() * F::DTYPE.block_bytes();
    for row in first..w.rows().min(first + PANEL) {
        let start = w.row(row).as_ptr().wrapping_add(slab * bytes);
        for line in (0..bytes + 63).step_by(64) {
            // SAFETY: SSE is part of x86-64, and a prefetch of any address is harmless.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(start.wrapping_add(line).cast()) };
        }
    }
}

/// Widens `blocks` blocks (one of 256 columns, or up to eight of 32) of 16 rows.
///
/// # Safety
/// The rows hold `blocks` blocks of `F` each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn half<F: Unpack>(tile: &mut Tile, rows: Rows, blocks: usize) {
    // SAFETY: as this function's.
    unsafe {
        match F::DTYPE {
            DType::Q4_0 => blocks_of_4_bits::<18, 2, false, false>(tile, rows, blocks),
            DType::IQ4_NL => blocks_of_4_bits::<18, 2, false, true>(tile, rows, blocks),
            DType::Q4_1 => blocks_of_4_bits::<20, 4, true, false>(tile, rows, blocks),
            DType::Q5_0 => blocks_of_5_bits::<22, 2, false>(tile, rows, blocks),
            DType::Q5_1 => blocks_of_5_bits::<24, 4, true>(tile, rows, blocks),
            DType::Q8_0 => q8_0(tile, rows, blocks),
            DType::Q4_K => q4_k(tile, rows),
            DType::Q5_K => q5_k(tile, rows),
            DType::Q6_K => q6_k(tile, rows),
            DType::IQ4_XS => iq4_xs(tile, rows),
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
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn dwords(self, offset: usize) -> [__m512i; 4] {
        let p = self.first.wrapping_add(offset);
        // SAFETY: as this function's.
        let load = |i: usize| unsafe { _mm_loadu_si128(p.wrapping_add(i * self.stride).cast()) };
        let rows = |i: usize| {
            let v = _mm512_castsi128_si512(load(i));
            let v = _mm512_inserti32x4::<1>(v, load(i + 4));
            let v = _mm512_inserti32x4::<2>(v, load(i + 8));
            _mm512_inserti32x4::<3>(v, load(i + 12))
        };
        let (a, b, c, d) = (rows(0), rows(1), rows(2), rows(3));
        let (ab0, ab1) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (cd0, cd1) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        [
            _mm512_unpacklo_epi64(ab0, cd0),
            _mm512_unpackhi_epi64(ab0, cd0),
            _mm512_unpacklo_epi64(ab1, cd1),
            _mm512_unpackhi_epi64(ab1, cd1),
        ]
    }

    /// The dword at `offset` of each row.
    ///
    /// # Safety
    /// It is in the rows.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn dword(self, offset: usize) -> __m512i {
        let numbers = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        // Rows are shorter than 2^27 bytes: 15 of them fit 32 bits.
        let index = _mm512_mullo_epi32(numbers, _mm512_set1_epi32(self.stride as i32));
        // SAFETY: as this function's.
        unsafe { _mm512_i32gather_epi32::<1>(index, self.first.wrapping_add(offset).cast()) }
    }
}

/// The halves in the low 16 bits of each lane as f32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn low_half(v: __m512i) -> __m512 {
    _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v))
}

/// The halves in the high 16 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn high_half(v: __m512i) -> __m512 {
    low_half(_mm512_srli_epi32::<16>(v))
}

impl Tile {
    /// Four columns of 16 rows.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    fn put(&mut self, k4: usize, lane: usize, v: __m512i) {
        let to = &mut self.u[k4][lane..lane + 16];
        // SAFETY: 16 times four bytes.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), v) };
    }

    /// The scales of group `group` of 16 rows.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    fn put_scale(&mut self, group: usize, lane: usize, v: __m512) {
        let to = &mut self.a[group][lane..lane + 16];
        // SAFETY: 16 floats.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) };
    }

    /// The minima of block `block` of 16 rows.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    fn put_min(&mut self, block: usize, lane: usize, v: __m512) {
        let to = &mut self.c[block][lane..lane + 16];
        // SAFETY: 16 floats.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) };
    }
}

/// The low and the high nibbles of all bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn nibbles(v: __m512i) -> (__m512i, __m512i) {
    let low = _mm512_set1_epi8(15);
    (_mm512_and_si512(v, low), _mm512_and_si512(_mm512_srli_epi16::<4>(v), low))
}

/// Bytes `codes` of 0..16 as values of the IQ4 formats plus 128.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn iq4(codes: __m512i) -> __m512i {
    // SAFETY: 16 bytes.
    let values = unsafe { _mm_loadu_si128(IQ4.as_ptr().cast()) };
    _mm512_shuffle_epi8(_mm512_broadcast_i32x4(values), codes)
}

/// Q4_0, Q4_1, IQ4_NL: half d [, half min], 16 bytes of nibbles at `AT`.
///
/// # Safety
/// As [`half()`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn blocks_of_4_bits<const BYTES: usize, const AT: usize, const MIN: bool, const IQ: bool>(
    tile: &mut Tile,
    rows: Rows,
    blocks: usize,
) {
    for b in 0..blocks {
        // SAFETY: within block b.
        let (scale, v) = unsafe { (rows.dword(b * BYTES), rows.dwords(b * BYTES + AT)) };
        tile.put_scale(b, rows.lane, low_half(scale));
        if MIN {
            tile.put_min(b, rows.lane, high_half(scale));
        }
        for (j, v) in v.into_iter().enumerate() {
            let (low, high) = nibbles(v);
            tile.put(8 * b + j, rows.lane, if IQ { iq4(low) } else { low });
            tile.put(8 * b + 4 + j, rows.lane, if IQ { iq4(high) } else { high });
        }
    }
}

/// Q5_0, Q5_1: half d [, half min], 32 fifth bits at `AT`, 16 bytes of nibbles.
///
/// # Safety
/// As [`half()`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn blocks_of_5_bits<const BYTES: usize, const AT: usize, const MIN: bool>(
    tile: &mut Tile,
    rows: Rows,
    blocks: usize,
) {
    for b in 0..blocks {
        // SAFETY: within block b.
        let (scale, bits, v) =
            unsafe { (rows.dword(b * BYTES), rows.dword(b * BYTES + AT), rows.dwords(b * BYTES + AT + 4)) };
        tile.put_scale(b, rows.lane, low_half(scale));
        if MIN {
            tile.put_min(b, rows.lane, high_half(scale));
        }
        // Columns 4j.. have bits 4j.. of the dword: byte j/2 to all four bytes, each of which tests its own bit.
        let fifth = |v: __m512i, j: usize| {
            let byte = _mm_set1_epi32(0x0101_0101 * (j as i32 / 2));
            let byte = _mm_add_epi8(byte, _mm_setr_epi32(0, 0x0404_0404, 0x0808_0808, 0x0c0c_0c0c));
            let spread = _mm512_shuffle_epi8(bits, _mm512_broadcast_i32x4(byte));
            let own =
                _mm512_set1_epi32(if j.is_multiple_of(2) { 0x0804_0201 } else { 0x8040_2010u32 as i32 });
            _mm512_mask_add_epi8(v, _mm512_test_epi8_mask(spread, own), v, _mm512_set1_epi8(16))
        };
        for (j, v) in v.into_iter().enumerate() {
            let (low, high) = nibbles(v);
            tile.put(8 * b + j, rows.lane, fifth(low, j));
            tile.put(8 * b + 4 + j, rows.lane, fifth(high, 4 + j));
        }
    }
}

/// Half d, 32 signed bytes.
///
/// # Safety
/// As [`half()`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn q8_0(tile: &mut Tile, rows: Rows, blocks: usize) {
    for b in 0..blocks {
        // SAFETY: within block b.
        let (scale, v) = unsafe { (rows.dword(b * 34), [rows.dwords(b * 34 + 2), rows.dwords(b * 34 + 18)]) };
        tile.put_scale(b, rows.lane, low_half(scale));
        // By index: a chained iterator would copy the parts to memory and wait for them there.
        for j in 0..8 {
            tile.put(8 * b + j, rows.lane, _mm512_xor_si512(v[j / 4][j % 4], _mm512_set1_epi8(-128)));
        }
    }
}

/// The scales and minima of Q4_K and Q5_K: half d, half min, 12 bytes of eight 6-bit pairs.
///
/// # Safety
/// As [`half()`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn k_scales(tile: &mut Tile, rows: Rows) {
    // SAFETY: the first 16 bytes of the block.
    let [halves, u0, u1, u2] = unsafe { rows.dwords(0) };
    let (d, min) = (low_half(halves), high_half(halves));
    let and = |v: __m512i, mask: i32| _mm512_and_si512(v, _mm512_set1_epi32(mask));
    let high = |low: __m512i, bits: __m512i| {
        _mm512_or_si512(and(low, 0x0f0f_0f0f), and(_mm512_srli_epi32::<2>(bits), 0x3030_3030))
    };
    let scales = [and(u0, 0x3f3f_3f3f), high(u2, u0)];
    let minima = [and(u1, 0x3f3f_3f3f), high(_mm512_srli_epi32::<4>(u2), u1)];
    for (four, (mut scale, mut minimum)) in scales.into_iter().zip(minima).enumerate() {
        for j in 0..4 {
            let float = |v: __m512i| _mm512_cvtepi32_ps(and(v, 0xff));
            tile.put_scale(4 * four + j, rows.lane, _mm512_mul_ps(d, float(scale)));
            let product = _mm512_mul_ps(min, float(minimum));
            tile.put_min(4 * four + j, rows.lane, _mm512_sub_ps(_mm512_setzero_ps(), product));
            (scale, minimum) = (_mm512_srli_epi32::<8>(scale), _mm512_srli_epi32::<8>(minimum));
        }
    }
}

/// # Safety
/// As [`half()`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn q4_k(tile: &mut Tile, rows: Rows) {
    // SAFETY: bytes 0..16, then 16..144, of a block of 144.
    unsafe {
        k_scales(tile, rows);
        for i in 0..8 {
            // Half a chunk of 64 columns: the low nibbles are its first 32 columns.
            let first = i / 2 * 16 + i % 2 * 4;
            for (j, v) in rows.dwords(16 + 16 * i).into_iter().enumerate() {
                let (low, high) = nibbles(v);
                tile.put(first + j, rows.lane, low);
                tile.put(first + 8 + j, rows.lane, high);
            }
        }
    }
}

/// # Safety
/// As [`half()`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn q5_k(tile: &mut Tile, rows: Rows) {
    let fifth = _mm512_set1_epi8(16);
    // SAFETY: bytes 0..16, 16..48 and 48..176 of a block of 176.
    unsafe {
        k_scales(tile, rows);
        for part in 0..2 {
            // Bit s of byte l is the fifth bit of column 32·s + l.
            let mut bits = rows.dwords(16 + 16 * part);
            for chunk in 0..4 {
                let v = rows.dwords(48 + 32 * chunk + 16 * part);
                let first = 16 * chunk + 4 * part;
                for j in 0..4 {
                    let (low, high) = nibbles(v[j]);
                    let low_bit = _mm512_and_si512(_mm512_slli_epi16::<4>(bits[j]), fifth);
                    let high_bit = _mm512_and_si512(_mm512_slli_epi16::<3>(bits[j]), fifth);
                    tile.put(first + j, rows.lane, _mm512_or_si512(low, low_bit));
                    tile.put(first + 8 + j, rows.lane, _mm512_or_si512(high, high_bit));
                    // What comes in from the neighbouring byte is never reached: it takes seven shifts at most.
                    bits[j] = _mm512_srli_epi16::<2>(bits[j]);
                }
            }
        }
    }
}

/// # Safety
/// As [`half()`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn q6_k(tile: &mut Tile, rows: Rows) {
    // SAFETY: ql 0..128, qh 128..192, scales 192..208, d 208..210 of a block of 210; d is read with the two bytes before it.
    unsafe {
        let d = high_half(rows.dword(206));
        for (four, mut scales) in rows.dwords(192).into_iter().enumerate() {
            for j in 0..4 {
                let scale = _mm512_srai_epi32::<24>(_mm512_slli_epi32::<24>(scales));
                tile.put_scale(4 * four + j, rows.lane, _mm512_mul_ps(d, _mm512_cvtepi32_ps(scale)));
                scales = _mm512_srli_epi32::<8>(scales);
            }
        }
        let two = _mm512_set1_epi8(0x30);
        for part in 0..4 {
            // Columns 128·(part/2) + 16·(part%2) + {0, 32, 64, 96}.., 16 each.
            let (half, quarter) = (part / 2, part % 2);
            let high = rows.dwords(128 + 32 * half + 16 * quarter);
            let a = rows.dwords(64 * half + 16 * quarter);
            let b = rows.dwords(64 * half + 32 + 16 * quarter);
            let first = 32 * half + 4 * quarter;
            for j in 0..4 {
                let ((a0, a1), (b0, b1)) = (nibbles(a[j]), nibbles(b[j]));
                let h = high[j];
                let or = |low: __m512i, bits: __m512i| _mm512_or_si512(low, _mm512_and_si512(bits, two));
                tile.put(first + j, rows.lane, or(a0, _mm512_slli_epi16::<4>(h)));
                tile.put(first + 8 + j, rows.lane, or(b0, _mm512_slli_epi16::<2>(h)));
                tile.put(first + 16 + j, rows.lane, or(a1, h));
                tile.put(first + 24 + j, rows.lane, or(b1, _mm512_srli_epi16::<2>(h)));
            }
        }
    }
}

/// # Safety
/// As [`half()`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn iq4_xs(tile: &mut Tile, rows: Rows) {
    // SAFETY: half d, 16 high scale bits, 4 bytes of low ones, 128 bytes of nibbles: a block of 136.
    unsafe {
        let head = rows.dword(0);
        let d = low_half(head);
        let (mut high, mut low) = (_mm512_srli_epi32::<16>(head), rows.dword(4));
        for b in 0..8 {
            let bits = _mm512_slli_epi32::<4>(_mm512_and_si512(high, _mm512_set1_epi32(3)));
            let scale = _mm512_or_si512(_mm512_and_si512(low, _mm512_set1_epi32(15)), bits);
            let scale = _mm512_cvtepi32_ps(_mm512_sub_epi32(scale, _mm512_set1_epi32(32)));
            tile.put_scale(b, rows.lane, _mm512_mul_ps(d, scale));
            (high, low) = (_mm512_srli_epi32::<2>(high), _mm512_srli_epi32::<4>(low));
            for (j, v) in rows.dwords(8 + 16 * b).into_iter().enumerate() {
                let (first, second) = nibbles(v);
                tile.put(8 * b + j, rows.lane, iq4(first));
                tile.put(8 * b + 4 + j, rows.lane, iq4(second));
            }
        }
    }
}
