//! The matrix product of AVX2, for x86-64 of 2013 to 2020 and, with AVX-VNNI, for laptops since 2021.
//!
//! The loops, the panels of 32 weight rows and the tiles are those of AVX-512.
//! - [`widen()`] turns 8 rows at a time by shuffles; some two tokens' worth of work.
//! - `vpmaddubsw` multiplies unsigned by signed bytes and adds pairs in 16 bits, where pairs of 8-bit weights would saturate
//!   (2·255·127). Weights of four to six bits leave room for a whole group of columns ([`slab`]).
//! - Bytes of 8 bits are split by [`widen()`] into two planes of 4 bits ([`bytes`]).
//! - With AVX-VNNI `vpdpbusd` sums any bytes in 32 bits ([`vnni`]).
//! - [`dots()`]: one token is a dot per weight row.
//! - F32, and F16 and BF16 with few tokens, are multiplied in f32 ([`plain`]); with many, F16 and BF16 as whole numbers ([`int16`]).
//!
//! The share of products among the instructions of the vector ports bounds each: see the files. All take six tokens and two registers
//! of rows at once (12 sums), and their inner loops are kept rolled: unrolled, the compiler runs out of the 16 registers.

use std::arch::x86_64::*;

use super::gemm::{BIAS, prefetch};
use crate::cpu::matmul::{PANEL, Record, Tile};

mod bytes;
mod dots;
pub(super) mod int16;
mod plain;
pub(super) mod slab;
mod vnni;
mod widen;

pub(super) use bytes::multiply;
pub(super) use dots::{act, dots};
pub(super) use plain::{TOKENS as FLOAT_TOKENS, convert, dots as float_dots, multiply as float_multiply};
pub(super) use vnni::{multiply as multiply_vnni, multiply_slab as multiply_slab_vnni};
pub(super) use widen::widen;

/// Tokens that the kernels take at once.
pub(super) const TOKENS: usize = 6;

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
    /// As [`multiply()`], with `T` tokens; `group` and `row` are within the tile.
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
