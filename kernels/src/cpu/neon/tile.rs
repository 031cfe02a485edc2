//! The tile and the packed activations of the int8 kernels, and what becomes of a kernel's sums.
//!
//! Codes lie by dwords of four columns, a panel's rows (a group's tokens) side by side; `smmla` wants eight columns of a row together, so
//! [`Kernel::WORDS`] dwords of a row come before the next row's. Rows are widened four at a time, in registers, and transposed there.

use std::arch::aarch64::*;

use super::{Kernel, shares, slab};
use crate::cpu::matmul::{PANEL, Record, SLAB, Scales, Tile, Unpack, Weights, quantize_to};

/// Where dword `k4` of row or token `i` of `n` lies.
#[inline(always)]
const fn place<K: Kernel>(k4: usize, i: usize, n: usize) -> usize {
    (k4 / K::WORDS * n + i) * K::WORDS + k4 % K::WORDS
}

/// Scales of groups begin behind the codes in [`Tile::u`], as many dwords a row as codes have: i32 in units of [`Tile::d`], or f32.
const SCALES: usize = SLAB / 4;

/// The codes of dword `k4` of row `row` and the rows after it.
///
/// # Safety
/// `k4` < 64 and `row` < [`PANEL`].
#[inline(always)]
pub(super) unsafe fn codes<K: Kernel>(tile: &Tile, k4: usize, row: usize) -> *const i8 {
    // SAFETY: within the first half of `u`.
    unsafe { tile.u.as_ptr().cast::<i8>().add(4 * place::<K>(k4, row, PANEL)) }
}

/// The scales of `group` from row `row` on, each [`Kernel::WORDS`] times: i32, or bits of f32.
///
/// # Safety
/// `group` < 16 and `row` < [`PANEL`].
#[inline(always)]
pub(super) unsafe fn scales<K: Kernel>(tile: &Tile, group: usize, row: usize) -> *const i32 {
    // SAFETY: within the second half of `u`, which is aligned.
    unsafe { tile.u.as_ptr().add(SCALES).cast::<i32>().add((group * PANEL + row) * K::WORDS) }
}

/// The largest scale in units of d, for totals of a slab below 2³¹: of |Σ| ≤ 256·127·15 with four bits, and twice that with more.
const fn steps_of(bits: u32) -> f32 {
    if bits == 4 { 4000.0 } else { 2000.0 }
}

/// Widens slab `slab` of the rows from `first` on, four at a time; rows past the end get scales of 0.
#[inline(always)]
pub(super) fn widen<K: Kernel, F: Unpack>(tile: &mut Tile, w: Weights<'_>, first: usize, slab: usize) {
    let bytes = SLAB / F::DTYPE.block_len() * F::DTYPE.block_bytes();
    for r in (0..PANEL).step_by(4) {
        let parts: [&[u8]; 4] = std::array::from_fn(|i| match first + r + i < w.rows() {
            true => w.part(first + r + i, slab * bytes, bytes),
            false => &[],
        });
        let mut s = [Scales::default(); 4];
        if parts.iter().all(|part| part.len() == bytes) {
            // SAFETY: whole slabs.
            unsafe {
                for (s, part) in s.iter_mut().zip(parts) {
                    *s = slab::scales::<F>(part.as_ptr());
                }
                let [a, b, c, d] = parts;
                let p = [a.as_ptr(), b.as_ptr(), c.as_ptr(), d.as_ptr()];
                spread_block::<K, F, 0>(tile, r, p);
                spread_block::<K, F, 1>(tile, r, p);
                spread_block::<K, F, 2>(tile, r, p);
                spread_block::<K, F, 3>(tile, r, p);
                spread_block::<K, F, 4>(tile, r, p);
                spread_block::<K, F, 5>(tile, r, p);
                spread_block::<K, F, 6>(tile, r, p);
                spread_block::<K, F, 7>(tile, r, p);
            }
        } else {
            let mut u = [[0; SLAB]; 4];
            for ((part, u), s) in
                parts.iter().zip(&mut u).zip(&mut s).filter(|((part, _), _)| !part.is_empty())
            {
                F::unpack(part, u, s);
            }
            for block in 0..8 {
                let signed = |u: &[u8; SLAB], i: usize| {
                    let u: &[u8; 16] = u[32 * block + i..][..16].try_into().expect("16 bytes");
                    // SAFETY: 16 bytes.
                    unsafe { vld1q_s8(u.map(|u| u.wrapping_sub(F::ZERO as u8) as i8).as_ptr()) }
                };
                spread::<K>(tile, block, r, u.each_ref().map(|u| [signed(u, 0), signed(u, 16)]));
            }
        }
        spread_scales::<K, F>(tile, r, &s);
    }
}

