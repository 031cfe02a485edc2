//! The int8 kernels of AVX-512 with VNNI that give a token one scale per slab: a panel of 32 weight rows times up to twelve tokens.
//!
//! [`gemm`](super::gemm) spends 6 of 22 vector operations on scales. Where activations share a scale per 256 columns, as in llama.cpp's K formats, most of
//! these go. Two ways, by what a format can bear:
//! - **formats of six bits a weight at most** ([`requantize`], [`multiply`]): a panel's slab becomes bytes in units of one d per row,
//!   d = max |w|/127, as (w/d + 128) rounded. 64 products then take two operations more. Rounding costs .0064 of a product's size (normal
//!   weights) beside the .0066 of the activations, and a format of four bits .08, one of five .04;
//! - **Q6_K** ([`multiply_groups`]): its own error is .02, so its bytes stay, and each group of 16 columns is multiplied by its scale:
//!   4 products and one more; the conversion to f32 runs on another port than products where this was measured (Zen 5).
//!
//! A prototype measured such errors; NUMERICS.md has the KL divergence found here.

#![allow(clippy::needless_range_loop, reason = "an index runs over several arrays side by side")]

use std::arch::x86_64::*;

use crate::cpu::matmul::{PANEL, SLAB, Tile, Unpack};

/// Where things lie in a token's part of packed activations, in dwords:
/// ```text
/// [64]      x: codes of four columns per dword, i8
/// [1]       the scale, f32
/// [STARTS]  where sums start: −128·Σx, or −ZERO·Σx per group of 16
/// ```
/// Tokens follow each other at a distance that is no multiple of a cache line, so that loads of one column from all tokens meet
/// different banks.
pub(super) struct SlabRecord;

impl SlabRecord {
    /// The dword of the scale.
    const SCALE: usize = SLAB / 4;
    /// The first dword of the starts.
    const STARTS: usize = Self::SCALE + 1;
    /// Dwords where there is one start.
    pub(super) const LEN: usize = 68;
    /// Dwords where there is one per group of 16 columns.
    pub(super) const LEN_GROUPS: usize = 84;
}

/// Tokens that [`multiply`] takes at once: 24 sums, 2 weights and a broadcast are 27 registers.
pub(super) const TOKENS: usize = 12;

/// Tokens that [`multiply_groups`] takes at once: 14 sums, 14 totals, 2 weights and a broadcast are 31 registers.
pub(super) const TOKENS_GROUPS: usize = 7;

/// Turns the bytes of the `blocks` blocks of a widened tile into w/d + 128, and puts the d of each row into `tile.d`; a
/// scale that is no number makes d none.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn requantize<F: Unpack>(tile: &mut Tile, blocks: usize) {
    let zero = _mm512_setzero_ps();
    let lowest = _mm512_set1_ps(-F::ZERO as f32);
    let range = _mm512_set1_ps(((1 << F::BITS) - 1) as f32);
    for lane in [0, 16] {
        // SAFETY: 16 floats or dwords of arrays of 32.
        unsafe {
            let mut scales = [[zero; 2]; 8];
            let mut largest = _mm512_setzero_si512();
            for (block, scales) in scales.iter_mut().enumerate().take(blocks) {
                let a = _mm512_load_ps(tile.a[block].as_ptr().add(lane));
                let c = if F::MIN { _mm512_load_ps(tile.c[block].as_ptr().add(lane)) } else { zero };
                // The block's weights lie between w(0) and w(2^BITS − 1).
                let first = _mm512_fmadd_ps(a, lowest, c);
                let last = _mm512_fmadd_ps(a, range, first);
                // Bits of magnitudes order as the magnitudes do, and a NaN comes above all.
                for w in [first, last] {
                    largest = _mm512_max_epi32(largest, _mm512_castps_si512(_mm512_abs_ps(w)));
                }
                *scales = [a, first];
            }
            let largest = _mm512_castsi512_ps(largest);
            _mm512_store_ps(
                tile.d.as_mut_ptr().add(lane),
                _mm512_mul_ps(largest, _mm512_set1_ps(1.0 / 127.0)),
            );
            let some = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(largest, zero);
            // In 256ths of d.
            let inverse = _mm512_maskz_div_ps(some, _mm512_set1_ps(127.0 * 256.0), largest);
            for (block, [a, first]) in scales.into_iter().enumerate().take(blocks) {
                let scale = both_halves(_mm512_cvtps_epi32(_mm512_mul_ps(a, inverse)));
                let half = _mm512_set1_ps(128.5 * 256.0);
                let start = both_halves(_mm512_cvtps_epi32(_mm512_fmadd_ps(first, inverse, half)));
                for k4 in 8 * block..8 * block + 8 {
                    let at = tile.u[k4].as_mut_ptr().add(lane).cast();
                    _mm512_store_si512(at, affine(_mm512_load_si512(at), scale, start));
                }
            }
        }
    }
}

/// The low 16 bits of each dword in both its halves.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn both_halves(v: __m512i) -> __m512i {
    _mm512_mask_blend_epi16(0xaaaa_aaaa, v, _mm512_slli_epi32::<16>(v))
}

