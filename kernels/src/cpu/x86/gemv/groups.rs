//! The K formats as a dot of AVX-512, whose scales are integers, and Q8_0: columns in their order, groups of lanes with a scale each.
//!
//! Four products of four to six bits, with bytes of the token's, fit 16 bits. So two vectors of sums are packed to one, which meets the
//! scales as 16-bit numbers; a block's total is below 2²⁹.

use std::{arch::x86_64::*, mem::offset_of};

use super::{GROUP, Sums, fetch};
use crate::cpu::matmul::ActSlab;

/// 16 bytes for each of `N` slabs, a lane each.
///
/// # Safety
/// 16 bytes are readable at `at(i)` for i below `N`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn by_lane<const N: usize>(at: impl Fn(usize) -> *const u8) -> __m512i {
    // SAFETY: as the caller promises for `at`.
    let load = |i: usize| unsafe { _mm_loadu_si128(at(i).cast()) };
    let v = _mm512_zextsi128_si512(load(0));
    if N < GROUP {
        return v;
    }
    let v = _mm512_inserti32x4::<1>(v, load(1));
    let v = _mm512_inserti32x4::<2>(v, load(2));
    _mm512_inserti32x4::<3>(v, load(3))
}

/// Words of [`k_blocks`]' scales: for slab r, then for its first or second 128 columns, the scale of each word of packed sums, which
/// are four of a block and four of the next, twice, then of the two blocks after.
const SCALES: [[[i16; 32]; 2]; GROUP] = {
    let mut words = [[[0; 32]; 2]; GROUP];
    let mut i = 0;
    while i < GROUP * 2 * 32 {
        let (slab, half, word) = (i / 64, i / 32 % 2, i % 32);
        words[slab][half][word] = (8 * slab + 4 * half + 2 * (word / 16) + word / 4 % 2) as i16;
        i += 1;
    }
    words
};

/// Words of heads: for each slab d four times, then for each min.
const HALVES: [i16; 32] = {
    let mut words = [0; 32];
    let mut i = 0;
    while i < 32 {
        words[i] = (8 * (i / 4 % 4) + i / 16) as i16;
        i += 1;
    }
    words
};

/// Adds blocks of Q4_K or Q5_K, of `BYTES` bytes: half d, half min, eight 6-bit pairs of scales and minima; `u` gives a block's codes: blocks
/// 0 and 2, 1 and 3, 4 and 6, 5 and 7.
///
/// # Safety
/// `N` of them are readable at `p`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn k_blocks<const BYTES: usize, const N: usize>(
    p: *const u8,
    x: &[ActSlab; N],
    mut sums: Sums,
    u: impl Fn(*const u8) -> [__m512i; 4],
) -> Sums {
    let zero = _mm512_setzero_si512();
    // SAFETY: 16 bytes of each block; four floats and eight sums of each slab; whole constants, and vectors within codes.
    unsafe {
        let word = |words: &[i16; 32]| _mm512_loadu_si512(words.as_ptr().cast());
        let head = by_lane::<N>(|i| p.add(BYTES * i));
        let scale = _mm512_castsi512_ps(by_lane::<N>(|i| x[i].d.as_ptr().cast()));
        let halves = _mm512_permutexvar_epi16(word(&HALVES), head);
        let float = |v| _mm512_mul_ps(_mm512_cvtph_ps(v), scale);
        let d = float(_mm512_castsi512_si256(halves));
        let min = float(_mm512_extracti64x4_epi64::<1>(halves));
        let (scales, minima) = scales_and_minima(head);
        let minima = _mm512_madd_epi16(minima, by_lane::<N>(|i| x[i].sums32.as_ptr().cast()));
        sums.min = _mm512_fmadd_ps(_mm512_cvtepi32_ps(minima), min, sums.min);
        for (i, x) in x.iter().enumerate() {
            fetch(p, N * BYTES, i, N);
            let u = u(p.add(BYTES * i));
            let product = |i: usize| {
                _mm512_dpbusd_epi32(zero, u[i], _mm512_loadu_si512(x.q.as_ptr().add(64 * i).cast()))
            };
            let scale = |half: usize| _mm512_permutexvar_epi16(word(&SCALES[i][half]), scales);
            let total = _mm512_madd_epi16(_mm512_packs_epi32(product(0), product(1)), scale(0));
            let total = _mm512_dpwssd_epi32(total, _mm512_packs_epi32(product(2), product(3)), scale(1));
            let d = match i {
                0 => _mm512_shuffle_f32x4::<0x00>(d, d),
                1 => _mm512_shuffle_f32x4::<0x55>(d, d),
                2 => _mm512_shuffle_f32x4::<0xaa>(d, d),
                _ => _mm512_shuffle_f32x4::<0xff>(d, d),
            };
            sums.sum[i % 2] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(total), d, sums.sum[i % 2]);
        }
    }
    sums
}