/// Stores the codes of block `I` of rows `r` to `r` + 3, whose slabs are at `p`.
///
/// # Safety
/// They are whole.
#[inline(always)]
unsafe fn spread_block<K: Kernel, F: Unpack, const I: usize>(tile: &mut Tile, r: usize, p: [*const u8; 4]) {
    // SAFETY: as this function's.
    let codes = unsafe {
        [
            slab::signed::<F, I>(p[0]),
            slab::signed::<F, I>(p[1]),
            slab::signed::<F, I>(p[2]),
            slab::signed::<F, I>(p[3]),
        ]
    };
    spread::<K>(tile, I, r, codes);
}

/// Stores the codes of block `block` of rows `r` to `r` + 3.
#[inline(always)]
fn spread<K: Kernel>(tile: &mut Tile, block: usize, r: usize, [a, b, c, d]: [[int8x16_t; 2]; 4]) {
    let to = tile.u[..SCALES].as_flattened_mut();
    for half in 0..2 {
        // SAFETY: NEON belongs to the target; 16 bytes each, of four dwords.
        unsafe {
            if K::WORDS == 1 {
                let float = |v: [int8x16_t; 2]| vreinterpretq_f32_s8(v[half]);
                let columns = transposed([float(a), float(b), float(c), float(d)]);
                for (j, v) in columns.into_iter().enumerate() {
                    let to = &mut to[place::<K>(block * 8 + half * 4 + j, r, PANEL)..][..4];
                    vst1q_f32(to.as_mut_ptr().cast(), v);
                }
            } else {
                for (pair, [a, b]) in [[a, b], [c, d]].into_iter().enumerate() {
                    let (a, b) = (vreinterpretq_s64_s8(a[half]), vreinterpretq_s64_s8(b[half]));
                    for (j, v) in [vzip1q_s64(a, b), vzip2q_s64(a, b)].into_iter().enumerate() {
                        let to =
                            &mut to[place::<K>(block * 8 + half * 4 + 2 * j, r + 2 * pair, PANEL)..][..4];
                        vst1q_s64(to.as_mut_ptr().cast(), v);
                    }
                }
            }
        }
    }
}

/// Lane i of vector j becomes lane j of vector i.
#[inline(always)]
pub(super) fn transposed([a, b, c, d]: [float32x4_t; 4]) -> [float32x4_t; 4] {
    // SAFETY: NEON belongs to the target.
    unsafe {
        let (ac, bd) = (vtrn1q_f32(a, b), vtrn1q_f32(c, d));
        let (ac2, bd2) = (vtrn2q_f32(a, b), vtrn2q_f32(c, d));
        let low =
            |a, b| vreinterpretq_f32_f64(vtrn1q_f64(vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b)));
        let high =
            |a, b| vreinterpretq_f32_f64(vtrn2q_f64(vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b)));
        [low(ac, bd), low(ac2, bd2), high(ac, bd), high(ac2, bd2)]
    }
}

