//! The product of one token with AVX2: a dot per weight row.
//!
//! Two rows far apart are read at once and lines are fetched ahead, as in [`super::super::gemv`]. A block of 32 columns is a register:
//! `vpmaddubsw` and `vpmaddwd` sum four columns a lane, and the lanes' floats are scaled by both scales. Two sums a row hide the latency
//! of the additions. Bytes of 8 bits would saturate, so they are taken as signed: |w| times x with the sign of w.

use std::arch::x86_64::*;

use super::super::gemv::prefetch;
use crate::{
    DType,
    cpu::matmul::{ActSlab, IQ4, SLAB, Scales, Unpack, Weights},
};

/// Slabs whose lines are fetched together, so that few are fetched twice.
const BURST: usize = 4;

/// `out[i]` = row `first` + i times x. Two rows at a time, half the rows apart.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) fn dots<F: Unpack>(w: Weights<'_>, first: usize, x: &[ActSlab], out: &mut [f32]) {
    let far = out.len() / 2;
    let (near, rest) = out.split_at_mut(far);
    for (i, out) in near.iter_mut().enumerate() {
        [*out, rest[i]] = dot::<F, 2>([w.row(first + i), w.row(first + far + i)], x);
    }
    if let Some(out) = rest.get_mut(far) {
        [*out] = dot::<F, 1>([w.row(first + 2 * far)], x);
    }
}

/// Rows times x.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot<F: Unpack, const R: usize>(rows: [&[u8]; R], x: &[ActSlab]) -> [f32; R] {
    let bytes = SLAB / F::DTYPE.block_len() * F::DTYPE.block_bytes();
    let whole = rows[0].len() / bytes;
    let mut sums = [[_mm256_setzero_ps(); 2]; R];
    for (i, x) in x[..whole].iter().enumerate() {
        for r in 0..R {
            let part = &rows[r][i * bytes..(i + 1) * bytes];
            if i % BURST == 0 {
                prefetch(part.as_ptr(), BURST * bytes);
            }
            // SAFETY: `part` is a whole slab.
            sums[r] = unsafe { slab::<F>(part.as_ptr(), x, sums[r]) };
        }
    }
    if let Some(x) = x.get(whole) {
        for r in 0..R {
            let (mut u, mut s) = ([0; SLAB], Scales::default());
            F::unpack(&rows[r][whole * bytes..], &mut u, &mut s);
            sums[r] = unpacked::<F>(&u, &s, x, sums[r]);
        }
    }
    sums.map(|[a, b]| reduce(_mm256_add_ps(a, b)))
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

/// Adds what [`Unpack::unpack`] wrote, times x.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unpacked<F: Unpack>(u: &[u8; SLAB], s: &Scales, x: &ActSlab, sums: [__m256; 2]) -> [__m256; 2] {
    // SAFETY: 16 scales, eight minima.
    let scale = unsafe {
        Scale {
            a: _mm256_loadu_ps(s.a.as_ptr()),
            last: _mm256_loadu_ps(s.a.as_ptr().add(8)),
            c: _mm256_loadu_ps(s.c.as_ptr()),
        }
    };
    add::<F>(&scale, x, sums, |block| {
        // SAFETY: 32 bytes of block `block` of eight.
        let u = unsafe { _mm256_loadu_si256(u.as_ptr().add(32 * block).cast()) };
        if F::BITS == 8 { _mm256_xor_si256(u, _mm256_set1_epi8(-128)) } else { u }
    })
}