/// Eight scales and eight minima of each lane's block, 16 bits each, from its head: halves, u0, u1, u2.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn scales_and_minima(head: __m512i) -> (__m512i, __m512i) {
    // u0, u2, u1, u2 >> 4: what the low bits are of.
    let low = _mm512_srlv_epi32(_mm512_shuffle_epi32::<0b11_10_11_01>(head), _mm512_set4_epi32(4, 0, 0, 0));
    let low_bits = _mm512_set4_epi32(0x0f0f_0f0f, 0x3f3f_3f3f, 0x0f0f_0f0f, 0x3f3f_3f3f);
    // u0 and u1 again, for the high two bits of the last four.
    let high = _mm512_srli_epi32::<2>(_mm512_shuffle_epi32::<0b10_10_01_01>(head));
    let high_bits = _mm512_set4_epi32(0x3030_3030, 0, 0x3030_3030, 0);
    // First | second & third.
    let bytes = _mm512_ternarylogic_epi32::<0xf8>(_mm512_and_si512(low, low_bits), high, high_bits);
    let zero = _mm512_setzero_si512();
    (_mm512_unpacklo_epi8(bytes, zero), _mm512_unpackhi_epi8(bytes, zero))
}

/// Lanes of 16 bits whose first half is `low` and whose second is `high`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn halves(low: i16, high: i16) -> __m512i {
    _mm512_mask_set1_epi16(_mm512_set1_epi16(low), 0xffff_0000, high)
}

/// Adds the bits of Q5_K at `qh` to codes: bit b of its 32 bytes to block b.
///
/// # Safety
/// 32 bytes are readable at `qh`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn fifth_bits(u: [__m512i; 4], qh: *const u8) -> [__m512i; 4] {
    // SAFETY: as this function's.
    let bits = unsafe { _mm512_broadcast_i64x4(_mm256_loadu_si256(qh.cast())) };
    // First | second & third. What comes in from a neighbouring byte does not reach bit 4.
    let or = |u, bits| _mm512_ternarylogic_epi32::<0xf8>(u, bits, _mm512_set1_epi8(16));
    [
        or(u[0], _mm512_sllv_epi16(bits, halves(4, 2))),
        or(u[1], _mm512_sllv_epi16(bits, halves(3, 1))),
        or(u[2], _mm512_srlv_epi16(bits, halves(0, 2))),
        or(u[3], _mm512_srlv_epi16(bits, halves(1, 3))),
    ]
}

/// Words of Q6_K's scales, for the first and the second 128 columns: packed sums are four of group i and four of group i + 4.
const GROUPS: [[i16; 32]; 2] = {
    let mut words = [[0; 32]; 2];
    let mut i = 0;
    while i < 2 * 32 {
        let (half, word) = (i / 32, i % 32);
        words[half][word] = (8 * half + word / 8 + word / 4 % 2 * 4) as i16;
        i += 1;
    }
    words
};

