//! The product of one token with AVX2: a dot per weight row.
//!
//! Lines are fetched ahead as in [`super::super::gemv`], but arithmetic bounds it on a new machine, so instructions count:
//! - where a token's activations share a scale over a slab, the integer scales of the K formats multiply 16-bit sums (`vpmaddwd`), and a
//!   float is made once a block ([`groups`]);
//! - formats with blocks of 32 columns have two blocks in a register, low nibbles and high ones in turn, so that a float is made once in two
//!   ([`mod@pairs`]);
//! - else a block is a register: `vpmaddubsw` and `vpmaddwd` sum four columns a lane, and the lanes' floats are scaled by both scales.
//!
//! Bytes of 8 bits would saturate, so they are taken as signed: |w| times x with the sign of w.

mod groups;
mod pairs;

use std::arch::x86_64::*;

use super::super::gemv::{fetch, fetch_first};
use crate::{
    DType,
    cpu::matmul::{ActSlab, SLAB, Scales, Unpack, Weights, act_slab},
};
use groups::{five_bits, four_bits, k_block, q6_k};

/// Whether the format has blocks of 32 columns, or is like those: two blocks in a register.
const fn in_pairs<F: Unpack>() -> bool {
    !matches!(F::DTYPE, DType::Q8_0 | DType::Q4_K | DType::Q5_K | DType::Q6_K)
}

/// Where the run of 16 columns `run` of a slab goes, where scales are `shared` or not.
const fn place<F: Unpack>(run: usize, shared: bool) -> usize {
    let (first, block, half) = (run / 8 * 8, run / 2 % 4, run % 2);
    match F::DTYPE {
        // Of four blocks a register has half of one and of the next but one: see `groups::k_block`.
        DType::Q4_K | DType::Q5_K if shared => first + block % 2 * 4 + half * 2 + block / 2,
        // Of two blocks the low nibbles come first.
        _ if in_pairs::<F>() => first + block / 2 * 4 + half * 2 + block % 2,
        _ => run,
    }
}

/// A slab of up to 256 columns of the token's activations, a multiple of 32.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) fn act<F: Unpack>(x: &[f32], shared: bool) -> ActSlab {
    let mut slab = act_slab::<F>(x, shared);
    let q = slab.q;
    for (run, q) in q.as_chunks::<16>().0.iter().enumerate() {
        slab.q[16 * place::<F>(run, shared)..][..16].copy_from_slice(q);
    }
    // Codes of weights that are too large by ZERO have a minimum of −ZERO·a; here is its factor.
    if in_pairs::<F>() && !F::MIN && F::BITS < 8 {
        slab.sum.iter_mut().for_each(|sum| *sum *= -F::ZERO as f32);
    }
    slab
}

/// `out[i]` = row `first` + i times x; `SHARED` where its scales are.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) fn dots<F: Unpack, const SHARED: bool>(
    w: Weights<'_>,
    first: usize,
    x: &[ActSlab],
    out: &mut [f32],
) {
    fetch_first(w.row(first));
    for (i, out) in out.iter_mut().enumerate() {
        *out = dot::<F, SHARED>(w.row(first + i), x);
    }
}

/// A row times x.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot<F: Unpack, const SHARED: bool>(row: &[u8], x: &[ActSlab]) -> f32 {
    let bytes = SLAB / F::DTYPE.block_len() * F::DTYPE.block_bytes();
    let whole = row.len() / bytes;
    let mut sums = [_mm256_setzero_ps(); 2];
    for (x, part) in x[..whole].iter().zip(row.chunks_exact(bytes)) {
        fetch(part.as_ptr(), bytes, 0, 1);
        // SAFETY: `part` is a whole slab.
        sums = unsafe { slab::<F, SHARED>(part.as_ptr(), x, sums) };
    }
    if let Some(x) = x.get(whole) {
        let (mut u, mut s) = ([0; SLAB], Scales::default());
        F::unpack(&row[whole * bytes..], &mut u, &mut s);
        sums = unpacked::<F>(&u, &s, x, sums);
    }
    reduce(_mm256_add_ps(sums[0], sums[1]))
}

/// The sum of eight lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn reduce(v: __m256) -> f32 {
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps::<1>(v, v)))
}

