//! The product of one token: a dot per weight row.
//!
//! Memory bounds it where loads are in flight: two rows far apart are read at once, and lines are fetched ahead. A block of 32 columns is
//! two registers of codes, unpacked there; their products go to four sums in 32 bits, which meet the scales as floats.
//! What a format's ZERO takes away is taken per block, from Σx, like a minimum.

use std::arch::aarch64::*;

use super::{fetch, slab};
use crate::cpu::matmul::{ActSlab, SLAB, Scales, Unpack, Weights};

/// Bytes ahead of the current ones that are fetched: 10 GB/s of one core times 200 ns of memory, which is a guess until a board is measured.
const AHEAD: usize = 2048;

/// Slabs whose lines are fetched together, so that few are fetched twice.
const BURST: usize = 4;

/// Products of bytes, some neighbours added.
pub(super) trait Dot {
    /// `sums` + the sixteen products of `w` and `x`: each lane some four of them.
    ///
    /// # Safety
    /// The machine has the instructions; to be inlined where they are enabled.
    unsafe fn dot(sums: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t;
}

/// `out[i]` = row `first` + i times x. Two rows at a time, half the rows apart.
///
/// # Safety
/// The machine has the instructions of `D`; to be inlined where they are enabled.
#[inline(always)]
pub(super) unsafe fn dots<D: Dot, F: Unpack>(w: Weights<'_>, first: usize, x: &[ActSlab], out: &mut [f32]) {
    let far = out.len() / 2;
    let (near, rest) = out.split_at_mut(far);
    // SAFETY: as this function's.
    unsafe {
        for (i, out) in near.iter_mut().enumerate() {
            [*out, rest[i]] = dot::<D, F, 2>([w.row(first + i), w.row(first + far + i)], x);
        }
        if let Some(out) = rest.get_mut(far) {
            [*out] = dot::<D, F, 1>([w.row(first + 2 * far)], x);
        }
    }
}

/// Rows times x.
///
/// # Safety
/// As [`dots`].
#[inline(always)]
unsafe fn dot<D: Dot, F: Unpack, const R: usize>(rows: [&[u8]; R], x: &[ActSlab]) -> [f32; R] {
    let bytes = SLAB / F::DTYPE.block_len() * F::DTYPE.block_bytes();
    let whole = rows[0].len() / bytes;
    // SAFETY: as this function's; a part is a whole slab.
    unsafe {
        let mut sums = Sums([[vdupq_n_f32(0.0); 2]; R]);
        for (i, x) in x[..whole].iter().enumerate() {
            let (mut parts, mut scales) = ([std::ptr::null(); R], [[0.0; 16]; R]);
            for r in 0..R {
                let part = rows[r][i * bytes..(i + 1) * bytes].as_ptr();
                if i % BURST == 0 {
                    for line in (0..BURST * bytes).step_by(64) {
                        fetch(part.wrapping_add(AHEAD + line));
                    }
                }
                scales[r] = sums.minima::<F>(r, slab::scales::<F>(part), x);
                parts[r] = part;
            }
            sums.block::<D, F, 0>(parts, &scales, x);
            sums.block::<D, F, 1>(parts, &scales, x);
            sums.block::<D, F, 2>(parts, &scales, x);
            sums.block::<D, F, 3>(parts, &scales, x);
            sums.block::<D, F, 4>(parts, &scales, x);
            sums.block::<D, F, 5>(parts, &scales, x);
            sums.block::<D, F, 6>(parts, &scales, x);
            sums.block::<D, F, 7>(parts, &scales, x);
        }
        if let Some(x) = x.get(whole) {
            for (r, row) in rows.iter().enumerate() {
                rest::<D, F, R>(&mut sums, r, &row[whole * bytes..], x);
            }
        }
        let mut out = [0.0; R];
        for (out, [a, b]) in out.iter_mut().zip(sums.0) {
            *out = vaddvq_f32(vaddq_f32(a, b));
        }
        out
    }
}

/// The last blocks of row `r`, where they are no whole slab.
///
/// # Safety
/// As [`dots`].
#[inline(always)]
unsafe fn rest<D: Dot, F: Unpack, const R: usize>(sums: &mut Sums<R>, r: usize, row: &[u8], x: &ActSlab) {
    let (mut u, mut scales) = ([0; SLAB], Scales::default());
    F::unpack(row, &mut u, &mut scales);
    if F::BITS == 8 {
        u.iter_mut().for_each(|u| *u ^= 0x80);
    }
    // SAFETY: 32 bytes of each block; the rest as this function's.
    unsafe {
        let scales = sums.minima::<F>(r, scales, x);
        for block in 0..SLAB / 32 {
            let u = u.as_ptr().cast::<i8>().add(32 * block);
            sums.add::<D, F>(r, block, [vld1q_s8(u), vld1q_s8(u.add(16))], &scales, x);
        }
    }
}

/// The sums of `R` rows.
struct Sums<const R: usize>([[float32x4_t; 2]; R]);

impl<const R: usize> Sums<R> {
    /// Adds block `I` of all rows.
    ///
    /// # Safety
    /// As [`dots`]; whole slabs are readable at `parts`.
    #[inline(always)]
    unsafe fn block<D: Dot, F: Unpack, const I: usize>(
        &mut self,
        parts: [*const u8; R],
        scales: &[[f32; 16]; R],
        x: &ActSlab,
    ) {
        for r in 0..R {
            // SAFETY: as this function's.
            unsafe { self.add::<D, F>(r, I, slab::codes::<F, I>(parts[r]), &scales[r], x) }
        }
    }

