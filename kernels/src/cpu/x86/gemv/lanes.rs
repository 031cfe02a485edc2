//! Formats with blocks of 32 columns, and IQ4_XS, as a dot of AVX-512: a block in each lane of 128 bits.
//!
//! Three loads are a slab, and permutations of words take its parts out of them: a load that crosses lines costs two of the two that a
//! cycle has, and with eleven more of such halves a slab Q4_0 read memory at two thirds of the rate. The low nibbles of four blocks, then their
//! high ones, go through `vpdpbusd` into one vector, so that a float is made once in four blocks; its four lanes of a block have one
//! scale. What codes are too large by is a minimum.

use std::{arch::x86_64::*, mem::offset_of};

use super::{Sums, both, low_and_high};
use crate::cpu::matmul::{ActSlab, IQ4};

/// Adds eight blocks of 32 columns. `head` holds the eight a, then the eight c, or a again where −ZERO·a is the minimum; u are the low
/// nibbles of the first four blocks, a lane each, their high ones, and those of the others.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn lanes(head: __m512, u: [__m512i; 4], x: &ActSlab, mut sums: Sums) -> Sums {
    let p = std::ptr::from_ref(x).cast::<u8>();
    // SAFETY: d and sum lie side by side: 16 floats; codes are four vectors.
    unsafe {
        let scaled = _mm512_mul_ps(head, _mm512_loadu_ps(p.add(offset_of!(ActSlab, d)).cast()));
        sums.min = _mm512_mask_add_ps(sums.min, 0xff00, sums.min, scaled);
        for half in 0..2 {
            let q = |i: usize| _mm512_loadu_si512(x.q.as_ptr().add(64 * (2 * half + i)).cast());
            let product = _mm512_dpbusd_epi32(_mm512_setzero_si512(), u[2 * half], q(0));
            let product = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(product, u[2 * half + 1], q(1)));
            let lane = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
            let block = _mm512_add_epi32(lane, _mm512_set1_epi32(4 * half as i32));
            sums.sum[half] = _mm512_fmadd_ps(product, _mm512_permutexvar_ps(block, scaled), sums.sum[half]);
        }
    }
    sums
}

/// The bytes of eight blocks of `BYTES` bytes, 16 to 24: the first 64, the next, the last.
pub(super) struct Eight<const BYTES: usize>([__m512i; 3]);

/// A permutation of words of four of eight blocks of `bytes` bytes, the first or the second `half`: word i is the one at `at(i).1` bytes of
/// block `at(i).0`.
const fn words<const N: usize>(bytes: usize, half: usize, at: [(usize, usize); N]) -> [i16; 32] {
    let mut words = [0; 32];
    let mut i = 0;
    while i < N {
        let word = (bytes * (4 * half + at[i].0) + at[i].1) / 2;
        words[i] = match (half, word) {
            (0, _) => word,
            (_, 0..64) => word - 32,
            // The last vector begins at word 4·bytes − 32.
            _ => word - (4 * bytes - 32) + 32,
        } as i16;
        i += 1;
    }
    words
}

/// 32 words that lie at `at`, at + `step`, … (`count` of them, again and again) of each of four blocks, for [`words`].
const fn runs(at: usize, step: usize, count: usize) -> [(usize, usize); 32] {
    let mut runs = [(0, 0); 32];
    let mut i = 0;
    while i < 32 {
        runs[i] = (i / 8, at + i % 8 % count * step);
        i += 1;
    }
    runs
}

/// The first words of four blocks, then the second ones.
const HEADS: [(usize, usize); 8] = [(0, 0), (1, 0), (2, 0), (3, 0), (0, 2), (1, 2), (2, 2), (3, 2)];

