//! Work that does nothing but load a machine's limits: memory reads, and the multiply-adds that products are made of.
//!
//! Each function does a burst on the calling thread; [`crate::probe`] times them on all threads and says what they are for.
//! Reads and f32 are written once for every vector unit; whole numbers and short floats need the instruction itself, so
//! they lie with the instruction sets.

use super::{
    Isa,
    simd::{Job, Simd},
};
use std::hint::black_box;

/// Floats of one step of a stream: eight lines, which a page holds a whole number of.
const STEP: usize = 128;
/// Floats by which the prefetch runs ahead: 4 KB, where the rate stopped growing for products of one row.
const AHEAD: usize = 1024;
/// Steps of a chain in a round: enough that a round's beginning and end do not count.
pub(super) const STEPS: usize = 4096;

/// Reads all of `data` with the vectors of `isa`.
pub(crate) fn read(isa: Isa, data: &[f32]) {
    Read(data).run(isa);
}

/// Multiply-adds of f32 on registers; the operations done.
pub(crate) fn f32(isa: Isa) -> usize {
    let mut done = 0;
    Fma(&mut done).run(isa);
    done
}

/// Products of bytes, summed in 32 bits, as `isa` does them; the operations done.
pub(crate) fn int8(isa: Isa) -> usize {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => super::x86::probe::vnni512(),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2Vnni => super::x86::probe::vnni256(),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => super::x86::probe::maddubs(),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonI8mm => super::neon::probe::smmla(),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDotprod => super::neon::probe::sdot(),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => super::neon::probe::smlal(),
        _ => None,
    }
    .unwrap_or_else(int8_scalar)
}

/// Products of pairs of bf16, summed in f32; the operations done. `None` where `isa` or the machine has none.
pub(crate) fn bf16(isa: Isa) -> Option<usize> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => super::x86::probe::bf16(),
        _ => None,
    }
}

/// Multiply-adds of f16; the operations done. `None` where `isa` or the machine has none.
pub(crate) fn f16(isa: Isa) -> Option<usize> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => super::x86::probe::f16(),
        _ => None,
    }
}

/// What the compiler makes of a dot product of bytes.
fn int8_scalar() -> usize {
    let (mut a, mut b) = ([3i8; 1024], [5i8; 1024]);
    let mut sum = 0;
    for _ in 0..STEPS / 16 {
        sum += black_box(&mut a)
            .iter()
            .zip(black_box(&mut b))
            .map(|(a, b)| i32::from(*a) * i32::from(*b))
            .sum::<i32>();
    }
    black_box(sum);
    STEPS / 16 * 1024 * 2
}

/// A read of f32s in two far streams, as the product of one row reads its weights.
struct Read<'a>(&'a [f32]);

impl Job for Read<'_> {
    fn scalar(self) {
        let mut sums = [0u32; 16];
        for line in self.0.as_chunks::<16>().0 {
            for (sum, x) in sums.iter_mut().zip(line) {
                *sum ^= x.to_bits();
            }
        }
        black_box(sums);
    }

    #[inline(always)]
    fn vector<S: Simd>(self, s: S) {
        let (near, far) = self.0.split_at(self.0.len() / 2);
        let mut sums = [s.splat(0.0); 8];
        for (a, b) in near.as_chunks::<STEP>().0.iter().zip(far.as_chunks::<STEP>().0) {
            for half in [a, b] {
                for line in (0..STEP).step_by(16) {
                    s.prefetch(half.as_ptr().wrapping_add(AHEAD + line).cast());
                }
                for x in half.chunks_exact(8 * S::LANES) {
                    for (i, sum) in sums.iter_mut().enumerate() {
                        *sum = s.add(*sum, s.load(&x[i * S::LANES..]));
                    }
                }
            }
        }
        for sum in sums {
            black_box(s.sum(sum));
        }
    }
}

/// Chains of multiply-adds, as many as hide their latency and fit the registers.
struct Fma<'a>(&'a mut usize);

impl Job for Fma<'_> {
    fn scalar(self) {
        let (a, b) = black_box((0.5f32, 1.0f32));
        let mut sums = [1.0f32; 32];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = *sum * a + b;
            }
        }
        black_box(sums);
        *self.0 = STEPS * 32 * 2;
    }

    #[inline(always)]
    fn vector<S: Simd>(self, s: S) {
        // AVX2 has 16 registers, the others 32.
        *self.0 = if S::LANES == 8 { chains::<S, 12>(s) } else { chains::<S, 24>(s) };
    }
}

#[inline(always)]
fn chains<S: Simd, const N: usize>(s: S) -> usize {
    let (a, b) = (s.splat(black_box(0.5)), s.splat(black_box(1.0)));
    let mut sums = [b; N];
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = s.fma(*sum, a, b);
        }
    }
    for sum in sums {
        black_box(s.sum(sum));
    }
    STEPS * N * S::LANES * 2
}
