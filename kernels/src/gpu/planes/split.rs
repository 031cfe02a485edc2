//! Blocks taken apart, format by format: copies, shifts and masks of whole words.
//!
//! Each format is one loop over its blocks, with slices of known length on both sides, so that nothing is checked inside:
//! some GB/s on one core, faster than a file is read. Elements that a word of 16 bytes holds are moved at once.

use crate::DType;

/// Takes the blocks of whole rows in `src` apart into the planes of quants, high bits and scales.
///
/// # Panics
/// In debug builds, where the planes are not as long as the blocks ask.
pub(super) fn split(dtype: DType, cols: usize, src: &[u8], [quants, high, scales]: [&mut [u8]; 3]) {
    match dtype {
        DType::F32 | DType::I32 => quants.copy_from_slice(src),
        DType::F16 | DType::BF16 => halves(cols, src, quants),
        // d | codes
        DType::Q4_0 | DType::IQ4_NL => each::<18, 16, 0, 2>(src, quants, high, scales, |b, q, _, s| {
            s.copy_from_slice(&b[..2]);
            q.copy_from_slice(&b[2..]);
        }),
        DType::Q8_0 => each::<34, 32, 0, 2>(src, quants, high, scales, |b, q, _, s| {
            s.copy_from_slice(&b[..2]);
            q.copy_from_slice(&b[2..]);
        }),
        // d, m | codes
        DType::Q4_1 => each::<20, 16, 0, 4>(src, quants, high, scales, |b, q, _, s| {
            s.copy_from_slice(&b[..4]);
            q.copy_from_slice(&b[4..]);
        }),
        // d | fifth bits | codes
        DType::Q5_0 => each::<22, 16, 4, 2>(src, quants, high, scales, |b, q, h, s| {
            s.copy_from_slice(&b[..2]);
            *h = fifth(word(b, 2)).to_le_bytes();
            q.copy_from_slice(&b[6..]);
        }),
        // d, m | fifth bits | codes
        DType::Q5_1 => each::<24, 16, 4, 4>(src, quants, high, scales, |b, q, h, s| {
            s.copy_from_slice(&b[..4]);
            *h = fifth(word(b, 4)).to_le_bytes();
            q.copy_from_slice(&b[8..]);
        }),
        // d, dmin, scales | codes
        DType::Q4_K => each::<144, 128, 0, 16>(src, quants, high, scales, |b, q, _, s| {
            s.copy_from_slice(&b[..16]);
            pairs(&b[16..], q);
        }),
        // d, dmin, scales | fifth bits | codes
        DType::Q5_K => each::<176, 128, 32, 16>(src, quants, high, scales, |b, q, h, s| {
            s.copy_from_slice(&b[..16]);
            for (j, h) in h.chunks_exact_mut(4).enumerate() {
                // Bit j of byte i is that of element i of group j.
                let bits = (0..8).fold(0, |h, w| h | (word(b, 16 + 4 * w) >> j & 0x0101_0101) << w);
                h.copy_from_slice(&bits.to_le_bytes());
            }
            pairs(&b[48..], q);
        }),
        // low bits | high bits | scales | d
        DType::Q6_K => each::<210, 128, 64, 20>(src, quants, high, scales, |b, q, h, s| {
            s[..18].copy_from_slice(&b[192..]);
            s[18..].fill(0);
            q6_k(b, q, h);
        }),
        // d, scales | codes
        DType::IQ4_XS => each::<136, 128, 0, 8>(src, quants, high, scales, |b, q, _, s| {
            s.copy_from_slice(&b[..8]);
            q.copy_from_slice(&b[8..]);
        }),
    }
}

/// Calls `f` with each block of `B` bytes and with its `Q`, `H` and `S` bytes of the planes.
fn each<const B: usize, const Q: usize, const H: usize, const S: usize>(
    src: &[u8],
    quants: &mut [u8],
    high: &mut [u8],
    scales: &mut [u8],
    f: impl Fn(&[u8; B], &mut [u8; Q], &mut [u8; H], &mut [u8; S]),
) {
    let blocks = src.as_chunks::<B>().0;
    let (quants, scales) = (quants.as_chunks_mut::<Q>().0, scales.as_chunks_mut::<S>().0);
    debug_assert!(
        blocks.len() == quants.len() && blocks.len() == scales.len(),
        "planes of {} blocks",
        blocks.len()
    );
    for (i, ((block, q), s)) in blocks.iter().zip(quants).zip(scales).enumerate() {
        let h = (&mut high[i * H..][..H]).try_into().expect("H bytes");
        f(block, q, h, s);
    }
}

/// Rows of 16-bit floats, padded with zeros to a multiple of 32.
fn halves(cols: usize, src: &[u8], dst: &mut [u8]) {
    for (src, dst) in src.chunks_exact(2 * cols).zip(dst.chunks_exact_mut(2 * cols.next_multiple_of(32))) {
        let (row, rest) = dst.split_at_mut(2 * cols);
        row.copy_from_slice(src);
        rest.fill(0);
    }
}

/// The little-endian word at `at`.
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The 16 bytes at `at`.
fn quad(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(bytes[at..at + 16].try_into().expect("16 bytes"))
}

/// Bit i of `bits`, i = 16h + 4w + b, goes to bit 8b + 4h + w.
fn fifth(bits: u32) -> u32 {
    (0..8).fold(0, |high, w| {
        // Four bits, each to a byte of its own: copies of them 7 bits apart.
        let four = (bits >> (4 * w) & 15).wrapping_mul(0x0020_4081) & 0x0101_0101;
        high | four << w
    })
}

/// The low 4 bits of each byte.
const LOW: u128 = 0x0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f;

/// 32 bytes, from `at` on, that hold two groups, the first in their low and the second in their high bits: both groups as their
/// planes have them.
fn pair(bytes: &[u8], at: usize) -> [u128; 2] {
    let (a, b) = (quad(bytes, at), quad(bytes, at + 16));
    [a & LOW | (b & LOW) << 4, a >> 4 & LOW | b & !LOW]
}

/// The codes of Q4_K and Q5_K: groups 2c and 2c+1 share 32 bytes.
fn pairs(src: &[u8], dst: &mut [u8; 128]) {
    for (c, dst) in dst.chunks_exact_mut(32).enumerate() {
        let [first, second] = pair(src, 32 * c);
        dst[..16].copy_from_slice(&first.to_le_bytes());
        dst[16..].copy_from_slice(&second.to_le_bytes());
    }
}

/// Q6_K: of the four groups of 128 elements, 0 and 2 share 32 bytes of low bits, so do 1 and 3; all share 32 bytes of high bits.
fn q6_k(block: &[u8; 210], quants: &mut [u8; 128], high: &mut [u8; 64]) {
    for half in 0..2 {
        for g in 0..2 {
            for (i, q) in pair(block, 64 * half + 32 * g).into_iter().enumerate() {
                quants[64 * half + 16 * (g + 2 * i)..][..16].copy_from_slice(&q.to_le_bytes());
            }
        }
        for (i, high) in high[32 * half..][..32].chunks_exact_mut(4).enumerate() {
            let (g, part) = (i / 2, i % 2);
            let bits = (0..4).fold(0, |h, w| {
                h | (word(block, 128 + 32 * half + 16 * part + 4 * w) >> (2 * g) & 0x0303_0303) << (2 * w)
            });
            high.copy_from_slice(&bits.to_le_bytes());
        }
    }
}