/// The scales of a slab.
struct Scale {
    /// a of each group: of the first eight groups of 16, or of all groups of 32.
    a: __m256,
    /// a of the last eight groups of 16.
    last: __m256,
    /// c of each block.
    c: __m256,
}

impl Scale {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn new(a: __m256, c: __m256) -> Self {
        Self { a, last: _mm256_setzero_ps(), c }
    }
}

/// Adds the products of a slab; `w` gives the bytes of a block: unsigned, but those of 8 bits signed.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add<F: Unpack>(
    scale: &Scale,
    x: &ActSlab,
    mut sums: [__m256; 2],
    w: impl Fn(usize) -> __m256i,
) -> [__m256; 2] {
    let ones = _mm256_set1_epi16(1);
    // SAFETY: eight floats, and 32 bytes and eight offsets of each of eight blocks.
    unsafe {
        let d = _mm256_loadu_ps(x.d.as_ptr());
        let a =
            _mm256_mul_ps(scale.a, if F::GROUP == 16 { _mm256_permutevar8x32_ps(d, pairs(0)) } else { d });
        let last = _mm256_mul_ps(scale.last, _mm256_permutevar8x32_ps(d, pairs(4)));
        for block in 0..8 {
            let q = _mm256_loadu_si256(x.q.as_ptr().add(32 * block).cast());
            let w = w(block);
            let product = match F::BITS {
                8 => _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w)),
                _ => _mm256_maddubs_epi16(w, q),
            };
            let mut product = _mm256_madd_epi16(product, ones);
            if !F::MIN && F::BITS != 8 {
                product = _mm256_add_epi32(product, _mm256_loadu_si256(x.off.as_ptr().add(8 * block).cast()));
            }
            let scale = if F::GROUP == 16 {
                let group = (2 * block % 8) as i32;
                let lanes =
                    _mm256_add_epi32(_mm256_set1_epi32(group), _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1));
                _mm256_permutevar8x32_ps(if block < 4 { a } else { last }, lanes)
            } else {
                _mm256_permutevar8x32_ps(a, _mm256_set1_epi32(block as i32))
            };
            sums[block % 2] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(product), scale, sums[block % 2]);
        }
        if F::MIN {
            sums[0] = _mm256_fmadd_ps(scale.c, _mm256_loadu_ps(x.sum.as_ptr()), sums[0]);
        }
    }
    sums
}

/// Each of four lanes from `first` on, twice.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn pairs(first: i32) -> __m256i {
    _mm256_add_epi32(_mm256_set1_epi32(first), _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3))
}

/// Adds what [`Unpack::unpack`] wrote, times x: the last blocks of a row, of 32 columns each.
#[target_feature(enable = "avx2,fma,f16c")]
fn unpacked<F: Unpack>(natural: &[u8; SLAB], s: &Scales, x: &ActSlab, sums: [__m256; 2]) -> [__m256; 2] {
    let mut u = [0; SLAB];
    for (run, from) in natural.as_chunks::<16>().0.iter().enumerate() {
        u[16 * place::<F>(run, false)..][..16].copy_from_slice(run_as::<F>(from).as_slice());
    }
    // SAFETY: eight scales, eight minima, 32 bytes of a register of eight.
    unsafe {
        let (a, c) = (_mm256_loadu_ps(s.a.as_ptr()), _mm256_loadu_ps(s.c.as_ptr()));
        let u = |i: usize| load(u.as_ptr().add(32 * i));
        match in_pairs::<F>() {
            true => pairs::add::<F>(a, if F::MIN { c } else { a }, x, sums, |i| [u(2 * i), u(2 * i + 1)]),
            false => add::<F>(&Scale::new(a, c), x, sums, u),
        }
    }
}

/// Bytes of 8 bits as signed ones.
fn run_as<F: Unpack>(run: &[u8; 16]) -> [u8; 16] {
    if F::BITS == 8 { run.map(|u| u ^ 0x80) } else { *run }
}

