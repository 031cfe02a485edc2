//! The int8 kernel of AVX2 for weights of 8 bits: a panel of 32 weight rows times up to six tokens.
//!
//! A byte is split into a low and a high plane of four bits, whose products are summed in 16 bits over 32 columns (8·2·15·127 = 30480);
//! `vpmaddwd` widens them, and multiplies the high plane by 16. So 256 products are 16 `vpmaddubsw`, 14 `vpaddw`, 2 `vpmaddwd`, 2 `vpaddd`
//! and 2 multiply-adds: 36 instructions. Signs taken apart (`vpsignb`, `vpmaddubsw`, `vpmaddwd`, `vpaddd` for each 32 products) and
//! 16-bit weights (2 `vpmaddwd`, 2 `vpaddd`) need as many, the latter activations of twice the size too. A sum becomes a
//! float without a conversion, and meets both scales, as [`super::super::gemm`] says.

use std::arch::x86_64::*;

use super::{Place, TOKENS, prefetch};
use crate::cpu::matmul::{PANEL, Record, SLAB, Tile};

/// Columns that share a scale, in the formats of 8 bits.
const GROUP: usize = 32;

/// Dwords from the low to the high bits of a byte that is split.
const PLANE: usize = SLAB / 4 * PANEL;

/// `c[token][row]` += the sums of `blocks` blocks of 32 columns.
///
/// # Safety
/// `record` is valid for `tokens`·[`Record::len`] reads, `c` for `tokens`·[`PANEL`] reads and writes.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) unsafe fn multiply(
    tokens: usize,
    tile: &Tile,
    record: *const i32,
    c: *mut f32,
    blocks: usize,
) {
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
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn kernel<const T: usize>(tile: &Tile, record: *const i32, c: *mut f32, blocks: usize) {
    // Hidden from the compiler, which would unroll the loop.
    let steps = std::hint::black_box(GROUP / 4);
    let (ones, sixteens) = (_mm256_set1_epi16(1), _mm256_set1_epi16(16));
    // SAFETY: all offsets lie within the record's T·len dwords, the tile, and c's T·PANEL floats.
    unsafe {
        let codes = record.add((Record::off(GROUP) + 8) * T);
        let u = tile.u.as_ptr().cast::<i32>();
        for group in 0..blocks {
            prefetch::<T, GROUP>(record, c, group);
            for row in (0..PANEL).step_by(8) {
                let mut acc = [[_mm256_setzero_si256(); 2]; T];
                for k4 in group * steps..(group + 1) * steps {
                    let w = u.add(k4 * PANEL + row);
                    let (low, high) = (_mm256_load_si256(w.cast()), _mm256_load_si256(w.add(PLANE).cast()));
                    for (i, acc) in acc.iter_mut().enumerate() {
                        let x = _mm256_set1_epi32(*codes.add(k4 * T + i));
                        acc[0] = _mm256_add_epi16(acc[0], _mm256_maddubs_epi16(low, x));
                        acc[1] = _mm256_add_epi16(acc[1], _mm256_maddubs_epi16(high, x));
                    }
                }
                let sum = |i: usize| {
                    let [low, high]: [__m256i; 2] = acc[i];
                    let sum =
                        _mm256_add_epi32(_mm256_madd_epi16(low, ones), _mm256_madd_epi16(high, sixteens));
                    _mm256_add_epi32(sum, _mm256_set1_epi32(*record.add(group * T + i)))
                };
                Place { tile, record, c, group, row }.add::<T, GROUP, false>(std::array::from_fn(sum));
            }
        }
    }
}
