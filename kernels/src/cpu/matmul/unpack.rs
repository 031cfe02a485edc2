//! Quantized weights as the integer products want them: unsigned bytes, with a scale (and a minimum) per group.
//!
//! Every quantized format is, by groups of 32 columns (16 in Q6_K), w = a·(u − ZERO) + c with 0 ≤ u < 2^BITS, and c = 0 but in the
//! formats with a minimum, whose ZERO is 0. So one int8 product serves all formats. The code is plain Rust on purpose:
//! inlined into a function that enables an instruction set it becomes vector code for that set, and it cannot read past
//! the end of a mapped file. Layouts are ggml's; `quant` draws them.

#![allow(clippy::needless_range_loop, reason = "an index runs over several arrays side by side")]
#![allow(non_camel_case_types, reason = "ggml's names, the same word in file, struct, shader and bench")]

use crate::DType;

/// Columns that are unpacked at once: the longest block, so eight blocks of the short formats.
pub(crate) const SLAB: usize = 256;

/// The scales of a slab of one row: w = a·(u − ZERO) + c.
#[derive(Default, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Scales {
    /// Per group of GROUP columns: 8 or 16 of them.
    pub(crate) a: [f32; 16],
    /// Per group of 32 columns.
    pub(crate) c: [f32; 8],
}

/// A weight format that unpacks to bytes.
pub(crate) trait Unpack {
    /// The format.
    const DTYPE: DType;
    /// Columns that share a scale.
    const GROUP: usize = 32;
    /// The byte that stands for 0.
    const ZERO: i32;
    /// Whether c may differ from 0.
    const MIN: bool = false;
    /// Bits of a byte in use; AVX2 sums that many products in 16 bits.
    const BITS: u32;

    /// Unpacks the blocks in `src` (one of 256, or up to eight of 32); bytes and scales of absent blocks stay as they are.
    fn unpack(src: &[u8], u: &mut [u8; SLAB], s: &mut Scales);
}

