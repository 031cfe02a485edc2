//! The product of one token with AVX-512 and VNNI: a dot per weight row.
//!
//! Reading memory bounds it, so a core has to ask for lines in time and to have time left for that:
//! - rows are read one after the other, [`AHEAD`] is fetched some kilobytes before, line by line between the sums, and a line of a page
//!   further on before that, because looking up a page takes longer than reading a line;
//! - four slabs of a row are taken together, so that one vector decodes the heads of four blocks;
//! - sums stay integers where scales are: in the K formats a block's sums, packed to 16 bits, times its scales are one `vpmaddwd` and one
//!   `vpdpwssd`, and a float is made once a block ([`groups`]);
//! - formats with blocks of 32 columns put a block in each 128-bit lane, low nibbles and high ones in turn, so that four blocks are one
//!   vector of sums ([`mod@lanes`]).
//!
//! Codes of activations lie in the order that the unpacked weights have ([`order`]).

mod groups;
mod lanes;

use std::arch::x86_64::*;

use super::slab::scale_of;
use crate::{
    DType,
    cpu::matmul::{ActSlab, SLAB, Scales, Unpack, Weights},
};
use groups::{fifth_bits, k_blocks, q6_k, q8_0, q8_0_sums};
use lanes::{Eight, iq4, iq4_xs_head, lanes};

/// Bytes ahead of the current ones that are fetched: 7 to 13 KB measured alike, 4 KB 4 % slower.
pub(super) const AHEAD: usize = 8192;

/// Bytes beyond those at which a line is fetched early, for its page.
const PAGES: usize = 8192;

/// Slabs of a row that are taken together.
const GROUP: usize = 4;

/// What the slabs of a row add up to; all lanes count.
#[derive(Clone, Copy)]
struct Sums {
    /// Products, in two sums so that additions need not wait for each other.
    sum: [__m512; 2],
    /// Minima.
    min: __m512,
}

/// Where the runs of 16 columns of a slab go.
pub(super) const fn order<F: Unpack>() -> [usize; 16] {
    match (F::GROUP, F::DTYPE) {
        // 64 bytes of nibbles are the low and the high ones of blocks 0 and 1, then of blocks 2 and 3.
        (_, DType::Q4_K | DType::Q5_K) => [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15],
        (_, DType::Q6_K | DType::Q8_0) => [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        // Four blocks' low nibbles, then their high ones.
        _ => [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15],
    }
}

/// Bytes of a slab.
const fn slab_bytes<F: Unpack>() -> usize {
    SLAB / F::DTYPE.block_len() * F::DTYPE.block_bytes()
}

/// A slab of up to 256 columns of the token's activations, a multiple of 32, in the [`order`] of the format.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn act<F: Unpack>(x: &[f32], shared: bool) -> ActSlab {
    let mut slab: ActSlab = bytemuck::Zeroable::zeroed();
    let mut quads = [[0i32; 4]; SLAB / 16];
    let order = order::<F>();
    let span = if shared { SLAB } else { 32 };
    for (part, x) in x.chunks(span).enumerate() {
        let x = x.as_chunks::<16>().0;
        // SAFETY: 16 floats.
        let load = |x: &[f32; 16]| unsafe { _mm512_loadu_ps(x.as_ptr()) };
        // Bits of magnitudes order as the magnitudes do, and a NaN comes above all.
        let largest = |m: __m512i, x| _mm512_max_epi32(m, _mm512_castps_si512(_mm512_abs_ps(load(x))));
        let amax = _mm512_reduce_max_epi32(x.iter().fold(_mm512_setzero_si512(), largest));
        let (d, inverse) = scale_of(f32::from_bits(amax as u32));
        let inverse = _mm512_set1_ps(inverse);
        for (i, x) in x.iter().enumerate() {
            let run = part * (span / 16) + i;
            // Rounds to the nearest, ties to even. NaN times 0 gives the lowest integer, whose low byte is 0.
            let codes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(load(x), inverse)));
            let sums = _mm_dpbusd_epi32(_mm_setzero_si128(), _mm_set1_epi8(1), codes);
            // SAFETY: 16 of 256 bytes, four dwords.
            unsafe {
                _mm_storeu_si128(slab.q[16 * order[run]..][..16].as_mut_ptr().cast(), codes);
                _mm_storeu_si128(quads[run].as_mut_ptr().cast(), sums);
            }
            slab.d[run / 2] = d;
        }
    }
    for (sum, quads) in slab.sums16.iter_mut().zip(&quads) {
        *sum = -quads.iter().sum::<i32>() as i16;
    }
    // Codes of weights that are too large by ZERO have a minimum of −ZERO·a; here is its factor.
    let factor = if F::MIN { -1.0 } else { F::ZERO as f32 };
    for i in 0..8 {
        slab.sums32[i] = slab.sums16[2 * i] + slab.sums16[2 * i + 1];
        slab.sum[i] = slab.d[i] * (factor * f32::from(slab.sums32[i]));
    }
    slab
}