/// Stores the scales of rows `r` to `r` + 3: as whole numbers where they are shared, and then their unit, which is no number where one of them
/// is none; and the minima.
#[inline(always)]
fn spread_scales<K: Kernel, F: Unpack>(tile: &mut Tile, r: usize, s: &[Scales; 4]) {
    let groups = SLAB / F::GROUP;
    let to = tile.u[SCALES..].as_flattened_mut();
    // SAFETY: NEON belongs to the target; four floats each.
    unsafe {
        let mut a = [vdupq_n_f32(0.0); 16];
        for (four, a) in a[..groups].as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let at = |i: usize| vld1q_f32(s[i].a.as_ptr().add(4 * four));
            *a = transposed([at(0), at(1), at(2), at(3)]);
        }
        if shares::<F>() {
            let largest = a[..groups]
                .iter()
                .fold(vdupq_n_u32(0), |largest, a| vmaxq_u32(largest, vreinterpretq_u32_f32(vabsq_f32(*a))));
            let largest = vreinterpretq_f32_u32(largest);
            let steps = steps_of(F::BITS);
            vst1q_f32(tile.d[r..r + 4].as_mut_ptr(), vmulq_n_f32(largest, 1.0 / steps));
            // Where all are 0 this is infinite, a product no number, and an integer of that 0.
            let inverse = vdivq_f32(vdupq_n_f32(steps), largest);
            for a in &mut a[..groups] {
                *a = vreinterpretq_f32_s32(vcvtnq_s32_f32(vmulq_f32(*a, inverse)));
            }
        }
        for (group, a) in a[..groups].iter().enumerate() {
            let to = &mut to[(group * PANEL + r) * K::WORDS..][..4 * K::WORDS];
            let to = to.as_mut_ptr().cast::<f32>();
            if K::WORDS == 1 {
                vst1q_f32(to, *a);
            } else {
                vst1q_f32(to, vzip1q_f32(*a, *a));
                vst1q_f32(to.add(4), vzip2q_f32(*a, *a));
            }
        }
        if F::MIN {
            for (four, to) in tile.c.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let at = |i: usize| vld1q_f32(s[i].c.as_ptr().add(4 * four));
                for (c, to) in transposed([at(0), at(1), at(2), at(3)]).into_iter().zip(to) {
                    vst1q_f32(to[r..r + 4].as_mut_ptr(), c);
                }
            }
        }
    }
}

/// Packs the columns of a slab for a group of tokens, as [`crate::cpu::matmul::pack()`] but for the order of codes and, where scales
/// are shared, their like. Sums of codes are left out where no minimum needs them.
#[inline(always)]
pub(super) fn pack<K: Kernel, F: Unpack>(
    x: &[f32],
    k: usize,
    cols: usize,
    tokens: usize,
    record: &mut [i32],
) {
    let (sums, rest) = record.split_at_mut(Record::off(F::GROUP) * tokens);
    let (scales, codes) = rest.split_at_mut(SLAB / 32 * tokens);
    let largest = |x: &[f32]| x.iter().fold(0, |m, x| m.max(x.to_bits() & 0x7fff_ffff));
    for token in 0..tokens {
        let x = &x[token * k..][..cols];
        let all = if shares::<F>() { largest(x) } else { 0 };
        for (block, x) in x.as_chunks::<32>().0.iter().enumerate() {
            let act = quantize_to(x, f32::from_bits(if shares::<F>() { all } else { largest(x) }));
            scales[block * tokens + token] = act.d.to_bits() as i32;
            if F::MIN {
                sums[block * tokens + token] = (act.d * act.sum as f32).to_bits() as i32;
            }
            for (j, q) in act.q.as_chunks::<4>().0.iter().enumerate() {
                let q = i32::from_le_bytes(q.map(|q| q as u8));
                codes[place::<K>(block * 8 + j, token, tokens)] = q;
            }
        }
    }
}

/// The first codes of a record of `T` tokens.
///
/// # Safety
/// The record is whole.
#[inline(always)]
pub(super) unsafe fn codes_of<F: Unpack, const T: usize>(record: *const i32) -> *const i32 {
    // SAFETY: starts and scales come before the codes.
    unsafe { record.add((Record::off(F::GROUP) + SLAB / 32) * T) }
}

