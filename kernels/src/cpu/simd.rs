//! Vectors of f32: the few operations that the ops on rows need, so that each is written once for every ISA.
//!
//! An algorithm is a [`Job`]: its `vector` method is generic over [`Simd`], a token that exists only where the machine has
//! the instructions, and `run` calls it inside a function compiled for them. Everything between the two is
//! `#[inline(always)]`, without which the intrinsics would become calls. The trait is kept as small as the algorithms
//! allow (memchr's habit); given up for that: masked loads, so that a row's last elements go through a padded array.

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(super) mod attention;
mod cell;
mod math;
pub(super) mod rows;

use super::Isa;

/// A vector unit. A value is the proof that the machine has it, so the methods are safe to call.
pub(super) trait Simd: Copy {
    /// [`Simd::LANES`] numbers.
    type V: Copy;
    /// Numbers in a vector; a divisor of 32.
    const LANES: usize;
    /// Rows of the register tile in attention's products; see `attention::product`.
    const ROWS: usize;

    fn splat(self, x: f32) -> Self::V;
    /// # Safety
    /// `x` is valid for reading LANES floats.
    unsafe fn load_ptr(self, x: *const f32) -> Self::V;
    /// # Safety
    /// `x` is valid for writing LANES floats.
    unsafe fn store_ptr(self, v: Self::V, x: *mut f32);
    /// Halves to floats.
    ///
    /// # Safety
    /// `x` is valid for reading LANES halves.
    unsafe fn load_f16(self, x: *const u8) -> Self::V;
    /// Signed bytes to floats.
    ///
    /// # Safety
    /// `x` is valid for reading LANES bytes.
    unsafe fn load_i8(self, x: *const u8) -> Self::V;
    /// One half, little-endian.
    fn half(self, x: [u8; 2]) -> f32;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// a·b + c, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; `b` where one is no number.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` where one is no number.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// The nearest whole number, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    /// 2ⁿ for whole n in −126..=127.
    fn pow2(self, n: Self::V) -> Self::V;
    /// a·2ⁿ for whole n up to 127 and a within ½..2; 0, or a subnormal number, for n below −126.
    #[inline(always)]
    fn scale(self, a: Self::V, n: Self::V) -> Self::V {
        let least = self.splat(-126.0);
        self.if_less(n, least, self.splat(0.0), self.mul(a, self.pow2(self.max(least, n))))
    }
    /// LANES rows of LANES floats, `pace` apart, to columns, `to_pace` apart.
    ///
    /// # Safety
    /// `from` is valid for reading and `to` for writing all of them.
    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, pace: usize, to: *mut f32, to_pace: usize) {
        for row in 0..Self::LANES {
            for col in 0..Self::LANES {
                // SAFETY: as this function's.
                unsafe { *to.add(col * to_pace + row) = *from.add(row * pace + col) };
            }
        }
    }
    /// By lanes: `then` where a < b, otherwise (and where one is no number) `other`.
    fn if_less(self, a: Self::V, b: Self::V, then: Self::V, other: Self::V) -> Self::V;
    /// |a|.
    fn abs(self, a: Self::V) -> Self::V;
    /// |a| with the sign of `sign`.
    fn with_sign(self, a: Self::V, sign: Self::V) -> Self::V;
    /// Pairs (a, b) of `x` turned by the pairs (cos, sin) of `turn`: (a·cos − b·sin, a·sin + b·cos).
    fn rotate(self, x: Self::V, turn: Self::V) -> Self::V;
    /// The sum of the lanes.
    fn sum(self, a: Self::V) -> f32;
    /// Asks for the cache line at `x`, which need not be valid.
    fn prefetch(self, x: *const u8);

    /// The first LANES floats of `x`.
    #[inline(always)]
    fn load(self, x: &[f32]) -> Self::V {
        assert!(x.len() >= Self::LANES);
        // SAFETY: by the assert.
        unsafe { self.load_ptr(x.as_ptr()) }
    }

    /// To the first LANES floats of `x`.
    #[inline(always)]
    fn store(self, v: Self::V, x: &mut [f32]) {
        assert!(x.len() >= Self::LANES);
        // SAFETY: by the assert.
        unsafe { self.store_ptr(v, x.as_mut_ptr()) }
    }

    /// All of `x`, at most LANES floats, the rest zeros.
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> Self::V {
        let mut padded = [0.0; MAX_LANES];
        padded[..x.len()].copy_from_slice(x);
        self.load(&padded)
    }

    /// The first of `v` to all of `x`, at most LANES floats.
    #[inline(always)]
    fn store_part(self, v: Self::V, x: &mut [f32]) {
        let mut padded = [0.0; MAX_LANES];
        self.store(v, &mut padded);
        x.copy_from_slice(&padded[..x.len()]);
    }
}

/// Lanes of the widest vector.
pub(super) const MAX_LANES: usize = 16;

/// An op on a piece of a matrix.
pub(super) trait Job: Sized {
    /// As the specification has it.
    fn scalar(self);
    /// The same with vectors. `#[inline(always)]` in every implementation.
    fn vector<S: Simd>(self, s: S);

    /// Does it with the instructions of `isa` (scalar where the machine lacks them).
    fn run(self, isa: Isa) {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::Avx2Vnni | Isa::Avx512Vnni => x86::run(self, isa),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => neon::run(self),
            _ => self.scalar(),
        }
    }
}