/// `out[i]` = row `first` + i times x.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn dots<F: Unpack>(w: Weights<'_>, first: usize, x: &[ActSlab], out: &mut [f32]) {
    fetch_first(w.row(first));
    for (i, out) in out.iter_mut().enumerate() {
        *out = dot::<F>(w.row(first + i), x);
    }
}

/// A row times x.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn dot<F: Unpack>(row: &[u8], x: &[ActSlab]) -> f32 {
    let bytes = slab_bytes::<F>();
    let whole = row.len() / bytes;
    let zero = _mm512_setzero_ps();
    let mut sums = Sums { sum: [zero; 2], min: zero };
    let (groups, rest) = x[..whole].as_chunks::<GROUP>();
    for (x, part) in groups.iter().zip(row.chunks_exact(GROUP * bytes)) {
        // SAFETY: `part` holds the slabs.
        sums = unsafe { slabs::<F, GROUP>(part.as_ptr(), x, sums) };
    }
    for (x, part) in rest.iter().zip(row[groups.len() * GROUP * bytes..].chunks_exact(bytes)) {
        // SAFETY: `part` holds a slab.
        sums = unsafe { slabs::<F, 1>(part.as_ptr(), std::array::from_ref(x), sums) };
    }
    if let Some(x) = x.get(whole) {
        sums = part_slab::<F>(&row[whole * bytes..], x, sums);
    }
    _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums.sum[0], sums.sum[1]), sums.min))
}

/// Fetches the line `ahead` of `p`.
#[inline(always)]
fn line(p: *const u8, ahead: usize) {
    // SAFETY: SSE is part of x86-64, and a prefetch of any address is harmless.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(ahead).cast()) };
}

/// Fetches `bytes` bytes, half of [`AHEAD`] from `p`: for rows that are read two at a time.
#[inline(always)]
pub(super) fn prefetch(p: *const u8, bytes: usize) {
    (0..bytes).step_by(64).for_each(|at| line(p, AHEAD / 2 + at));
}

/// Fetches what [`fetch`] would ask for too late: the first lines.
#[inline(always)]
pub(super) fn fetch_first(row: &[u8]) {
    for at in (0..AHEAD).step_by(64) {
        line(row.as_ptr(), at);
    }
}

/// Fetches, [`AHEAD`] of `p`, part `part` of `parts` of `bytes` bytes.
#[inline(always)]
pub(super) fn fetch(p: *const u8, bytes: usize, part: usize, parts: usize) {
    let lines = bytes.div_ceil(64);
    for i in part * lines / parts..(part + 1) * lines / parts {
        line(p, AHEAD + 64 * i);
    }
    if part + 1 == parts {
        line(p, AHEAD + PAGES);
    }
}

