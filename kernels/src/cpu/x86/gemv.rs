//! The product of one token with AVX-512 and VNNI: a dot per weight row.
//!
//! Memory bounds it, so what counts is that loads are in flight: two rows far apart are read at once, and lines are fetched some
//! kilobytes ahead (together 1.7 times as fast as one row without fetching). A slab of a row is unpacked in registers, four of
//! 64 columns in order; `vpdpbusd` sums four columns a lane, and a lane's float is scaled by its group's scales.

use std::arch::x86_64::*;

use crate::{
    DType,
    cpu::matmul::{ActSlab, IQ4, SLAB, Scales, Unpack, Weights},
};

/// Bytes ahead of the current ones that are fetched: 2.3 to 4.6 KB measured alike, less and more is slower.
const AHEAD: usize = 4096;

/// Slabs whose lines are fetched together, so that few are fetched twice.
const BURST: usize = 4;

/// A slab of a row.
struct Slab {
    /// Bytes u, 64 columns each.
    u: [__m512i; 4],
    /// a, by lanes: 16 groups, or 8 and anything.
    a: __m512,
    /// c, by blocks of 32.
    c: __m256,
}

/// `out[i]` = row `first` + i times x. Two rows at a time, half the rows apart.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn dots<F: Unpack>(w: Weights<'_>, first: usize, x: &[ActSlab], out: &mut [f32]) {
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
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn dot<F: Unpack, const R: usize>(rows: [&[u8]; R], x: &[ActSlab]) -> [f32; R] {
    let bytes = SLAB / F::DTYPE.block_len() * F::DTYPE.block_bytes();
    let whole = rows[0].len() / bytes;
    let mut sums = [_mm512_setzero_ps(); R];
    let mut mins = [_mm256_setzero_ps(); R];
    for (i, x) in x[..whole].iter().enumerate() {
        for r in 0..R {
            let part = &rows[r][i * bytes..(i + 1) * bytes];
            if i % BURST == 0 {
                prefetch(part.as_ptr(), BURST * bytes);
            }
            // SAFETY: `part` is a whole slab.
            let slab = unsafe { unpack::<F>(part.as_ptr()) };
            (sums[r], mins[r]) = add::<F>(&slab, x, sums[r], mins[r]);
        }
    }
    if let Some(x) = x.get(whole) {
        for r in 0..R {
            let (mut u, mut s) = ([0; SLAB], Scales::default());
            F::unpack(&rows[r][whole * bytes..], &mut u, &mut s);
            (sums[r], mins[r]) = add::<F>(&Slab::new(&u, &s), x, sums[r], mins[r]);
        }
    }
    let mut out = [0.0; R];
    for r in 0..R {
        let sum = if F::MIN { _mm512_add_ps(sums[r], _mm512_zextps256_ps512(mins[r])) } else { sums[r] };
        out[r] = _mm512_reduce_add_ps(sum);
    }
    out
}

/// Fetches `bytes` from [`AHEAD`] of `p` on.
#[inline(always)]
pub(super) fn prefetch(p: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(64) {
        // SAFETY: SSE is part of x86-64, and a prefetch of any address is harmless.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(AHEAD + line).cast()) };
    }
}

/// Adds the products of a slab to 16 sums, and those of the minima to 8.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn add<F: Unpack>(slab: &Slab, x: &ActSlab, mut sum: __m512, mut min: __m256) -> (__m512, __m256) {
    // SAFETY: loads of whole arrays, and of four vectors within arrays of four.
    unsafe {
        let d = _mm512_zextps256_ps512(_mm256_loadu_ps(x.d.as_ptr()));
        let d = if F::GROUP == 16 {
            _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7), d)
        } else {
            d
        };
        let scales = _mm512_mul_ps(slab.a, d);
        // 64 columns are 16 lanes of four: 4 lanes of a group of 16, 8 of one of 32.
        let first = if F::GROUP == 16 {
            _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3)
        } else {
            _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1)
        };
        for i in 0..4 {
            let off = match F::MIN {
                true => _mm512_setzero_si512(),
                false => _mm512_loadu_si512(x.off.as_ptr().add(16 * i).cast()),
            };
            let q = _mm512_loadu_si512(x.q.as_ptr().add(64 * i).cast());
            let product = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(off, slab.u[i], q));
            let group = _mm512_add_epi32(first, _mm512_set1_epi32((64 / F::GROUP * i) as i32));
            sum = _mm512_fmadd_ps(product, _mm512_permutexvar_ps(group, scales), sum);
        }
        if F::MIN {
            min = _mm256_fmadd_ps(slab.c, _mm256_loadu_ps(x.sum.as_ptr()), min);
        }
    }
    (sum, min)
}

