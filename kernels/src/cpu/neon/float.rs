//! The f32 product for F32, F16 and BF16 weights.
//!
//! The kernel holds 32 rows of two tokens in 16 registers. Weights become floats four at a time and, in the tile, are transposed by fours.

use std::arch::aarch64::*;

use super::{fetch, slab, tile};
use crate::{
    DType,
    cpu::matmul::{FloatTile, PANEL, Plain, SPAN, Weights},
};

/// Bytes ahead of the current ones that are fetched, as in [`super::dots`].
const AHEAD: usize = 2048;

/// Four weights as floats.
///
/// # Safety
/// They are readable at `p`.
#[inline(always)]
unsafe fn four<F: Plain>(p: *const u8) -> float32x4_t {
    // SAFETY: as this function's.
    unsafe {
        match F::DTYPE {
            DType::F32 => vreinterpretq_f32_u8(vld1q_u8(p)),
            DType::F16 => slab::floats(vreinterpret_u16_u8(vld1_u8(p))),
            DType::BF16 => vreinterpretq_f32_u32(vshll_n_u16::<16>(vreinterpret_u16_u8(vld1_u8(p)))),
            other => unreachable!("{other} is no plain number"),
        }
    }
}

/// Converts columns `col`.. ([`SPAN`] at most) of the rows from `first` on; rows past the end become 0.
pub(super) fn convert<F: Plain>(to: &mut FloatTile, w: Weights<'_>, first: usize, col: usize) {
    let size = size_of::<F::Bytes>();
    for r in (0..PANEL).step_by(4) {
        let part = |i: usize| match first + r + i < w.rows() {
            true => w.part(first + r + i, col * size, SPAN * size),
            false => &[],
        };
        let parts: [&[u8]; 4] = std::array::from_fn(part);
        let cols = parts[0].len() / size;
        let whole = if parts[3].is_empty() { 0 } else { cols / 4 * 4 };
        for i in (0..whole).step_by(4) {
            // SAFETY: four weights of rows of as many bytes, and four rows of four columns of the tile.
            unsafe {
                let at = |row: usize| four::<F>(parts[row].as_ptr().add(i * size));
                let columns = tile::transposed([at(0), at(1), at(2), at(3)]);
                for (column, v) in columns.into_iter().enumerate() {
                    vst1q_f32(to.0[i + column].as_mut_ptr().add(r), v);
                }
            }
        }
        for (i, part) in parts.into_iter().enumerate() {
            if part.is_empty() {
                to.0.iter_mut().for_each(|out| out[r + i] = 0.0);
            }
            for (out, bytes) in to.0.iter_mut().zip(bytemuck::cast_slice::<u8, F::Bytes>(part)).skip(whole) {
                out[r + i] = F::get(*bytes);
            }
        }
    }
}

/// `out[i]` = row `first` + i times x. Two rows at a time, half the rows apart.
pub(super) fn dots<F: Plain>(w: Weights<'_>, first: usize, x: &[f32], out: &mut [f32]) {
    let far = out.len() / 2;
    let (near, rest) = out.split_at_mut(far);
    for (i, out) in near.iter_mut().enumerate() {
        [*out, rest[i]] = dot::<F, 2>([w.row(first + i), w.row(first + far + i)], x);
    }
    if let Some(out) = rest.get_mut(far) {
        [*out] = dot::<F, 1>([w.row(first + 2 * far)], x);
    }
}

/// Rows times x, in 16 sums each.
#[inline(always)]
fn dot<F: Plain, const R: usize>(rows: [&[u8]; R], x: &[f32]) -> [f32; R] {
    let size = size_of::<F::Bytes>();
    assert!(rows.iter().all(|row| row.len() == x.len() * size));
    let whole = x.len() / 16 * 16;
    // SAFETY: 16 weights of each row, and of x.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); 4]; R];
        for i in (0..whole).step_by(16) {
            for (row, sums) in rows.iter().zip(&mut sums) {
                let row = row.as_ptr().wrapping_add(i * size);
                fetch(row.wrapping_add(AHEAD));
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = vfmaq_f32(
                        *sum,
                        four::<F>(row.add(4 * j * size)),
                        vld1q_f32(x.as_ptr().add(i + 4 * j)),
                    );
                }
            }
        }
        let mut out = [0.0; R];
        for ((out, [a, b, c, d]), row) in out.iter_mut().zip(sums).zip(rows) {
            *out = vaddvq_f32(vaddq_f32(vaddq_f32(a, b), vaddq_f32(c, d)));
            let rest = bytemuck::cast_slice::<u8, F::Bytes>(&row[whole * size..]);
            *out += rest.iter().zip(&x[whole..]).map(|(w, x)| F::get(*w) * x).sum::<f32>();
        }
        out
    }
}

/// c[token][row] += the sums of `cols` columns: 8 registers of sums a token.
///
/// # Safety
/// `x` is valid for `T`·`cols` reads, `c` for `T`·[`PANEL`] reads and writes; `cols` is at most the tile's.
#[target_feature(enable = "neon")]
pub(super) unsafe fn kernel<const T: usize>(tile: &FloatTile, x: *const f32, c: *mut f32, cols: usize) {
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
