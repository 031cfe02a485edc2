//! The product of one token with AVX-512 and VNNI: a dot per weight row.

use std::arch::x86_64::*;

use crate::cpu::matmul::{ActSlab, SLAB, Scales, Unpack, Weights};

/// Bytes ahead of the current ones that are fetched: at 15 GB/s 0.3 µs, some three latencies of the memory.
const AHEAD: usize = 4096;

/// out[i] = row `first` + i times x. Two rows at a time, half the rows apart: two streams of memory.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn dots<F: Unpack>(w: Weights<'_>, first: usize, x: &[ActSlab], out: &mut [f32]) {
    let far = out.len() / 2;
    let (near, rest) = out.split_at_mut(far);
    for (i, out) in near.iter_mut().enumerate() {
        let [a, b] = dot::<F, 2>([w.row(first + i), w.row(first + far + i)], x);
        *out = a;
        rest[i] = b;
    }
    if let Some(out) = rest.get_mut(far) {
        [*out] = dot::<F, 1>([w.row(first + 2 * far)], x);
    }
}

/// Rows times x: unpacked to bytes, multiplied, scaled.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn dot<F: Unpack, const R: usize>(rows: [&[u8]; R], x: &[ActSlab]) -> [f32; R] {
    let bytes = SLAB / F::DTYPE.block_len() * F::DTYPE.block_bytes();
    let mut sums = [_mm512_setzero_ps(); R];
    let mut mins = [_mm256_setzero_ps(); R];
    for (slab, x) in x.iter().enumerate() {
        for r in 0..R {
            let end = rows[r].len().min((slab + 1) * bytes);
            let part = &rows[r][slab * bytes..end];
            prefetch(part);
            let (mut u, mut s) = ([0; SLAB], Scales::default());
            F::unpack(part, &mut u, &mut s);
            (sums[r], mins[r]) = add::<F>(&u, &s, x, sums[r], mins[r]);
        }
    }
    let mut out = [0.0; R];
    for r in 0..R {
        out[r] = _mm512_reduce_add_ps(sums[r]);
        if F::MIN {
            out[r] += _mm512_reduce_add_ps(_mm512_insertf32x8::<0>(_mm512_setzero_ps(), mins[r]));
        }
    }
    out
}

/// Fetches what comes [`AHEAD`] of `part`, as many bytes.
#[inline(always)]
pub(super) fn prefetch(part: &[u8]) {
    for line in (0..part.len()).step_by(64) {
        // SAFETY: SSE is part of x86-64, and a prefetch of any address is harmless.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(part.as_ptr().wrapping_add(AHEAD + line).cast()) };
    }
}

/// Adds the products of a slab to 16 sums, and those of the minima to 8.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn add<F: Unpack>(
    u: &[u8; SLAB],
    s: &Scales,
    x: &ActSlab,
    mut sum: __m512,
    mut min: __m256,
) -> (__m512, __m256) {
    // SAFETY: loads of whole arrays, and of four vectors within arrays of four.
    unsafe {
        let d = _mm256_loadu_ps(x.d.as_ptr());
        let two = |v: __m256| _mm512_insertf32x8::<1>(_mm512_castps256_ps512(v), v);
        // Lane l of the scales is that of group l.
        let scales = if F::GROUP == 16 {
            let twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
            _mm512_mul_ps(_mm512_loadu_ps(s.a.as_ptr()), _mm512_permutexvar_ps(twice, two(d)))
        } else {
            two(_mm256_mul_ps(_mm256_loadu_ps(s.a.as_ptr()), d))
        };
        // 64 columns are 16 lanes of four: 4 lanes of a group of 16, 8 of one of 32.
        let first = if F::GROUP == 16 {
            _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3)
        } else {
            _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1)
        };
        for i in 0..4 {
            let off = if F::MIN {
                _mm512_setzero_si512()
            } else {
                _mm512_loadu_si512(x.off.as_ptr().add(16 * i).cast())
            };
            let w = _mm512_loadu_si512(u.as_ptr().add(64 * i).cast());
            let q = _mm512_loadu_si512(x.q.as_ptr().add(64 * i).cast());
            let product = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(off, w, q));
            let group = _mm512_add_epi32(first, _mm512_set1_epi32((64 / F::GROUP * i) as i32));
            sum = _mm512_fmadd_ps(product, _mm512_permutexvar_ps(group, scales), sum);
        }
        if F::MIN {
            min = _mm256_fmadd_ps(_mm256_loadu_ps(s.c.as_ptr()), _mm256_loadu_ps(x.sum.as_ptr()), min);
        }
        (sum, min)
    }
}