/// (u·scale + start) / 256 for each byte u; the sum fits 16 unsigned bits, so that products may wrap.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn affine(u: __m512i, scale: __m512i, start: __m512i) -> __m512i {
    let of = |u: __m512i| _mm512_add_epi16(_mm512_mullo_epi16(u, scale), start);
    let even = of(_mm512_and_si512(u, _mm512_set1_epi16(255)));
    let odd = of(_mm512_srli_epi16::<8>(u));
    _mm512_mask_blend_epi8(0xaaaa_aaaa_aaaa_aaaa, _mm512_srli_epi16::<8>(even), odd)
}

/// Packs the columns of a slab for a group of tokens, `LEN` dwords each; see [`SlabRecord`]. `x` starts at the first token's first column of the slab,
/// `k` is the distance of tokens, `cols` the columns of this slab, a multiple of 32. `zero` is the byte that stands for 0.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn pack<const LEN: usize>(x: &[f32], k: usize, cols: usize, zero: i32, record: &mut [i32]) {
    for (token, record) in record.as_chunks_mut::<LEN>().0.iter_mut().enumerate() {
        let mut v = [_mm512_setzero_ps(); SLAB / 16];
        let mut largest = _mm512_setzero_si512();
        for (v, x) in v.iter_mut().zip(x[token * k..][..cols].as_chunks::<16>().0) {
            // SAFETY: 16 floats.
            *v = unsafe { _mm512_loadu_ps(x.as_ptr()) };
            // Bits of magnitudes order as the magnitudes do, and a NaN comes above all.
            largest = _mm512_max_epi32(largest, _mm512_castps_si512(_mm512_abs_ps(*v)));
        }
        let (d, inverse) = scale_of(f32::from_bits(_mm512_reduce_max_epi32(largest) as u32));
        let inverse = _mm512_set1_ps(inverse);
        let mut total = _mm512_setzero_si512();
        for (i, v) in v.into_iter().enumerate() {
            // Rounds to the nearest, ties to even. NaN times 0 gives the lowest integer, whose low byte is 0.
            let codes = _mm512_cvtps_epi32(_mm512_mul_ps(v, inverse));
            let four = _mm512_cvtepi32_epi8(codes);
            // SAFETY: four dwords from 4·i on.
            unsafe { _mm_storeu_si128(record.as_mut_ptr().add(4 * i).cast(), four) };
            match LEN {
                SlabRecord::LEN_GROUPS => {
                    let sums = _mm_dpbusd_epi32(_mm_setzero_si128(), _mm_set1_epi8(1), four);
                    let sums = _mm_add_epi32(sums, _mm_shuffle_epi32::<0b01_00_11_10>(sums));
                    let sum = _mm_cvtsi128_si32(sums) + _mm_extract_epi32::<1>(sums);
                    record[SlabRecord::STARTS + i] = -zero * sum;
                }
                _ => total = _mm512_add_epi32(total, codes),
            }
        }
        if LEN == SlabRecord::LEN {
            record[SlabRecord::STARTS] = (-zero).wrapping_mul(_mm512_reduce_add_epi32(total));
        }
        record[SlabRecord::SCALE] = d.to_bits() as i32;
    }
}

/// The scale of activations of magnitude `amax` at most, and what they are multiplied by to become codes: 0 where they are too
/// small for a scale, and where they are no numbers, which the scale then says.
pub(super) fn scale_of(amax: f32) -> (f32, f32) {
    let inverse = 127.0 / amax;
    match (amax.is_finite(), inverse.is_finite()) {
        (false, _) => (f32::NAN, 0.0),
        (_, false) => (0.0, 0.0),
        _ => (amax / 127.0, inverse),
    }
}

/// `c[token][row]` += the sums of `blocks` blocks of 32 columns of a requantized tile.
///
/// # Safety
/// `record` is valid for `tokens`·[`SlabRecord::LEN`] reads, `c` for `tokens`·[`PANEL`] reads and writes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn multiply(tokens: usize, tile: &Tile, record: *const i32, c: *mut f32, blocks: usize) {
    // SAFETY: as this function's.
    unsafe {
        match tokens {
            12 => kernel::<12>(tile, record, c, blocks),
            11 => kernel::<11>(tile, record, c, blocks),
            10 => kernel::<10>(tile, record, c, blocks),
            9 => kernel::<9>(tile, record, c, blocks),
            8 => kernel::<8>(tile, record, c, blocks),
            7 => kernel::<7>(tile, record, c, blocks),
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
    const LEN: usize = SlabRecord::LEN;
    // SAFETY: all offsets lie within the record's T·LEN dwords, the tile, and c's T·PANEL floats.
    unsafe {
        let u = tile.u.as_ptr().cast::<i32>();
        let mut acc = [[_mm512_setzero_si512(); 2]; T];
        for (i, acc) in acc.iter_mut().enumerate() {
            *acc = [_mm512_set1_epi32(*record.add(i * LEN + SlabRecord::STARTS)); 2];
        }
        for block in 0..blocks {
            prefetch::<T, LEN>(record, c, block);
            for k4 in 8 * block..8 * block + 8 {
                products(&mut acc, u.add(k4 * PANEL), record.add(k4), LEN);
            }
        }
        for half in 0..2 {
            let d = _mm512_load_ps(tile.d.as_ptr().add(16 * half));
            for i in 0..T {
                let at = c.add(i * PANEL + 16 * half);
                let scale = _mm512_set1_epi32(*record.add(i * LEN + SlabRecord::SCALE));
                let d = _mm512_mul_ps(d, _mm512_castsi512_ps(scale));
                _mm512_storeu_ps(
                    at,
                    _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[i][half]), d, _mm512_loadu_ps(at)),
                );
            }
        }
    }
}