/// Adds a whole slab of a row times x.
///
/// # Safety
/// The slab's bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn slab<F: Unpack, const SHARED: bool>(p: *const u8, x: &ActSlab, sums: [__m256; 2]) -> [__m256; 2] {
    // SAFETY: as this function's; offsets are those of the formats.
    unsafe {
        let q5_k = |i: usize| {
            let low = nibbles(load(p.add(48 + i / 2 * 32)), i % 2);
            _mm256_or_si256(low, bits(load(p.add(16)), i as i32, 4, 1))
        };
        let q6 = |i: usize| {
            let (half, quarter) = (i / 4, i % 4);
            let low = nibbles(load(p.add(64 * half + quarter % 2 * 32)), quarter / 2);
            _mm256_or_si256(low, bits(load(p.add(128 + 32 * half)), 2 * quarter as i32, 4, 3))
        };
        match F::DTYPE {
            DType::Q8_0 => {
                add::<F>(&Scale::new(pairs::halves::<34>(p, 0), _mm256_setzero_ps()), x, sums, |i| {
                    load(p.add(34 * i + 2))
                })
            }
            DType::Q4_K => k_block(p, x, sums, |i| four_bits(p.add(16), i)),
            DType::Q5_K if SHARED => k_block(p, x, sums, |i| five_bits(p.add(16), i)),
            DType::Q5_K => add::<F>(&k_scales(p), x, sums, q5_k),
            DType::Q6_K if SHARED => q6_k(p, x, sums, q6),
            DType::Q6_K => add::<F>(&q6_k_scales(p), x, sums, q6),
            _ => pairs::slab::<F>(p, x, sums),
        }
    }
}

/// # Safety
/// 32 bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load(p: *const u8) -> __m256i {
    // SAFETY: as this function's.
    unsafe { _mm256_loadu_si256(p.cast()) }
}

/// The low (0) or the high (1) nibbles of 32 bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn nibbles(v: __m256i, which: usize) -> __m256i {
    let v = if which == 0 { v } else { _mm256_srli_epi16::<4>(v) };
    _mm256_and_si256(v, _mm256_set1_epi8(15))
}

/// The bits of each byte that `mask` covers from bit `from` on, moved to bit `to`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn bits(v: __m256i, from: i32, to: i32, mask: i8) -> __m256i {
    let (left, right) = ((to - from).max(0), (from - to).max(0));
    let v = _mm256_sll_epi16(v, _mm_cvtsi32_si128(left));
    let v = _mm256_srl_epi16(v, _mm_cvtsi32_si128(right));
    _mm256_and_si256(v, _mm256_set1_epi8(mask << to))
}

/// The scales of Q4_K and Q5_K: half d, half min, eight 6-bit pairs.
///
/// # Safety
/// 16 bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn k_scales(p: *const u8) -> Scale {
    // SAFETY: as this function's.
    let word = |i: usize| unsafe { p.add(4 * i).cast::<u32>().read_unaligned() };
    let (halves, u0, u1, u2) = (word(0), word(1), word(2), word(3));
    let low = 0x3f3f_3f3f;
    let high = |low: u32, bits: u32| low & 0x0f0f_0f0f | bits >> 2 & 0x3030_3030;
    let floats = |l: u32, h: u32| {
        let bytes = _mm_cvtsi64_si128((u64::from(l) | u64::from(h) << 32) as i64);
        _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))
    };
    let halves = _mm_cvtph_ps(_mm_cvtsi32_si128(halves as i32));
    let (d, min) = (_mm256_broadcastss_ps(halves), _mm256_broadcastss_ps(_mm_movehdup_ps(halves)));
    let minima = _mm256_mul_ps(min, floats(u1 & low, high(u2 >> 4, u1)));
    Scale::new(_mm256_mul_ps(d, floats(u0 & low, high(u2, u0))), _mm256_sub_ps(_mm256_setzero_ps(), minima))
}

/// # Safety
/// A block of Q6_K is readable at `p`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q6_k_scales(p: *const u8) -> Scale {
    // SAFETY: scales 192..208, d 208..210.
    let (bytes, d) =
        unsafe { (_mm_loadu_si128(p.add(192).cast()), p.add(208).cast::<u16>().read_unaligned()) };
    let d = _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(d))));
    let floats = |bytes| _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)));
    Scale { a: floats(bytes), last: floats(_mm_srli_si128::<8>(bytes)), c: _mm256_setzero_ps() }
}
