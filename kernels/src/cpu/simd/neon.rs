//! NEON as vectors of f32.

use super::{Job, Simd};
use std::arch::{aarch64::*, asm};

/// The machine has NEON: every one that this file is compiled for.
#[derive(Clone, Copy)]
pub(super) struct Neon(());

/// Runs `job` with NEON's vectors.
pub(super) fn run<J: Job>(job: J) {
    job.vector(Neon(()));
}

// SAFETY (every block): NEON belongs to the target; pointers are valid by the methods' own obligations.
impl Simd for Neon {
    type V = float32x4_t;
    const LANES: usize = 4;
    // 8 × 2 accumulators, 2 vectors and a broadcast of 32 registers; FMA takes 4 cycles on 2 to 4 ports.
    const ROWS: usize = 8;

    #[inline(always)]
    fn splat(self, x: f32) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    unsafe fn load_ptr(self, x: *const f32) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vld1q_f32(x) }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, v: float32x4_t, x: *mut f32) {
        // SAFETY: see above.
        unsafe { vst1q_f32(x, v) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, x: *const u8) -> float32x4_t {
        // SAFETY: see above. The conversion is part of base NEON; its intrinsic is not stable yet.
        unsafe {
            let halves = vld1_u8(x);
            let floats: float32x4_t;
            asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) floats, in(vreg) halves, options(pure, nomem, nostack));
            floats
        }
    }
    #[inline(always)]
    unsafe fn load_i8(self, x: *const u8) -> float32x4_t {
        // SAFETY: see above. Four bytes are read, as one number.
        unsafe {
            let four = vreinterpret_s8_u32(vdup_n_u32(x.cast::<u32>().read_unaligned()));
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(four))))
        }
    }
    #[inline(always)]
    fn half(self, x: [u8; 2]) -> f32 {
        let float: f32;
        // SAFETY: registers only. The `half` crate would ask at each call what the processor can do.
        unsafe {
            let half = u16::from_le_bytes(x);
            asm!("fmov {0:s}, {1:w}", "fcvt {0:s}, {0:h}", out(vreg) float, in(reg) u32::from(half),
                options(pure, nomem, nostack));
        }
        float
    }
    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vsubq_f32(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vdivq_f32(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vmaxq_f32(a, b) }
    }
    #[inline(always)]
    fn min(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vminq_f32(a, b) }
    }
    #[inline(always)]
    fn round(self, a: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vrndnq_f32(a) }
    }
    #[inline(always)]
    fn pow2(self, n: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)))) }
    }
    #[inline(always)]
    fn if_less(self, a: float32x4_t, b: float32x4_t, then: float32x4_t, other: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vbslq_f32(vcltq_f32(a, b), then, other) }
    }
    #[inline(always)]
    fn abs(self, a: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vabsq_f32(a) }
    }
    #[inline(always)]
    fn with_sign(self, a: float32x4_t, sign: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vbslq_f32(vdupq_n_u32(1 << 31), sign, a) }
    }
    #[inline(always)]
    fn rotate(self, x: float32x4_t, turn: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe {
            let (cos, sin) = (vtrn1q_f32(turn, turn), vtrn2q_f32(turn, turn));
            // b is subtracted in even lanes: the sign of sin there is turned.
            let even = vreinterpretq_u32_u64(vdupq_n_u64(1 << 31));
            let sin = vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(sin), even));
            vfmaq_f32(vmulq_f32(vrev64q_f32(x), sin), x, cos)
        }
    }
    #[inline(always)]
    fn sum(self, a: float32x4_t) -> f32 {
        // SAFETY: see above.
        unsafe { vaddvq_f32(a) }
    }
    #[inline(always)]
    fn prefetch(self, x: *const u8) {
        // SAFETY: a prefetch of any address is no access.
        unsafe { asm!("prfm pldl1keep, [{0}]", in(reg) x, options(readonly, nostack, preserves_flags)) }
    }
}
