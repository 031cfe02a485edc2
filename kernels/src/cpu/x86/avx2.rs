//! The int8 product of AVX2: a panel of 32 weight rows times up to six tokens.
//!
//! For x86-64 of 2013 to 2020; where the CPU has AVX-VNNI only the inner product differs ([`vnni`]). The loops and the tile are those of AVX-512.
//! - [`widen()`] turns 8 rows at a time by shuffles; some two tokens' worth of work.
//! - `vpmaddubsw` multiplies unsigned by signed bytes and adds pairs in 16 bits, where pairs of 8-bit weights would saturate
//!   (2·255·127). Narrow weights leave room for more: those of 4 bits are summed over 32 columns (8·2·15·127 = 30480) before one
//!   `vpmaddwd` widens them to 32 bits, those of 5 bits over 16, of 6 bits over 8. Bytes of 8 bits are split by [`widen()`] into two
//!   planes of 4 bits, of which the higher is multiplied by 16 where it is widened: two instructions for 32 products, where taking signs
//!   apart or `vpmaddwd` on 16-bit weights need as many or more.
//! - A sum becomes a float without a conversion, and meets both scales, as [`super::gemm`] says.
//! - So 256 products (8 rows, 32 columns, a token) are 8 `vpmaddubsw`, 7 `vpaddw`, 1 `vpmaddwd`, 1 `vpaddd` and 2 multiply-adds: 19
//!   instructions for 4 bits, 21 for 5, 24 for 6, 36 for 8; a minimum adds one. `vpmaddubsw`, `vpmaddwd` and `vpaddd`
//!   for each 32 products would be 24. Three vector ports thus do 40, 37, 32 or 21 products a cycle.
//! - Registers: 12 16-bit sums (6 tokens × 2 vectors), 2 weights, a broadcast and a product are all 16. The float sums stay
//!   in the first cache.
//! - [`dots()`]: one token is a dot per weight row, two distant rows at a time.

use std::arch::x86_64::*;

use super::gemm::{BIAS, prefetch};
use crate::cpu::matmul::{PANEL, Record, SLAB, Tile, Unpack};

mod dots;
mod plain;
mod vnni;
mod widen;

pub(super) use dots::dots;
pub(super) use plain::{TOKENS as FLOAT_TOKENS, convert, dots as float_dots, multiply as float_multiply};
pub(super) use vnni::multiply as multiply_vnni;
pub(super) use widen::widen;

/// Tokens that the kernels take at once.
pub(super) const TOKENS: usize = 6;

/// Dwords from the low to the high bits of a byte that is split.
const PLANE: usize = SLAB / 4 * PANEL;

/// Steps of four columns whose products fit 16 bits: 2·(2^bits − 1)·127·steps < 2^15.
const fn steps16(bits: u32) -> usize {
    match bits {
        5 => 4,
        6 => 2,
        // A plane of a split byte has four bits.
        _ => 8,
    }
}

/// `c[token][row]` += the sums of `blocks` blocks of 32 columns.
///
/// # Safety
/// `record` is valid for `tokens`·[`Record::len`] reads, `c` for `tokens`·[`PANEL`] reads and writes.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn multiply<F: Unpack>(
    tokens: usize,
    tile: &Tile,
    record: *const i32,
    c: *mut f32,
    blocks: usize,
) {
    // SAFETY: as this function's.
    unsafe {
        match (F::GROUP, F::MIN, F::BITS) {
            (32, false, 4) => of_tokens::<32, false, 4>(tokens, tile, record, c, blocks),
            (32, false, 5) => of_tokens::<32, false, 5>(tokens, tile, record, c, blocks),
            (32, false, 8) => of_tokens::<32, false, 8>(tokens, tile, record, c, blocks),
            (32, true, 4) => of_tokens::<32, true, 4>(tokens, tile, record, c, blocks),
            (32, true, 5) => of_tokens::<32, true, 5>(tokens, tile, record, c, blocks),
            (16, false, 6) => of_tokens::<16, false, 6>(tokens, tile, record, c, blocks),
            (group, min, bits) => unreachable!("no kernel for groups of {group}, minimum {min}, {bits} bits"),
        }
    }
}

/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn of_tokens<const GROUP: usize, const MIN: bool, const BITS: u32>(
    tokens: usize,
    tile: &Tile,
    record: *const i32,
    c: *mut f32,
    blocks: usize,
) {
    // SAFETY: as this function's.
    unsafe {
        match tokens {
            6 => kernel::<6, GROUP, MIN, BITS>(tile, record, c, blocks),
            5 => kernel::<5, GROUP, MIN, BITS>(tile, record, c, blocks),
            4 => kernel::<4, GROUP, MIN, BITS>(tile, record, c, blocks),
            3 => kernel::<3, GROUP, MIN, BITS>(tile, record, c, blocks),
            2 => kernel::<2, GROUP, MIN, BITS>(tile, record, c, blocks),
            1 => kernel::<1, GROUP, MIN, BITS>(tile, record, c, blocks),
            _ => unreachable!("{tokens} tokens in a group of {TOKENS}"),
        }
    }
}

