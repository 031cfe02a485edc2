//! The int8 product of AVX-VNNI: `vpdpbusd` of 256 bits, on laptops since 2021 that have no AVX-512.
//!
//! The kernel of [`super`] with sums of 32 bits from the start: 256 products are 8 `vpdpbusd` and 2 multiply-adds, and no byte is too wide.

use std::arch::x86_64::*;

use super::{BIAS, Place, TOKENS, prefetch};
use crate::cpu::matmul::{PANEL, Record, Tile, Unpack};

/// `c[token][row]` += the sums of `blocks` blocks of 32 columns.
///
/// # Safety
/// `record` is valid for `tokens`·[`Record::len`] reads, `c` for `tokens`·[`PANEL`] reads and writes.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(in super::super) unsafe fn multiply<F: Unpack>(
    tokens: usize,
    tile: &Tile,
    record: *const i32,
    c: *mut f32,
    blocks: usize,
) {
    // SAFETY: as this function's.
    unsafe {
        match (F::GROUP, F::MIN) {
            (32, false) => of_tokens::<32, false>(tokens, tile, record, c, blocks),
            (32, true) => of_tokens::<32, true>(tokens, tile, record, c, blocks),
            (16, false) => of_tokens::<16, false>(tokens, tile, record, c, blocks),
            (group, min) => unreachable!("no kernel for groups of {group}, minimum {min}"),
        }
    }
}

/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
unsafe fn of_tokens<const GROUP: usize, const MIN: bool>(
    tokens: usize,
    tile: &Tile,
    record: *const i32,
    c: *mut f32,
    blocks: usize,
) {
    // SAFETY: as this function's.
    unsafe {
        match tokens {
            6 => kernel::<6, GROUP, MIN>(tile, record, c, blocks),
            5 => kernel::<5, GROUP, MIN>(tile, record, c, blocks),
            4 => kernel::<4, GROUP, MIN>(tile, record, c, blocks),
            3 => kernel::<3, GROUP, MIN>(tile, record, c, blocks),
            2 => kernel::<2, GROUP, MIN>(tile, record, c, blocks),
            1 => kernel::<1, GROUP, MIN>(tile, record, c, blocks),
            _ => unreachable!("{tokens} tokens in a group of {TOKENS}"),
        }
    }
}

/// # Safety
/// As [`multiply`], with `T` tokens.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
unsafe fn kernel<const T: usize, const GROUP: usize, const MIN: bool>(
    tile: &Tile,
    record: *const i32,
    c: *mut f32,
    blocks: usize,
) {
    let steps = GROUP / 4;
    // SAFETY: all offsets lie within the record's T·len dwords, the tile, and c's T·PANEL floats.
    unsafe {
        let codes = record.add((Record::off(GROUP) + 8) * T);
        let u = tile.u.as_ptr().cast::<i32>();
        for group in 0..blocks * (32 / GROUP) {
            prefetch::<T, GROUP>(record, c, group);
            for row in (0..PANEL).step_by(16) {
                let mut acc = [[_mm256_set1_epi32(BIAS); 2]; T];
                if !MIN {
                    for (i, acc) in acc.iter_mut().enumerate() {
                        *acc = [_mm256_set1_epi32(*record.add(group * T + i)); 2];
                    }
                }
                for k4 in group * steps..(group + 1) * steps {
                    let w = u.add(k4 * PANEL + row);
                    let (w0, w1) = (_mm256_load_si256(w.cast()), _mm256_load_si256(w.add(8).cast()));
                    for (i, acc) in acc.iter_mut().enumerate() {
                        let x = _mm256_set1_epi32(*codes.add(k4 * T + i));
                        acc[0] = _mm256_dpbusd_avx_epi32(acc[0], w0, x);
                        acc[1] = _mm256_dpbusd_avx_epi32(acc[1], w1, x);
                    }
                }
                let to = Place { tile, record, c, group, row };
                to.add::<T, GROUP, MIN>(acc.map(|acc| acc[0]));
                Place { row: row + 8, ..to }.add::<T, GROUP, MIN>(acc.map(|acc| acc[1]));
            }
        }
    }
}
