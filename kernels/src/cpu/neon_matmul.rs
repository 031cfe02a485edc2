//! What NEON does for the matrix product.
//!
//! The tile and the loops are those of x86; widening and packing are the plain Rust, which becomes NEON code here because NEON is part of
//! every 64-bit Arm. The int8 kernel takes a token at a time: `smull` multiplies two rows' four columns by the token's, `sadalp`
//! adds neighbours into 32 bits, so that a row has two sums, and 16 registers hold a panel's. Bytes are taken as
//! signed: those of 8 bits less 128, the others as they are. Given up for now: `sdot` and `smmla`, whose intrinsics
//! are not stable.

use std::arch::aarch64::*;

use super::{
    Isa,
    matmul::{
        ActSlab, FloatIsa, FloatTile, FloatWay, Int8Isa, PANEL, Plain, Record, SLAB, SPAN, Scales, Tile,
        Unpack, Weights, convert, float_pack, pack, widen,
    },
};

/// The machine has NEON.
#[derive(Clone, Copy)]
pub(crate) struct Neon(());

impl Neon {
    /// The proof, where it holds.
    pub(crate) fn new() -> Option<Self> {
        Isa::Neon.is_available().then_some(Self(()))
    }
}

impl Int8Isa for Neon {
    const TOKENS: usize = 1;

    fn widen<F: Unpack>(self, tile: &mut Tile, w: Weights<'_>, first: usize, slab: usize) {
        widen::<F>(tile, w, first, slab);
    }

    fn prefetch<F: Unpack>(self, _: Weights<'_>, _: usize, _: usize) {}

    fn pack<F: Unpack>(self, x: &[f32], k: usize, cols: usize, tokens: usize, record: &mut [i32]) {
        pack::<F, 0>(x, k, cols, tokens, record);
    }

    fn multiply<F: Unpack>(self, tokens: usize, tile: &Tile, record: &[i32], c: &mut [f32], blocks: usize) {
        assert!(tokens == 1 && record.len() >= Record::len(F::GROUP) && c.len() >= PANEL && blocks <= 8);
        // SAFETY: the proof; the lengths are checked.
        unsafe { kernel::<F>(tile, record.as_ptr(), c.as_mut_ptr(), blocks) }
    }

    fn dots<F: Unpack>(self, w: Weights<'_>, first: usize, x: &[ActSlab], out: &mut [f32]) {
        let bytes = SLAB / F::DTYPE.block_len() * F::DTYPE.block_bytes();
        for (i, out) in out.iter_mut().enumerate() {
            *out = 0.0;
            for (slab, x) in x.iter().enumerate() {
                let (mut u, mut s) = ([0; SLAB], Scales::default());
                F::unpack(w.part(first + i, slab * bytes, bytes), &mut u, &mut s);
                // SAFETY: the proof.
                *out += unsafe { dot::<F>(&u, &s, x) };
            }
        }
    }
}

/// Bytes as signed numbers: those of 8 bits less 128.
#[inline]
#[target_feature(enable = "neon")]
fn signed<F: Unpack>(u: uint8x16_t) -> int8x16_t {
    vreinterpretq_s8_u8(if F::BITS == 8 { veorq_u8(u, vdupq_n_u8(0x80)) } else { u })
}

/// c[row] += the sums of `blocks` blocks of 32 columns.
///
/// # Safety
/// `record` is valid for [`Record::len`] reads, `c` for [`PANEL`] reads and writes.
#[target_feature(enable = "neon")]
unsafe fn kernel<F: Unpack>(tile: &Tile, record: *const i32, c: *mut f32, blocks: usize) {
    let steps = F::GROUP / 4;
    // SAFETY: all offsets lie within the record's len dwords, the tile, and c's PANEL floats.
    unsafe {
        let scales = record.add(Record::off(F::GROUP));
        let codes = scales.add(8);
        for group in 0..blocks * (32 / F::GROUP) {
            let block = group * F::GROUP / 32;
            let mut acc = [vdupq_n_s32(0); PANEL / 2];
            for k4 in group * steps..(group + 1) * steps {
                let x = vreinterpretq_s8_s32(vdupq_n_s32(*codes.add(k4)));
                let u = tile.u[k4].as_ptr().cast::<u8>();
                for four in 0..PANEL / 4 {
                    let w = signed::<F>(vld1q_u8(u.add(16 * four)));
                    acc[2 * four] = vpadalq_s16(acc[2 * four], vmull_s8(vget_low_s8(w), vget_low_s8(x)));
                    acc[2 * four + 1] = vpadalq_s16(acc[2 * four + 1], vmull_high_s8(w, x));
                }
            }
            let (off, d) = (*record.add(group), f32::from_bits(*scales.add(block) as u32));
            let start = if F::MIN || F::BITS == 8 { 0 } else { off };
            for four in 0..PANEL / 4 {
                let sum = vaddq_s32(vpaddq_s32(acc[2 * four], acc[2 * four + 1]), vdupq_n_s32(start));
                let a = vld1q_f32(tile.a[group].as_ptr().add(4 * four));
                let mut out = vld1q_f32(c.add(4 * four));
                out = vfmaq_f32(out, vcvtq_f32_s32(sum), vmulq_n_f32(a, d));
                if F::MIN {
                    let min = vld1q_f32(tile.c[block].as_ptr().add(4 * four));
                    out = vfmaq_n_f32(out, min, f32::from_bits(off as u32));
                }
                vst1q_f32(c.add(4 * four), out);
            }
        }
    }
}

/// A slab of a row times the token's.
#[inline]
#[target_feature(enable = "neon")]
fn dot<F: Unpack>(u: &[u8; SLAB], s: &Scales, x: &ActSlab) -> f32 {
    let mut sum = vdupq_n_f32(0.0);
    for part in 0..SLAB / 16 {
        // SAFETY: 16 bytes, and four offsets, of part `part` of 16.
        let (w, q, off) = unsafe {
            (
                signed::<F>(vld1q_u8(u.as_ptr().add(16 * part))),
                vld1q_s8(x.q.as_ptr().add(16 * part)),
                vld1q_s32(x.off.as_ptr().add(4 * part)),
            )
        };
        let mut product = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(q)));
        product = vpadalq_s16(product, vmull_high_s8(w, q));
        if !F::MIN && F::BITS != 8 {
            // The offsets of four columns each, all of one group.
            product = vaddq_s32(product, off);
        }
        let scale = s.a[16 * part / F::GROUP] * x.d[part / 2];
        sum = vfmaq_n_f32(sum, vcvtq_f32_s32(product), scale);
    }
    let mut sum = vaddvq_f32(sum);
    if F::MIN {
        sum += s.c.iter().zip(&x.sum).map(|(c, x)| c * x).sum::<f32>();
    }
    sum
}