/// Adds a whole slab of a row times x.
///
/// # Safety
/// The slab's bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn slab<F: Unpack>(p: *const u8, x: &ActSlab, sums: [__m256; 2]) -> [__m256; 2] {
    // SAFETY: as this function's; offsets are those of the formats.
    unsafe {
        match F::DTYPE {
            DType::Q4_0 => add::<F>(&halves::<18, false>(p), x, sums, |i| four_bits(p.add(18 * i + 2))),
            DType::Q4_1 => add::<F>(&halves::<20, true>(p), x, sums, |i| four_bits(p.add(20 * i + 4))),
            DType::Q5_0 => add::<F>(&halves::<22, false>(p), x, sums, |i| five_bits(p.add(22 * i + 2))),
            DType::Q5_1 => add::<F>(&halves::<24, true>(p), x, sums, |i| five_bits(p.add(24 * i + 4))),
            DType::Q8_0 => add::<F>(&halves::<34, false>(p), x, sums, |i| load(p.add(34 * i + 2))),
            DType::IQ4_NL => {
                add::<F>(&halves::<18, false>(p), x, sums, |i| iq4(four_bits(p.add(18 * i + 2))))
            }
            DType::IQ4_XS => add::<F>(&iq4_xs(p), x, sums, |i| iq4(four_bits(p.add(16 * i + 8)))),
            DType::Q4_K => add::<F>(&k_scales(p), x, sums, |i| nibbles(load(p.add(16 + i / 2 * 32)), i % 2)),
            DType::Q5_K => add::<F>(&k_scales(p), x, sums, |i| {
                let low = nibbles(load(p.add(48 + i / 2 * 32)), i % 2);
                _mm256_or_si256(low, bits(load(p.add(16)), i as i32, 4, 1))
            }),
            DType::Q6_K => add::<F>(&q6_k_scales(p), x, sums, |i| {
                let (half, quarter) = (i / 4, i % 4);
                let low = nibbles(load(p.add(64 * half + quarter % 2 * 32)), quarter / 2);
                _mm256_or_si256(low, bits(load(p.add(128 + 32 * half)), 2 * quarter as i32, 4, 3))
            }),
            other => unreachable!("{other} has no bytes"),
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

/// The low nibbles of 16 bytes, then the high ones.
///
/// # Safety
/// They are readable at `p`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn four_bits(p: *const u8) -> __m256i {
    // SAFETY: as this function's.
    let v = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(p.cast()) });
    let v = _mm256_srlv_epi32(v, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4));
    _mm256_and_si256(v, _mm256_set1_epi8(15))
}

/// Fifth bits (4 bytes), then nibbles (16 bytes).
///
/// # Safety
/// They are readable at `p`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn five_bits(p: *const u8) -> __m256i {
    // SAFETY: as this function's.
    let (v, bits) = unsafe { (four_bits(p.add(4)), p.cast::<i32>().read_unaligned()) };
    // Byte j/8 to eight bytes, each of which tests its own bit.
    let bytes = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
    let spread = _mm256_shuffle_epi8(_mm256_set1_epi32(bits), bytes);
    let own = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
    let set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, own), own);
    _mm256_or_si256(v, _mm256_and_si256(set, _mm256_set1_epi8(16)))
}

/// Codes of 0..16 as values of the IQ4 formats.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn iq4(codes: __m256i) -> __m256i {
    // SAFETY: 16 bytes.
    let values = unsafe { _mm_loadu_si128(IQ4.as_ptr().cast()) };
    let signed = _mm_xor_si128(values, _mm_set1_epi8(-128));
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(signed), codes)
}

/// The halves a [and c] at the start of eight blocks.
///
/// # Safety
/// Eight blocks of `BYTES` are readable at `p`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn halves<const BYTES: usize, const MIN: bool>(p: *const u8) -> Scale {
    // SAFETY: the first two, or four, bytes of eight blocks.
    let half = |i: usize, at: usize| unsafe { p.add(i * BYTES + at).cast::<i16>().read_unaligned() };
    let floats = |at: usize| {
        let [a, b, c, d, e, f, g, h] = std::array::from_fn(|i| half(i, at));
        _mm256_cvtph_ps(_mm_setr_epi16(a, b, c, d, e, f, g, h))
    };
    Scale::new(floats(0), if MIN { floats(2) } else { _mm256_setzero_ps() })
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

/// # Safety
/// A block of IQ4_XS is readable at `p`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn iq4_xs(p: *const u8) -> Scale {
    let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    // SAFETY: half d, 16 high bits and 32 low bits of scales.
    let (head, low) = unsafe { (p.cast::<u32>().read_unaligned(), p.add(4).cast::<i32>().read_unaligned()) };
    let low = _mm256_srlv_epi32(_mm256_set1_epi32(low), _mm256_slli_epi32::<2>(lanes));
    let high = _mm256_srlv_epi32(_mm256_set1_epi32((head >> 16) as i32), _mm256_slli_epi32::<1>(lanes));
    let high = _mm256_slli_epi32::<4>(_mm256_and_si256(high, _mm256_set1_epi32(3)));
    let scale = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi32(15)), high);
    let scale = _mm256_cvtepi32_ps(_mm256_sub_epi32(scale, _mm256_set1_epi32(32)));
    let d = _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(head as i32)));
    Scale::new(_mm256_mul_ps(d, scale), _mm256_setzero_ps())
}