impl<const BYTES: usize> Eight<BYTES> {
    /// # Safety
    /// The blocks are readable at `p`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    pub(super) unsafe fn load(p: *const u8) -> Self {
        // SAFETY: as this function's.
        unsafe { Self([0, 64, 8 * BYTES - 64].map(|at| _mm512_loadu_si512(p.add(at).cast()))) }
    }

    /// Words of the first or of the second four blocks.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    fn take(&self, half: usize, words: &[i16; 32]) -> __m512i {
        // SAFETY: 32 words.
        let words = unsafe { _mm512_loadu_si512(words.as_ptr().cast()) };
        _mm512_permutex2var_epi16(self.0[half], words, self.0[half + 1])
    }

    /// The halves a, twice, of blocks of 18 bytes, whose heads lie in the first 128.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    pub(super) fn heads_18(&self) -> __m512 {
        const WORDS: [i16; 32] = {
            let mut words = [0; 32];
            let mut i = 0;
            while i < 16 {
                words[i] = (9 * (i % 8)) as i16;
                i += 1;
            }
            words
        };
        _mm512_cvtph_ps(_mm512_castsi512_si256(self.take(0, &WORDS)))
    }

    /// The halves a, then what follows them.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    fn heads(&self) -> (__m128i, __m128i) {
        let words = const { [&words(BYTES, 0, HEADS), &words(BYTES, 1, HEADS)] };
        let [a, b] = [0, 1].map(|half| _mm512_castsi512_si128(self.take(half, words[half])));
        (_mm_unpacklo_epi64(a, b), _mm_unpackhi_epi64(a, b))
    }

    /// The halves a, twice.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    pub(super) fn scales(&self) -> __m512 {
        _mm512_cvtph_ps(_mm256_broadcastsi128_si256(self.heads().0))
    }

    /// The halves a, then the halves c.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    pub(super) fn scales_and_minima(&self) -> __m512 {
        let (a, c) = self.heads();
        _mm512_cvtph_ps(_mm256_set_m128i(c, a))
    }

    /// The nibbles of the blocks, in 16 bytes at `AT`, for [`lanes`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    pub(super) fn nibbles<const AT: usize>(&self) -> [__m512i; 4] {
        let words = const { [&words(BYTES, 0, runs(AT, 2, 8)), &words(BYTES, 1, runs(AT, 2, 8))] };
        let [[a, b], [c, d]] = [0, 1].map(|half| low_and_high(self.take(half, words[half])));
        [a, b, c, d]
    }

    /// [`Eight::nibbles`] at `NIBBLES` and the fifth bits of the 32 columns, four bytes at `BITS`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    pub(super) fn five_bits<const BITS: usize, const NIBBLES: usize>(&self) -> [__m512i; 4] {
        let words = const { [&words(BYTES, 0, runs(BITS, 2, 2)), &words(BYTES, 1, runs(BITS, 2, 2))] };
        let own = _mm512_set1_epi64(0x8040_2010_0804_0201u64 as i64);
        let mut u = self.nibbles::<NIBBLES>();
        for half in 0..2 {
            let bits = self.take(half, words[half]);
            for i in 0..2 {
                // Two bytes of bits to eight columns each, which test their own.
                let byte = |at: usize| 0x0101_0101_0101_0101 * (2 * i + at) as i64;
                let bytes = _mm512_broadcast_i32x4(_mm_set_epi64x(byte(1), byte(0)));
                let set = _mm512_test_epi8_mask(_mm512_shuffle_epi8(bits, bytes), own);
                let v = &mut u[2 * half + i];
                *v = _mm512_mask_add_epi8(*v, set, *v, _mm512_set1_epi8(16));
            }
        }
        u
    }
}

/// Codes of 0..16 as values of the IQ4 formats plus 128.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn iq4(codes: __m512i) -> __m512i {
    // SAFETY: 16 bytes.
    let values = unsafe { _mm_loadu_si128(IQ4.as_ptr().cast()) };
    _mm512_shuffle_epi8(_mm512_broadcast_i32x4(values), codes)
}

/// The scales of a block of IQ4_XS, twice: half d, 16 high bits and 32 low bits of scales.
///
/// # Safety
/// Eight bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn iq4_xs_head(p: *const u8) -> __m512 {
    let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    // SAFETY: as this function's.
    let (head, low) = unsafe { (p.cast::<u32>().read_unaligned(), p.add(4).cast::<i32>().read_unaligned()) };
    let low = _mm256_srlv_epi32(_mm256_set1_epi32(low), _mm256_slli_epi32::<2>(lanes));
    let high = _mm256_srlv_epi32(_mm256_set1_epi32((head >> 16) as i32), _mm256_slli_epi32::<1>(lanes));
    let high = _mm256_slli_epi32::<4>(_mm256_and_si256(high, _mm256_set1_epi32(3)));
    let scale = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi32(15)), high);
    let scale = _mm256_cvtepi32_ps(_mm256_sub_epi32(scale, _mm256_set1_epi32(32)));
    let d = _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(head as i32)));
    let a = _mm256_mul_ps(d, scale);
    both(a, a)
}
