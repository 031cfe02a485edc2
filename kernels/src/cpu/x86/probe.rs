//! Multiply-adds that keep AVX2's and AVX-512's units busy, for [`crate::probe`].
//!
//! The sums of a chain depend on each other and the chains do not, so that a unit is given an instruction every cycle.
//! Factors come from a buffer that the compiler cannot see through; else it would lift the products out of the loop.

use std::{arch::x86_64::*, hint::black_box};

use crate::cpu::{Isa, probe::STEPS};

/// Chains of 512-bit sums: with two factors 26 of 32 registers, 12 for each of two units whose latency is 4 or 5.
const CHAINS: usize = 24;

/// `vpdpbusd` on 512 bits; the operations done.
pub(crate) fn vnni512() -> Option<usize> {
    #[target_feature(enable = "avx512f,avx512vnni")]
    fn run() {
        let (u, v) = black_box((_mm512_set1_epi32(3), _mm512_set1_epi32(5)));
        let mut sums = [_mm512_set1_epi32(1); CHAINS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, u, v);
            }
        }
        black_box(sums);
    }
    Isa::Avx512Vnni.is_available().then(|| {
        // SAFETY: the machine has both.
        unsafe { run() };
        STEPS * CHAINS * 64 * 2
    })
}

/// AVX-VNNI's `vpdpbusd` on 256 bits; the operations done.
pub(crate) fn vnni256() -> Option<usize> {
    // Two factors and these are 14 of 16 registers.
    const CHAINS: usize = 12;
    #[target_feature(enable = "avx2,avxvnni")]
    fn run() {
        let (u, v) = black_box((_mm256_set1_epi32(3), _mm256_set1_epi32(5)));
        let mut sums = [_mm256_set1_epi32(1); CHAINS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm256_dpbusd_avx_epi32(*sum, u, v);
            }
        }
        black_box(sums);
    }
    Isa::Avx2Vnni.is_available().then(|| {
        // SAFETY: the machine has both.
        unsafe { run() };
        STEPS * CHAINS * 32 * 2
    })
}

/// `vpmaddubsw` added up in 16 bits, which eight products of 4-bit weights leave room for, then one `vpmaddwd`: the most that AVX2
/// does without VNNI. The operations done.
pub(crate) fn maddubs() -> Option<usize> {
    const VECTORS: usize = 32;
    #[target_feature(enable = "avx2")]
    fn run(rounds: usize) {
        let mut u = [_mm256_set1_epi8(3); VECTORS];
        let (v, ones) = black_box((_mm256_set1_epi8(5), _mm256_set1_epi16(1)));
        let mut sums = [_mm256_setzero_si256(); 4];
        for _ in 0..rounds {
            for (u, sum) in black_box(&mut u).as_chunks::<8>().0.iter().zip(&mut sums) {
                let mut short = _mm256_maddubs_epi16(u[0], v);
                for u in &u[1..] {
                    short = _mm256_add_epi16(short, _mm256_maddubs_epi16(*u, v));
                }
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(short, ones));
            }
        }
        black_box(sums);
    }
    Isa::Avx2.is_available().then(|| {
        // SAFETY: the machine has it.
        unsafe { run(STEPS) };
        STEPS * VECTORS * 32 * 2
    })
}

/// `vdpbf16ps` on 512 bits; the operations done.
pub(crate) fn bf16() -> Option<usize> {
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn run() {
        let one = _mm512_cvtne2ps_pbh(_mm512_set1_ps(black_box(1.0)), _mm512_set1_ps(1.0));
        let mut sums = [_mm512_set1_ps(1.0); CHAINS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, one, one);
            }
        }
        black_box(sums);
    }
    (Isa::Avx512Vnni.is_available() && is_x86_feature_detected!("avx512bf16")).then(|| {
        // SAFETY: the machine has all three.
        unsafe { run() };
        STEPS * CHAINS * 32 * 2
    })
}

/// `vfmadd` on 512 bits of f16; the operations done.
pub(crate) fn f16() -> Option<usize> {
    #[target_feature(enable = "avx512f,avx512bw,avx512fp16")]
    fn run() {
        // 0.5 and 1 as halves.
        let (half, one) = black_box((_mm512_set1_epi16(0x3800), _mm512_set1_epi16(0x3c00)));
        let (half, one) = (_mm512_castsi512_ph(half), _mm512_castsi512_ph(one));
        let mut sums = [one; CHAINS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ph(*sum, half, one);
            }
        }
        black_box(sums);
    }
    (Isa::Avx512Vnni.is_available() && is_x86_feature_detected!("avx512fp16")).then(|| {
        // SAFETY: the machine has all three.
        unsafe { run() };
        STEPS * CHAINS * 32 * 2
    })
}