/// # Safety
/// As [`multiply`], with `T` tokens.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn kernel<const T: usize, const GROUP: usize, const MIN: bool, const BITS: u32>(
    tile: &Tile,
    record: *const i32,
    c: *mut f32,
    blocks: usize,
) {
    let (steps, run) = (GROUP / 4, steps16(BITS));
    // Two vectors at once: of 16 rows, or of both planes of 8.
    let (rows, second) = if BITS == 8 { (8, PLANE) } else { (16, 8) };
    let ones = _mm256_set1_epi16(1);
    // SAFETY: all offsets lie within the record's T·len dwords, the tile, and c's T·PANEL floats.
    unsafe {
        let scales = record.add(Record::off(GROUP) * T);
        let codes = scales.add(8 * T);
        let u = tile.u.as_ptr().cast::<i32>();
        for group in 0..blocks * (32 / GROUP) {
            prefetch::<T, GROUP>(record, c, group);
            let (u, codes) = (u.add(group * steps * PANEL), codes.add(group * steps * T));
            for row in (0..PANEL).step_by(rows) {
                let mut sums = [[_mm256_setzero_si256(); 2]; T];
                for first in (0..steps).step_by(run) {
                    let mut acc = [[_mm256_setzero_si256(); 2]; T];
                    for step in first..first + run {
                        let w = u.add(step * PANEL + row);
                        let (w0, w1) = (_mm256_load_si256(w.cast()), _mm256_load_si256(w.add(second).cast()));
                        for (i, acc) in acc.iter_mut().enumerate() {
                            let x = _mm256_set1_epi32(*codes.add(step * T + i));
                            acc[0] = _mm256_add_epi16(acc[0], _mm256_maddubs_epi16(w0, x));
                            acc[1] = _mm256_add_epi16(acc[1], _mm256_maddubs_epi16(w1, x));
                        }
                    }
                    let place = if BITS == 8 { _mm256_set1_epi16(16) } else { ones };
                    for (sum, acc) in sums.iter_mut().zip(acc) {
                        sum[0] = _mm256_add_epi32(sum[0], _mm256_madd_epi16(acc[0], ones));
                        sum[1] = _mm256_add_epi32(sum[1], _mm256_madd_epi16(acc[1], place));
                    }
                }
                let start = |i: usize| match MIN {
                    true => _mm256_set1_epi32(BIAS),
                    false => _mm256_set1_epi32(*record.add(group * T + i)),
                };
                let to = Place { tile, record, c, group, row };
                if BITS == 8 {
                    let sum = |i: usize| _mm256_add_epi32(_mm256_add_epi32(sums[i][0], sums[i][1]), start(i));
                    to.add::<T, GROUP, MIN>(std::array::from_fn(sum));
                } else {
                    to.add::<T, GROUP, MIN>(std::array::from_fn(|i| _mm256_add_epi32(sums[i][0], start(i))));
                    let to = Place { row: row + 8, ..to };
                    to.add::<T, GROUP, MIN>(std::array::from_fn(|i| _mm256_add_epi32(sums[i][1], start(i))));
                }
            }
        }
    }
}

/// Where the sums of a group of columns, of eight rows and all tokens of a record, go.
#[derive(Clone, Copy)]
struct Place<'a> {
    tile: &'a Tile,
    record: *const i32,
    c: *mut f32,
    group: usize,
    row: usize,
}

impl Place<'_> {
    /// Adds the sums, which started at [`BIAS`], times both scales to those of the rows.
    ///
    /// # Safety
    /// As [`multiply`], with `T` tokens; `group` and `row` are within the tile.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add<const T: usize, const GROUP: usize, const MIN: bool>(self, sums: [__m256i; T]) {
        let Self { tile, record, c, group, row } = self;
        let block = group * GROUP / 32;
        // SAFETY: eight floats of 32 of a group, the T scales of a block in the record, eight of 32 sums of each token.
        unsafe {
            let scales = record.add(Record::off(GROUP) * T).cast::<f32>();
            let a = _mm256_load_ps(tile.a[group].as_ptr().add(row));
            let minus = _mm256_mul_ps(a, _mm256_set1_ps(-f32::from_bits(BIAS as u32)));
            for (i, sum) in sums.into_iter().enumerate() {
                let to = c.add(i * PANEL + row);
                let product = _mm256_fmadd_ps(_mm256_castsi256_ps(sum), a, minus);
                let scale = _mm256_broadcast_ss(&*scales.add(block * T + i));
                let mut out = _mm256_fmadd_ps(product, scale, _mm256_loadu_ps(to));
                if MIN {
                    let min = _mm256_load_ps(tile.c[block].as_ptr().add(row));
                    let sum = _mm256_broadcast_ss(&*record.cast::<f32>().add(block * T + i));
                    out = _mm256_fmadd_ps(min, sum, out);
                }
                _mm256_storeu_ps(to, out);
            }
        }
    }
}