/// Adds `N` slabs times x, side by side in a row.
///
/// # Safety
/// Their bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn slabs<F: Unpack, const N: usize>(p: *const u8, x: &[ActSlab; N], mut sums: Sums) -> Sums {
    let bytes = slab_bytes::<F>();
    // SAFETY: as this function's; offsets are those of the formats.
    unsafe {
        match F::DTYPE {
            DType::Q4_K => return k_blocks::<144, N>(p, x, sums, |p| nibbles_of_128(p.add(16))),
            DType::Q5_K => {
                return k_blocks::<176, N>(p, x, sums, |p| fifth_bits(nibbles_of_128(p.add(48)), p.add(16)));
            }
            _ => {}
        }
        for (i, x) in x.iter().enumerate() {
            fetch(p, N * bytes, i, N);
            let p = p.add(i * bytes);
            sums = match F::DTYPE {
                DType::Q4_0 => {
                    let w = Eight::<18>::load(p);
                    lanes(w.heads_18(), w.nibbles::<2>(), x, sums)
                }
                DType::IQ4_NL => {
                    let w = Eight::<18>::load(p);
                    lanes(w.heads_18(), w.nibbles::<2>().map(|u| iq4(u)), x, sums)
                }
                DType::Q4_1 => {
                    let w = Eight::<20>::load(p);
                    lanes(w.scales_and_minima(), w.nibbles::<4>(), x, sums)
                }
                DType::Q5_0 => {
                    let w = Eight::<22>::load(p);
                    lanes(w.scales(), w.five_bits::<2, 6>(), x, sums)
                }
                DType::Q5_1 => {
                    let w = Eight::<24>::load(p);
                    lanes(w.scales_and_minima(), w.five_bits::<4, 8>(), x, sums)
                }
                DType::IQ4_XS => lanes(iq4_xs_head(p), nibbles_of_128(p.add(8)).map(|u| iq4(u)), x, sums),
                DType::Q6_K => q6_k(p, x, sums),
                DType::Q8_0 => q8_0(p, x, sums),
                other => unreachable!("{other} has no bytes"),
            };
        }
    }
    sums
}

/// Adds the last slab of a row, of fewer than 256 columns.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn part_slab<F: Unpack>(blocks: &[u8], x: &ActSlab, sums: Sums) -> Sums {
    let (mut natural, mut u, mut s) = ([0; SLAB], [0; SLAB], Scales::default());
    F::unpack(blocks, &mut natural, &mut s);
    for (run, to) in natural.as_chunks::<16>().0.iter().zip(order::<F>()) {
        u[16 * to..][..16].copy_from_slice(run);
    }
    // SAFETY: four vectors within an array of four, 16 floats, eight floats.
    unsafe {
        let u = std::array::from_fn(|i| _mm512_loadu_si512(u.as_ptr().add(64 * i).cast()));
        let a = _mm256_loadu_ps(s.a.as_ptr());
        let head = both(a, if F::MIN { _mm256_loadu_ps(s.c.as_ptr()) } else { a });
        match F::DTYPE {
            DType::Q8_0 => q8_0_sums(u, head, x, sums),
            _ => lanes(head, u, x, sums),
        }
    }
}

/// Eight floats, then eight more.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn both(low: __m256, high: __m256) -> __m512 {
    _mm512_insertf32x8::<1>(_mm512_castps256_ps512(low), high)
}

/// The low and the high nibbles of 64 bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn low_and_high(v: __m512i) -> [__m512i; 2] {
    let four = _mm512_set1_epi8(15);
    [_mm512_and_si512(v, four), _mm512_and_si512(_mm512_srli_epi16::<4>(v), four)]
}

/// The same of 128 bytes.
///
/// # Safety
/// They are readable at `p`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn nibbles_of_128(p: *const u8) -> [__m512i; 4] {
    // SAFETY: as this function's.
    let (a, b) = unsafe { (_mm512_loadu_si512(p.cast()), _mm512_loadu_si512(p.add(64).cast())) };
    let ([a, b], [c, d]) = (low_and_high(a), low_and_high(b));
    [a, b, c, d]
}