impl Slab {
    /// From what [`Unpack::unpack`] wrote.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    fn new(u: &[u8; SLAB], s: &Scales) -> Self {
        // SAFETY: loads of whole arrays, and of four vectors within an array of four.
        unsafe {
            let u = |i: usize| _mm512_loadu_si512(u.as_ptr().add(64 * i).cast());
            Self {
                u: [u(0), u(1), u(2), u(3)],
                a: _mm512_loadu_ps(s.a.as_ptr()),
                c: _mm256_loadu_ps(s.c.as_ptr()),
            }
        }
    }
}

/// A whole slab of a row.
///
/// # Safety
/// The slab's bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn unpack<F: Unpack>(p: *const u8) -> Slab {
    // SAFETY: as this function's.
    unsafe {
        match F::DTYPE {
            DType::Q4_0 => blocks::<18, false>(p, |i| four_bits(p.add(36 * i + 2), 18)),
            DType::Q4_1 => blocks::<20, true>(p, |i| four_bits(p.add(40 * i + 4), 20)),
            DType::Q5_0 => blocks::<22, false>(p, |i| five_bits(p.add(44 * i + 2), 22)),
            DType::Q5_1 => blocks::<24, true>(p, |i| five_bits(p.add(48 * i + 4), 24)),
            DType::Q8_0 => blocks::<34, false>(p, |i| eight_bits(p.add(68 * i + 2))),
            DType::IQ4_NL => blocks::<18, false>(p, |i| iq4(four_bits(p.add(36 * i + 2), 18))),
            DType::IQ4_XS => iq4_xs(p),
            DType::Q4_K => k_block(p, |i| chunk(p.add(16 + 32 * i))),
            DType::Q5_K => k_block(p, |i| fifth_bits(chunk(p.add(48 + 32 * i)), p.add(16), i)),
            DType::Q6_K => q6_k(p),
            other => unreachable!("{other} has no bytes"),
        }
    }
}

/// Eight blocks of 32 that begin with half a [, half c]; `u` gives two blocks of bytes.
///
/// # Safety
/// Eight blocks of `BYTES` are readable at `p`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn blocks<const BYTES: i32, const MIN: bool>(p: *const u8, u: impl Fn(usize) -> __m512i) -> Slab {
    let at = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(BYTES));
    // SAFETY: the first four bytes of eight blocks.
    let head = unsafe { _mm256_i32gather_epi32::<1>(p.cast(), at) };
    let float = |v: __m256i| _mm256_cvtph_ps(_mm256_cvtepi32_epi16(v));
    Slab {
        u: [u(0), u(1), u(2), u(3)],
        a: _mm512_zextps256_ps512(float(head)),
        c: if MIN { float(_mm256_srli_epi32::<16>(head)) } else { _mm256_setzero_ps() },
    }
}

/// The nibbles of 16 bytes at `p` and of 16 at `p` + `next`: each the low ones, then the high ones.
///
/// # Safety
/// They are readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn four_bits(p: *const u8, next: usize) -> __m512i {
    // SAFETY: as this function's.
    let (a, b) = unsafe { (_mm_loadu_si128(p.cast()), _mm_loadu_si128(p.add(next).cast())) };
    let v = _mm512_mask_broadcast_i32x4(_mm512_broadcast_i32x4(a), 0xff00, b);
    let shifts = _mm512_setr_epi64(
        0,
        0,
        0x0004_0004_0004_0004,
        0x0004_0004_0004_0004,
        0,
        0,
        0x0004_0004_0004_0004,
        0x0004_0004_0004_0004,
    );
    _mm512_and_si512(_mm512_srlv_epi16(v, shifts), _mm512_set1_epi8(15))
}

/// Fifth bits (4 bytes) and nibbles (16 bytes) at `p` and at `p` + `next`.
///
/// # Safety
/// They are readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn five_bits(p: *const u8, next: usize) -> __m512i {
    // SAFETY: as this function's.
    let (v, a, b) = unsafe {
        (
            four_bits(p.add(4), next),
            p.cast::<u32>().read_unaligned(),
            p.add(next).cast::<u32>().read_unaligned(),
        )
    };
    let bits = u64::from(a) | u64::from(b) << 32;
    _mm512_mask_add_epi8(v, bits, v, _mm512_set1_epi8(16))
}

/// Signed bytes of two blocks of Q8_0, plus 128.
///
/// # Safety
/// 32 bytes are readable at `p` and 34 further.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn eight_bits(p: *const u8) -> __m512i {
    // SAFETY: as this function's.
    let (a, b) = unsafe { (_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(34).cast())) };
    _mm512_xor_si512(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b), _mm512_set1_epi8(-128))
}