    /// Adds a block of row `r`.
    ///
    /// # Safety
    /// As [`dots`].
    #[inline(always)]
    unsafe fn add<D: Dot, F: Unpack>(
        &mut self,
        r: usize,
        block: usize,
        w: [int8x16_t; 2],
        scales: &[f32; 16],
        x: &ActSlab,
    ) {
        let sums = &mut self.0[r];
        // SAFETY: 32 codes and eight offsets of a block; the rest as this function's.
        unsafe {
            let q = x.q.as_ptr().add(32 * block);
            let q = [vld1q_s8(q), vld1q_s8(q.add(16))];
            if F::GROUP == 16 {
                for half in 0..2 {
                    let off = vld1q_s32(x.off.as_ptr().add(8 * block + 4 * half));
                    let sum = vcvtq_f32_s32(D::dot(off, w[half], q[half]));
                    sums[half] = vfmaq_n_f32(sums[half], sum, scales[2 * block + half]);
                }
            } else {
                let sum = D::dot(D::dot(vdupq_n_s32(0), w[0], q[0]), w[1], q[1]);
                sums[block % 2] = vfmaq_n_f32(sums[block % 2], vcvtq_f32_s32(sum), scales[block]);
            }
        }
    }

    /// Adds the minima of row `r`, and takes away what ZERO stands for where codes are unsigned and blocks have one scale. The scales,
    /// times those of x.
    #[inline(always)]
    fn minima<F: Unpack>(&mut self, r: usize, scales: Scales, x: &ActSlab) -> [f32; 16] {
        let mut out = [0.0; 16];
        for i in 0..SLAB / F::GROUP / 4 {
            // SAFETY: four of eight numbers, or of sixteen.
            unsafe {
                let a = vld1q_f32(scales.a.as_ptr().add(4 * i));
                if F::GROUP == 16 {
                    // One scale for all of x.
                    vst1q_f32(out.as_mut_ptr().add(4 * i), vmulq_n_f32(a, x.d[0]));
                    continue;
                }
                vst1q_f32(out.as_mut_ptr().add(4 * i), vmulq_f32(a, vld1q_f32(x.d.as_ptr().add(4 * i))));
                if F::BITS < 8 {
                    let c = if F::MIN {
                        vld1q_f32(scales.c.as_ptr().add(4 * i))
                    } else {
                        vmulq_n_f32(a, -F::ZERO as f32)
                    };
                    self.0[r][i] = vfmaq_f32(self.0[r][i], c, vld1q_f32(x.sum.as_ptr().add(4 * i)));
                }
            }
        }
        out
    }
}