/// Adds the products of four columns: weights at `u`, activations at `x` and every `len` dwords.
///
/// # Safety
/// Both are readable: 32 dwords at `u`, `T` at `x`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn products<const T: usize>(acc: &mut [[__m512i; 2]; T], u: *const i32, x: *const i32, len: usize) {
    // SAFETY: as this function's.
    unsafe {
        let w0 = _mm512_load_si512(u.cast());
        let w1 = _mm512_load_si512(u.add(16).cast());
        for (i, acc) in acc.iter_mut().enumerate() {
            let x = _mm512_set1_epi32(*x.add(i * len));
            acc[0] = _mm512_dpbusd_epi32(acc[0], w0, x);
            acc[1] = _mm512_dpbusd_epi32(acc[1], w1, x);
        }
    }
}

/// `c[token][row]` += the sums of `blocks` blocks of 32 columns, group by group of 16.
///
/// # Safety
/// `record` is valid for `tokens`·[`SlabRecord::LEN_GROUPS`] reads, `c` for `tokens`·[`PANEL`] reads and writes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn multiply_groups(
    tokens: usize,
    tile: &Tile,
    record: *const i32,
    c: *mut f32,
    blocks: usize,
) {
    // SAFETY: as this function's.
    unsafe {
        match tokens {
            7 => kernel_groups::<7>(tile, record, c, blocks),
            6 => kernel_groups::<6>(tile, record, c, blocks),
            5 => kernel_groups::<5>(tile, record, c, blocks),
            4 => kernel_groups::<4>(tile, record, c, blocks),
            3 => kernel_groups::<3>(tile, record, c, blocks),
            2 => kernel_groups::<2>(tile, record, c, blocks),
            1 => kernel_groups::<1>(tile, record, c, blocks),
            _ => unreachable!("{tokens} tokens in a group of {TOKENS_GROUPS}"),
        }
    }
}

/// # Safety
/// As [`multiply_groups`], with `T` tokens.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn kernel_groups<const T: usize>(tile: &Tile, record: *const i32, c: *mut f32, blocks: usize) {
    const LEN: usize = SlabRecord::LEN_GROUPS;
    // SAFETY: all offsets lie within the record's T·LEN dwords, the tile, and c's T·PANEL floats.
    unsafe {
        let u = tile.u.as_ptr().cast::<i32>();
        let mut totals = [[_mm512_setzero_ps(); 2]; T];
        for group in 0..2 * blocks {
            if group % 2 == 0 {
                prefetch::<T, LEN>(record, c, group / 2);
            }
            let mut acc = [[_mm512_setzero_si512(); 2]; T];
            for (i, acc) in acc.iter_mut().enumerate() {
                *acc = [_mm512_set1_epi32(*record.add(i * LEN + SlabRecord::STARTS + group)); 2];
            }
            for k4 in 4 * group..4 * group + 4 {
                products(&mut acc, u.add(k4 * PANEL), record.add(k4), LEN);
            }
            for half in 0..2 {
                let a = _mm512_load_ps(tile.a[group].as_ptr().add(16 * half));
                for i in 0..T {
                    totals[i][half] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[i][half]), a, totals[i][half]);
                }
            }
        }
        for (i, total) in totals.iter().enumerate() {
            let d = _mm512_castsi512_ps(_mm512_set1_epi32(*record.add(i * LEN + SlabRecord::SCALE)));
            for half in 0..2 {
                let at = c.add(i * PANEL + 16 * half);
                _mm512_storeu_ps(at, _mm512_fmadd_ps(total[half], d, _mm512_loadu_ps(at)));
            }
        }
    }
}

/// Fetches an eighth of the next record and of the next sums, which lie behind these, into the first cache.
#[inline(always)]
fn prefetch<const T: usize, const LEN: usize>(record: *const i32, c: *const f32, block: usize) {
    let fetch = |first: *const u8, bytes: usize| {
        for line in 0..bytes.div_ceil(8 * 64) {
            let at = first.wrapping_add(bytes + ((block * bytes / 8) & !63) + 64 * line);
            // SAFETY: SSE is part of x86-64, and a prefetch of any address is harmless.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
        }
    };
    fetch(record.cast(), T * LEN * 4);
    fetch(c.cast(), T * PANEL * 4);
}
