//! The int8 product of AVX-VNNI: `vpdpbusd` of 256 bits, on laptops since 2021 that have no AVX-512.
//!
//! Sums have 32 bits from the start, so that no byte is too wide: 256 products are 8 `vpdpbusd` and 2 multiply-adds, or 3 with a
//! minimum ([`multiply`]). Weights of four bits are summed by slabs in integers ([`slab`]): 8 `vpdpbusd` and a
//! `vpdpwssd` ([`multiply_slab`]).

use std::arch::x86_64::*;

use super::{BIAS, Place, TOKENS, prefetch, slab};
use crate::cpu::matmul::{PANEL, Record, SLAB, Tile, Unpack};

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
    // Hidden from the compiler, which would unroll the loop.
    let steps = std::hint::black_box(GROUP / 4);
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

/// `c[token][row]` += the sums of `blocks` blocks of 32 columns of four bits, whose tile and records are `PAIRED`.
///
/// # Safety
/// `record` is valid for `tokens`·[`slab::record_len`]\(32) reads, `c` for `tokens`·[`PANEL`] reads and writes.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(in super::super) unsafe fn multiply_slab(
    tokens: usize,
    tile: &Tile,
    record: *const i32,
    c: *mut f32,
    blocks: usize,
) {
    // SAFETY: as this function's.
    unsafe {
        match tokens {
            6 => kernel_slab::<6>(tile, record, c, blocks),
            5 => kernel_slab::<5>(tile, record, c, blocks),
            4 => kernel_slab::<4>(tile, record, c, blocks),
            3 => kernel_slab::<3>(tile, record, c, blocks),
            2 => kernel_slab::<2>(tile, record, c, blocks),
            1 => kernel_slab::<1>(tile, record, c, blocks),
            _ => unreachable!("{tokens} tokens in a group of {TOKENS}"),
        }
    }
}

/// # Safety
/// As [`multiply_slab`], with `T` tokens.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
unsafe fn kernel_slab<const T: usize>(tile: &Tile, record: *const i32, c: *mut f32, blocks: usize) {
    // Hidden from the compiler, which would unroll the loop.
    let steps = std::hint::black_box(8);
    // SAFETY: all offsets lie within the record's T·len dwords, the tile, and c's T·PANEL floats.
    unsafe {
        let codes = record.add((SLAB / 32 + SLAB / 64) * T);
        let u = tile.u.as_ptr().cast::<i32>();
        for row in [0, 16] {
            let mut totals = [[_mm256_setzero_si256(); 2]; T];
            for block in 0..blocks {
                slab::prefetch::<T, 32>(record, c, block, row);
                let mut acc = [[_mm256_setzero_si256(); 2]; T];
                for (i, acc) in acc.iter_mut().enumerate() {
                    *acc = [_mm256_set1_epi32(*record.add(block * T + i)); 2];
                }
                for k4 in block * steps..(block + 1) * steps {
                    let w = u.add(k4 * PANEL + row);
                    let (w0, w1) = (_mm256_load_si256(w.cast()), _mm256_load_si256(w.add(8).cast()));
                    for (i, acc) in acc.iter_mut().enumerate() {
                        let x = _mm256_set1_epi32(*codes.add(k4 * T + i));
                        acc[0] = _mm256_dpbusd_avx_epi32(acc[0], w0, x);
                        acc[1] = _mm256_dpbusd_avx_epi32(acc[1], w1, x);
                    }
                }
                for half in 0..2 {
                    let s = _mm256_load_si256(tile.s[block].as_ptr().add(row + 8 * half).cast());
                    for i in 0..T {
                        totals[i][half] = _mm256_dpwssd_avx_epi32(totals[i][half], acc[i][half], s);
                    }
                }
            }
            slab::finish::<T, 32>(tile, record, c, row, totals);
        }
    }
}