/// Adds a block of Q6_K: ql 0..128, qh 128..192, scales 192..208, half d 208..210.
///
/// # Safety
/// It is readable at `p`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn q6_k(p: *const u8, x: &ActSlab, mut sums: Sums) -> Sums {
    let zero = _mm512_setzero_si512();
    let (four, two) = (_mm512_set1_epi8(15), _mm512_set1_epi8(0x30));
    // First | second & third.
    let or = |low, high| _mm512_ternarylogic_epi32::<0xf8>(_mm512_and_si512(low, four), high, two);
    // SAFETY: the parts of a block, whole constants, vectors within codes, 16 sums.
    unsafe {
        let scales = _mm256_cvtepi8_epi16(_mm_loadu_si128(p.add(192).cast()));
        let d = _mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(p.add(208).cast::<u16>().read_unaligned())));
        let d = _mm512_broadcastss_ps(_mm_mul_ss(d, _mm_load_ss(x.d.as_ptr())));
        // What the codes are too large by: 32·Σq of each group.
        let sums16 = _mm256_loadu_si256(x.sums16.as_ptr().cast());
        let excess = _mm256_madd_epi16(_mm256_slli_epi16::<5>(scales), sums16);
        let mut total = _mm512_zextsi256_si512(excess);
        for (half, groups) in GROUPS.iter().enumerate() {
            let low = _mm512_loadu_si512(p.add(64 * half).cast());
            let high = _mm512_broadcast_i64x4(_mm256_loadu_si256(p.add(128 + 32 * half).cast()));
            let u = [
                or(low, _mm512_sllv_epi16(high, halves(4, 2))),
                or(_mm512_srli_epi16::<4>(low), _mm512_srlv_epi16(high, halves(0, 2))),
            ];
            let product = |i: usize| {
                let q = _mm512_loadu_si512(x.q.as_ptr().add(128 * half + 64 * i).cast());
                _mm512_dpbusd_epi32(zero, u[i], q)
            };
            let groups = _mm512_loadu_si512(groups.as_ptr().cast());
            let scales = _mm512_permutexvar_epi16(groups, _mm512_castsi256_si512(scales));
            total = _mm512_dpwssd_epi32(total, _mm512_packs_epi32(product(0), product(1)), scales);
        }
        sums.sum[0] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(total), d, sums.sum[0]);
    }
    sums
}

/// Adds eight blocks of Q8_0: half a, 32 signed bytes.
///
/// # Safety
/// They are readable at `p`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn q8_0(p: *const u8, x: &ActSlab, sums: Sums) -> Sums {
    // The scales of two blocks each of two vectors.
    const WORDS: [i16; 32] = {
        let mut words = [0; 32];
        [words[0], words[1], words[2], words[3]] = [0, 17, 32, 49];
        words
    };
    // SAFETY: eight blocks of 34 bytes, and vectors of 64 bytes from every second on.
    unsafe {
        let pair = |i: usize| _mm512_loadu_si512(p.add(68 * i).cast());
        let words = _mm512_loadu_si512(WORDS.as_ptr().cast());
        let four = |i: usize| _mm512_castsi512_si128(_mm512_permutex2var_epi16(pair(i), words, pair(i + 1)));
        let a = _mm_unpacklo_epi64(four(0), four(2));
        let a = _mm512_cvtph_ps(_mm256_broadcastsi128_si256(a));
        let u = std::array::from_fn(|i| {
            let p = p.add(68 * i);
            let first = _mm512_castsi256_si512(_mm256_loadu_si256(p.add(2).cast()));
            let both = _mm512_inserti64x4::<1>(first, _mm256_loadu_si256(p.add(36).cast()));
            _mm512_xor_si512(both, _mm512_set1_epi8(-128))
        });
        q8_0_sums(u, a, x, sums)
    }
}

/// Adds eight blocks of bytes, which are too large by 128, with the scales `a`, given twice.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn q8_0_sums(u: [__m512i; 4], a: __m512, x: &ActSlab, mut sums: Sums) -> Sums {
    let p = std::ptr::from_ref(x).cast::<u8>();
    // SAFETY: d and sum lie side by side: 16 floats; codes are four vectors.
    unsafe {
        let scaled = _mm512_mul_ps(a, _mm512_loadu_ps(p.add(offset_of!(ActSlab, d)).cast()));
        sums.min = _mm512_mask_add_ps(sums.min, 0xff00, sums.min, scaled);
        for (i, u) in u.into_iter().enumerate() {
            let q = _mm512_loadu_si512(x.q.as_ptr().add(64 * i).cast());
            let product = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(_mm512_setzero_si512(), u, q));
            let block = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
            let block = _mm512_add_epi32(block, _mm512_set1_epi32(2 * i as i32));
            sums.sum[i % 2] = _mm512_fmadd_ps(product, _mm512_permutexvar_ps(block, scaled), sums.sum[i % 2]);
        }
    }
    sums
}