impl FloatWay for Neon {
    type Tile = FloatTile;
    const TOKENS: usize = 2;

    fn convert<F: Plain>(self, tile: &mut FloatTile, w: Weights<'_>, first: usize, col: usize) {
        convert::<F>(tile, w, first, col);
    }

    fn pack(self, x: &[f32], k: usize, cols: usize, tokens: usize, record: &mut [f32]) {
        float_pack(x, k, cols, tokens, record);
    }

    fn multiply(self, tokens: usize, tile: &FloatTile, x: &[f32], c: &mut [f32], cols: usize) {
        assert!(x.len() >= tokens * cols && c.len() >= tokens * PANEL && cols <= SPAN);
        // SAFETY: the proof; the lengths are checked.
        unsafe {
            match tokens {
                2 => float_kernel::<2>(tile, x.as_ptr(), c.as_mut_ptr(), cols),
                1 => float_kernel::<1>(tile, x.as_ptr(), c.as_mut_ptr(), cols),
                _ => unreachable!("{tokens} tokens in a group of 2"),
            }
        }
    }
}

impl FloatIsa for Neon {
    fn dots<F: Plain>(self, w: Weights<'_>, first: usize, x: &[f32], out: &mut [f32]) {
        for (i, out) in out.iter_mut().enumerate() {
            let row = bytemuck::cast_slice::<u8, F::Bytes>(w.row(first + i));
            // 16 sums: four registers.
            let mut sums = [0.0f32; 16];
            for (row, x) in row.chunks(16).zip(x.chunks(16)) {
                for ((sum, w), x) in sums.iter_mut().zip(row).zip(x) {
                    *sum = F::get(*w).mul_add(*x, *sum);
                }
            }
            *out = sums.iter().sum();
        }
    }
}

/// c[token][row] += the sums of `cols` columns: 8 registers of sums a token.
///
/// # Safety
/// `x` is valid for `T`·`cols` reads, `c` for `T`·[`PANEL`] reads and writes; `cols` is at most the tile's.
#[target_feature(enable = "neon")]
unsafe fn float_kernel<const T: usize>(tile: &FloatTile, x: *const f32, c: *mut f32, cols: usize) {
    // SAFETY: `cols` rows of the tile, cols·T floats of x, T·PANEL of c.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); PANEL / 4]; T];
        for (i, sum) in sums.iter_mut().enumerate() {
            for (q, sum) in sum.iter_mut().enumerate() {
                *sum = vld1q_f32(c.add(i * PANEL + 4 * q));
            }
        }
        for (col, w) in tile.0.iter().enumerate().take(cols) {
            for q in 0..PANEL / 4 {
                let w = vld1q_f32(w.as_ptr().add(4 * q));
                for (i, sum) in sums.iter_mut().enumerate() {
                    sum[q] = vfmaq_n_f32(sum[q], w, *x.add(col * T + i));
                }
            }
        }
        for (i, sum) in sums.iter().enumerate() {
            for (q, sum) in sum.iter().enumerate() {
                vst1q_f32(c.add(i * PANEL + 4 * q), *sum);
            }
        }
    }
}