/// The scales of `T` tokens' activations in block `block`.
///
/// # Safety
/// The record is whole.
#[inline(always)]
pub(super) unsafe fn scales_of<F: Unpack, const T: usize>(record: *const i32, block: usize) -> [f32; T] {
    // SAFETY: the starts come before them, and there are eight blocks.
    unsafe { record.add((Record::off(F::GROUP) + block) * T).cast::<[f32; T]>().read() }
}

/// The sums of a slab, of `T` tokens and 4·`Q` rows: integers while they are in units of both scales, else floats.
#[derive(Clone, Copy)]
pub(super) struct Totals<const Q: usize, const T: usize> {
    whole: [[int32x4_t; Q]; T],
    float: [[float32x4_t; Q]; T],
}

impl<const Q: usize, const T: usize> Totals<Q, T> {
    #[inline(always)]
    pub(super) fn new() -> Self {
        // SAFETY: NEON belongs to the target.
        unsafe { Self { whole: [[vdupq_n_s32(0); Q]; T], float: [[vdupq_n_f32(0.0); Q]; T] } }
    }

    /// Adds a group's `sum` times `scale` (bits of floats where they are not shared) and there also times `d`.
    #[inline(always)]
    pub(super) fn add<F: Unpack>(
        &mut self,
        t: usize,
        q: usize,
        sum: int32x4_t,
        scale: int32x4_t,
        d: float32x4_t,
    ) {
        // SAFETY: NEON belongs to the target.
        unsafe {
            if shares::<F>() {
                self.whole[t][q] = vmlaq_s32(self.whole[t][q], sum, scale);
            } else {
                let scale = vmulq_f32(vreinterpretq_f32_s32(scale), d);
                self.float[t][q] = vfmaq_f32(self.float[t][q], vcvtq_f32_s32(sum), scale);
            }
        }
    }

    /// The sums, still in the units of integer scales.
    #[inline(always)]
    pub(super) fn get<F: Unpack>(&self) -> [[float32x4_t; Q]; T] {
        if !shares::<F>() {
            return self.float;
        }
        let mut sums = self.float;
        for (sums, whole) in sums.iter_mut().zip(self.whole) {
            for (sum, whole) in sums.iter_mut().zip(whole) {
                // SAFETY: NEON belongs to the target.
                *sum = unsafe { vcvtq_f32_s32(whole) };
            }
        }
        sums
    }
}

/// `c[token][row..]` += the sums of a slab of `blocks` blocks, and its minima.
///
/// # Safety
/// `record` and `c` are those of `T` tokens; `row` + 4·`Q` ≤ [`PANEL`].
#[inline(always)]
pub(super) unsafe fn finish<F: Unpack, const Q: usize, const T: usize>(
    tile: &Tile,
    record: *const i32,
    c: *mut f32,
    row: usize,
    blocks: usize,
    mut sums: [[float32x4_t; Q]; T],
) {
    // SAFETY: four rows of the panel of each array, and whole records.
    unsafe {
        let d = scales_of::<F, T>(record, 0);
        for (i, sums) in sums.iter_mut().enumerate() {
            for (q, sum) in sums.iter_mut().enumerate() {
                let c = vld1q_f32(c.add(i * PANEL + row + 4 * q));
                *sum = if shares::<F>() {
                    let unit = vld1q_f32(tile.d.as_ptr().add(row + 4 * q));
                    vfmaq_f32(c, *sum, vmulq_n_f32(unit, d[i]))
                } else {
                    vaddq_f32(c, *sum)
                };
            }
        }
        if F::MIN {
            for (block, c) in tile.c.iter().enumerate().take(blocks) {
                let x = record.add(block * T).cast::<[f32; T]>().read();
                for q in 0..Q {
                    let c = vld1q_f32(c.as_ptr().add(row + 4 * q));
                    for (sums, x) in sums.iter_mut().zip(x) {
                        sums[q] = vfmaq_n_f32(sums[q], c, x);
                    }
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (q, sum) in sums.iter().enumerate() {
                vst1q_f32(c.add(i * PANEL + row + 4 * q), *sum);
            }
        }
    }
}
