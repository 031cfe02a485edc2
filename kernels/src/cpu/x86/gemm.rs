//! The int8 kernel of AVX-512 with VNNI: a panel of 32 weight rows times up to six tokens.
//!
//! For formats whose weights stay exact, Q8_0: those of fewer bits take fewer operations in [`slab`](super::slab).
//! Per block of 32 columns, 16 `vpdpbusd` for each token sum the products exactly, weights being the unsigned operand; the sums are
//! multiplied by both scales and added in f32. Sums need no conversion: they start at the bits of M = 1.5·2²³, so that, being
//! smaller than 2²², they are the low bits of the float M + sum, and fma(M + sum, a, −M·a) is a·sum. 12 integer sums, 12 float sums, 2 weights and a broadcast are 27 of the
//! 32 registers; a seventh token would spill. Tokens left over run in the same kernel compiled for fewer.

#![allow(clippy::needless_range_loop, reason = "an index runs over several arrays side by side")]

use std::arch::x86_64::*;

use crate::cpu::matmul::{PANEL, Record, Tile, Unpack};

/// Tokens that the kernel takes at once.
pub(super) const TOKENS: usize = 6;

/// The bits of M = 1.5·2²³ as f32, at which integer sums start.
pub(super) const BIAS: i32 = 0x4b40_0000;

/// `c[token][row]` += the sums of `blocks` blocks of 32 columns.
///
/// # Safety
/// `record` is valid for `tokens`·[`Record::len`] reads, `c` for `tokens`·[`PANEL`] reads and writes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn multiply<F: Unpack>(
    tokens: usize,
    tile: &Tile,
    record: *const i32,
    c: *mut f32,
    blocks: usize,
) {
    assert!(F::GROUP == 32 && !F::MIN, "{} is not multiplied block by block", F::DTYPE);
    // SAFETY: as this function's.
    unsafe {
        match tokens {
            6 => kernel::<6>(tile, record, c, blocks),
            5 => kernel::<5>(tile, record, c, blocks),
            4 => kernel::<4>(tile, record, c, blocks),
            3 => kernel::<3>(tile, record, c, blocks),
            2 => kernel::<2>(tile, record, c, blocks),
            1 => kernel::<1>(tile, record, c, blocks),
            _ => unreachable!("{tokens} tokens in a group of {TOKENS}"),
        }
    }
}

/// # Safety
/// As [`multiply`], with `T` tokens.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn kernel<const T: usize>(tile: &Tile, record: *const i32, c: *mut f32, blocks: usize) {
    const STEPS: usize = 32 / 4;
    let off = record;
    // SAFETY: all offsets lie within the record's T·len dwords, the tile, and c's T·PANEL floats.
    unsafe {
        let scales = record.add(Record::off(32) * T);
        let codes = scales.add(8 * T);
        let mut sums = [[_mm512_setzero_ps(); 2]; T];
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = [_mm512_loadu_ps(c.add(i * PANEL)), _mm512_loadu_ps(c.add(i * PANEL + 16))];
        }
        let u = tile.u.as_ptr().cast::<i32>();
        for block in 0..blocks {
            prefetch::<T, 32>(record, c, block);
            let mut acc = [[_mm512_setzero_si512(); 2]; T];
            for (i, acc) in acc.iter_mut().enumerate() {
                *acc = [_mm512_set1_epi32(*off.add(block * T + i)); 2];
            }
            for step in 0..STEPS {
                let k4 = block * STEPS + step;
                let w0 = _mm512_load_si512(u.add(k4 * PANEL).cast());
                let w1 = _mm512_load_si512(u.add(k4 * PANEL + 16).cast());
                for (i, acc) in acc.iter_mut().enumerate() {
                    let x = _mm512_set1_epi32(*codes.add(k4 * T + i));
                    acc[0] = _mm512_dpbusd_epi32(acc[0], w0, x);
                    acc[1] = _mm512_dpbusd_epi32(acc[1], w1, x);
                }
            }
            for half in 0..2 {
                let a = _mm512_load_ps(tile.a[block].as_ptr().add(16 * half));
                // M·a is exact, as a has 19 bits at most: so `product` is a·sum, rounded once.
                let minus = _mm512_mul_ps(a, _mm512_set1_ps(-f32::from_bits(BIAS as u32)));
                for i in 0..T {
                    let d = _mm512_castsi512_ps(_mm512_set1_epi32(*scales.add(block * T + i)));
                    let product = _mm512_fmadd_ps(_mm512_castsi512_ps(acc[i][half]), a, minus);
                    sums[i][half] = _mm512_fmadd_ps(product, d, sums[i][half]);
                }
            }
        }
        for (i, sum) in sums.iter().enumerate() {
            _mm512_storeu_ps(c.add(i * PANEL), sum[0]);
            _mm512_storeu_ps(c.add(i * PANEL + 16), sum[1]);
        }
    }
}

/// Fetches a part of the next record and of the next sums, which lie behind these, into the first cache.
#[inline(always)]
pub(super) fn prefetch<const T: usize, const GROUP: usize>(record: *const i32, c: *const f32, group: usize) {
    let groups = 256 / GROUP;
    let fetch = |first: *const u8, bytes: usize| {
        for line in 0..bytes.div_ceil(groups * 64) {
            let at = first.wrapping_add(bytes + ((group * bytes / groups) & !63) + 64 * line);
            // SAFETY: SSE is part of x86-64, and a prefetch of any address is harmless.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
        }
    };
    fetch(record.cast(), T * Record::len(GROUP) * 4);
    fetch(c.cast(), T * PANEL * 4);
}