/// Codes of 0..16 as values of the IQ4 formats plus 128.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn iq4(codes: __m512i) -> __m512i {
    // SAFETY: 16 bytes.
    let values = unsafe { _mm_loadu_si128(IQ4.as_ptr().cast()) };
    _mm512_shuffle_epi8(_mm512_broadcast_i32x4(values), codes)
}

/// # Safety
/// A block is readable at `p`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn iq4_xs(p: *const u8) -> Slab {
    let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    // SAFETY: half d, 16 high bits and 32 low bits of scales, 128 bytes of nibbles.
    unsafe {
        let (head, low) = (p.cast::<u32>().read_unaligned(), p.add(4).cast::<i32>().read_unaligned());
        let low = _mm256_srlv_epi32(_mm256_set1_epi32(low), _mm256_slli_epi32::<2>(lanes));
        let high = _mm256_srlv_epi32(_mm256_set1_epi32((head >> 16) as i32), _mm256_slli_epi32::<1>(lanes));
        let high = _mm256_slli_epi32::<4>(_mm256_and_si256(high, _mm256_set1_epi32(3)));
        let scale = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi32(15)), high);
        let scale = _mm256_cvtepi32_ps(_mm256_sub_epi32(scale, _mm256_set1_epi32(32)));
        let d = _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(head as i32)));
        let u = |i: usize| iq4(four_bits(p.add(8 + 32 * i), 16));
        Slab {
            u: [u(0), u(1), u(2), u(3)],
            a: _mm512_zextps256_ps512(_mm256_mul_ps(d, scale)),
            c: _mm256_setzero_ps(),
        }
    }
}

/// A block of Q4_K or Q5_K: half d, half min, eight 6-bit pairs of scales; `u` gives 64 columns.
///
/// # Safety
/// 16 bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn k_block(p: *const u8, u: impl Fn(usize) -> __m512i) -> Slab {
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
    Slab {
        u: [u(0), u(1), u(2), u(3)],
        a: _mm512_zextps256_ps512(_mm256_mul_ps(d, floats(u0 & low, high(u2, u0)))),
        c: _mm256_sub_ps(_mm256_setzero_ps(), minima),
    }
}

/// Lanes of 16 bits whose first half is `low` and whose second is `high`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn halves(low: i16, high: i16) -> __m512i {
    _mm512_mask_set1_epi16(_mm512_set1_epi16(low), 0xffff_0000, high)
}

/// 32 bytes of nibbles to 64 columns: the low ones, then the high ones.
///
/// # Safety
/// They are readable at `p`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn chunk(p: *const u8) -> __m512i {
    // SAFETY: as this function's.
    let v = _mm512_broadcast_i64x4(unsafe { _mm256_loadu_si256(p.cast()) });
    _mm512_and_si512(_mm512_srlv_epi16(v, halves(0, 4)), _mm512_set1_epi8(15))
}

/// Adds bit 2·i of the bytes at `qh` to the first 32 columns and bit 2·i + 1 to the others, as bit 4.
///
/// # Safety
/// 32 bytes are readable at `qh`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn fifth_bits(v: __m512i, qh: *const u8, i: usize) -> __m512i {
    // SAFETY: as this function's.
    let bits = _mm512_broadcast_i64x4(unsafe { _mm256_loadu_si256(qh.cast()) });
    let own = halves(0x0101 << (2 * i), (0x0202u16 << (2 * i)) as i16);
    _mm512_mask_add_epi8(v, _mm512_test_epi8_mask(bits, own), v, _mm512_set1_epi8(16))
}

/// # Safety
/// A block is readable at `p`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn q6_k(p: *const u8) -> Slab {
    // SAFETY: ql 0..128, qh 128..192, scales 192..208, d 208..210.
    unsafe {
        let scales = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.add(192).cast())));
        let d = _mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(p.add(208).cast::<u16>().read_unaligned())));
        let (four, two) = (_mm512_set1_epi8(15), _mm512_set1_epi8(0x30));
        let mut u = [_mm512_setzero_si512(); 4];
        for half in 0..2 {
            let low = _mm512_loadu_si512(p.add(64 * half).cast());
            let high = _mm512_broadcast_i64x4(_mm256_loadu_si256(p.add(128 + 32 * half).cast()));
            let or = |low: __m512i, high: __m512i| {
                _mm512_or_si512(_mm512_and_si512(low, four), _mm512_and_si512(high, two))
            };
            u[2 * half] = or(low, _mm512_sllv_epi16(high, halves(4, 2)));
            u[2 * half + 1] = or(_mm512_srli_epi16::<4>(low), _mm512_srlv_epi16(high, halves(0, 2)));
        }
        Slab { u, a: _mm512_mul_ps(scales, _mm512_broadcastss_ps(d)), c: _mm256_setzero_ps() }
    }
}