/// A half as f32. It vectorizes, unlike the `half` crate's, which asks the CPU what it can do on each call.
#[inline(always)]
pub(crate) fn half(bytes: [u8; 2]) -> f32 {
    let h = u32::from(u16::from_le_bytes(bytes));
    // The exponent moves from a bias of 15 to one of 127: a factor of 2^112, which makes subnormal halves right as well.
    let magnitude = f32::from_bits((h & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    let infinite = if h & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(magnitude.to_bits() | infinite | (h & 0x8000) << 16)
}

#[inline(always)]
fn group(u: &mut [u8; SLAB], first: usize) -> &mut [u8; 32] {
    (&mut u[first..first + 32]).try_into().expect("32 bytes")
}

/// The low nibbles of 16 bytes, then the high ones: how the formats with blocks of 32 lay out four bits.
#[inline(always)]
fn nibbles(qs: &[u8], u: &mut [u8; 32], f: impl Fn(u8) -> u8) {
    let qs: &[u8; 16] = qs.try_into().expect("16 bytes");
    for j in 0..16 {
        u[j] = f(qs[j] & 15);
        u[16 + j] = f(qs[j] >> 4);
    }
}

/// Adds bit j of `qh` to byte j, as bit 4.
#[inline(always)]
fn fifth_bits(qh: &[u8], u: &mut [u8; 32]) {
    let qh = u32::from_le_bytes(qh.try_into().expect("4 bytes"));
    for j in 0..32 {
        u[j] |= (((qh >> j) & 1) << 4) as u8;
    }
}

/// Eight 6-bit scales and eight 6-bit minima from the 12 bytes that Q4_K and Q5_K share.
#[inline(always)]
fn scales_and_minima(s: &[u8]) -> ([u8; 8], [u8; 8]) {
    let word = |i: usize| u32::from_le_bytes([s[i], s[i + 1], s[i + 2], s[i + 3]]);
    let (u0, u1, u2) = (word(0), word(4), word(8));
    let low = 0x3f3f_3f3f;
    let scales = (u0 & low, (u2 & 0x0f0f_0f0f) | (u0 >> 2 & 0x3030_3030));
    let minima = (u1 & low, (u2 >> 4 & 0x0f0f_0f0f) | (u1 >> 2 & 0x3030_3030));
    let bytes = |(l, h): (u32, u32)| (u64::from(l) | u64::from(h) << 32).to_le_bytes();
    (bytes(scales), bytes(minima))
}

#[inline(always)]
fn k_scales(block: &[u8], s: &mut Scales) {
    let (d, min) = (half([block[0], block[1]]), half([block[2], block[3]]));
    let (scales, minima) = scales_and_minima(&block[4..16]);
    for i in 0..8 {
        s.a[i] = d * f32::from(scales[i]);
        s.c[i] = -(min * f32::from(minima[i]));
    }
}

pub(crate) struct Q4_0;
impl Unpack for Q4_0 {
    const DTYPE: DType = DType::Q4_0;
    const ZERO: i32 = 8;
    const BITS: u32 = 4;
    #[inline(always)]
    fn unpack(src: &[u8], u: &mut [u8; SLAB], s: &mut Scales) {
        for (i, b) in src.as_chunks::<18>().0.iter().take(8).enumerate() {
            s.a[i] = half([b[0], b[1]]);
            nibbles(&b[2..], group(u, 32 * i), |q| q);
        }
    }
}

pub(crate) struct Q4_1;
impl Unpack for Q4_1 {
    const DTYPE: DType = DType::Q4_1;
    const ZERO: i32 = 0;
    const MIN: bool = true;
    const BITS: u32 = 4;
    #[inline(always)]
    fn unpack(src: &[u8], u: &mut [u8; SLAB], s: &mut Scales) {
        for (i, b) in src.as_chunks::<20>().0.iter().take(8).enumerate() {
            s.a[i] = half([b[0], b[1]]);
            s.c[i] = half([b[2], b[3]]);
            nibbles(&b[4..], group(u, 32 * i), |q| q);
        }
    }
}

pub(crate) struct Q5_0;
impl Unpack for Q5_0 {
    const DTYPE: DType = DType::Q5_0;
    const ZERO: i32 = 16;
    const BITS: u32 = 5;
    #[inline(always)]
    fn unpack(src: &[u8], u: &mut [u8; SLAB], s: &mut Scales) {
        for (i, b) in src.as_chunks::<22>().0.iter().take(8).enumerate() {
            s.a[i] = half([b[0], b[1]]);
            nibbles(&b[6..], group(u, 32 * i), |q| q);
            fifth_bits(&b[2..6], group(u, 32 * i));
        }
    }
}

pub(crate) struct Q5_1;
impl Unpack for Q5_1 {
    const DTYPE: DType = DType::Q5_1;
    const ZERO: i32 = 0;
    const MIN: bool = true;
    const BITS: u32 = 5;
    #[inline(always)]
    fn unpack(src: &[u8], u: &mut [u8; SLAB], s: &mut Scales) {
        for (i, b) in src.as_chunks::<24>().0.iter().take(8).enumerate() {
            s.a[i] = half([b[0], b[1]]);
            s.c[i] = half([b[2], b[3]]);
            nibbles(&b[8..], group(u, 32 * i), |q| q);
            fifth_bits(&b[4..8], group(u, 32 * i));
        }
    }
}

pub(crate) struct Q8_0;
impl Unpack for Q8_0 {
    const DTYPE: DType = DType::Q8_0;
    const ZERO: i32 = 128;
    const BITS: u32 = 8;
    #[inline(always)]
    fn unpack(src: &[u8], u: &mut [u8; SLAB], s: &mut Scales) {
        for (i, b) in src.as_chunks::<34>().0.iter().take(8).enumerate() {
            s.a[i] = half([b[0], b[1]]);
            let u = group(u, 32 * i);
            for j in 0..32 {
                u[j] = b[2 + j] ^ 0x80;
            }
        }
    }
}

pub(crate) struct Q4_K;
impl Unpack for Q4_K {
    const DTYPE: DType = DType::Q4_K;
    const ZERO: i32 = 0;
    const MIN: bool = true;
    const BITS: u32 = 4;
    #[inline(always)]
    fn unpack(src: &[u8], u: &mut [u8; SLAB], s: &mut Scales) {
        let block: &[u8; 144] = src.try_into().expect("one block");
        k_scales(block, s);
        for (qs, u) in block[16..].as_chunks::<32>().0.iter().zip(u.as_chunks_mut::<64>().0) {
            for j in 0..32 {
                u[j] = qs[j] & 15;
                u[32 + j] = qs[j] >> 4;
            }
        }
    }
}

pub(crate) struct Q5_K;
impl Unpack for Q5_K {
    const DTYPE: DType = DType::Q5_K;
    const ZERO: i32 = 0;
    const MIN: bool = true;
    const BITS: u32 = 5;
    #[inline(always)]
    fn unpack(src: &[u8], u: &mut [u8; SLAB], s: &mut Scales) {
        let block: &[u8; 176] = src.try_into().expect("one block");
        k_scales(block, s);
        let qh: &[u8; 32] = block[16..48].try_into().expect("32 bytes");
        for (i, (qs, u)) in block[48..].as_chunks::<32>().0.iter().zip(u.as_chunks_mut::<64>().0).enumerate()
        {
            for j in 0..32 {
                u[j] = qs[j] & 15 | (qh[j] >> (2 * i) & 1) << 4;
                u[32 + j] = qs[j] >> 4 | (qh[j] >> (2 * i + 1) & 1) << 4;
            }
        }
    }
}

pub(crate) struct Q6_K;
impl Unpack for Q6_K {
    const DTYPE: DType = DType::Q6_K;
    const GROUP: usize = 16;
    const ZERO: i32 = 32;
    const BITS: u32 = 6;
    #[inline(always)]
    fn unpack(src: &[u8], u: &mut [u8; SLAB], s: &mut Scales) {
        let block: &[u8; 210] = src.try_into().expect("one block");
        let d = half([block[208], block[209]]);
        for i in 0..16 {
            s.a[i] = d * f32::from(block[192 + i] as i8);
        }
        for i in 0..2 {
            let ql: &[u8; 64] = block[64 * i..64 * i + 64].try_into().expect("64 bytes");
            let qh: &[u8; 32] = block[128 + 32 * i..160 + 32 * i].try_into().expect("32 bytes");
            let u: &mut [u8; 128] = (&mut u[128 * i..128 * i + 128]).try_into().expect("128 bytes");
            for j in 0..32 {
                u[j] = ql[j] & 15 | (qh[j] & 3) << 4;
                u[32 + j] = ql[32 + j] & 15 | (qh[j] >> 2 & 3) << 4;
                u[64 + j] = ql[j] >> 4 | (qh[j] >> 4 & 3) << 4;
                u[96 + j] = ql[32 + j] >> 4 | (qh[j] >> 6) << 4;
            }
        }
    }
}

/// The values of IQ4_NL and IQ4_XS plus 128 (llama.cpp's `kvalues_iq4nl`).
pub(crate) const IQ4: [u8; 16] = [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];

pub(crate) struct IQ4_NL;
impl Unpack for IQ4_NL {
    const DTYPE: DType = DType::IQ4_NL;
    const ZERO: i32 = 128;
    const BITS: u32 = 8;
    #[inline(always)]
    fn unpack(src: &[u8], u: &mut [u8; SLAB], s: &mut Scales) {
        for (i, b) in src.as_chunks::<18>().0.iter().take(8).enumerate() {
            s.a[i] = half([b[0], b[1]]);
            nibbles(&b[2..], group(u, 32 * i), |q| IQ4[usize::from(q)]);
        }
    }
}

pub(crate) struct IQ4_XS;
impl Unpack for IQ4_XS {
    const DTYPE: DType = DType::IQ4_XS;
    const ZERO: i32 = 128;
    const BITS: u32 = 8;
    #[inline(always)]
    fn unpack(src: &[u8], u: &mut [u8; SLAB], s: &mut Scales) {
        let block: &[u8; 136] = src.try_into().expect("one block");
        let d = half([block[0], block[1]]);
        let high = u16::from_le_bytes([block[2], block[3]]);
        for i in 0..8 {
            let low = block[4 + i / 2] >> (4 * (i % 2)) & 15;
            let scale = i32::from(low) | i32::from(high >> (2 * i) & 3) << 4;
            s.a[i] = d * (scale - 32) as f32;
            nibbles(&block[8 + 16 * i..24 + 16 * i], group(u, 32 * i), |q| IQ4[usize::from(q)]);
        }
    }
}
