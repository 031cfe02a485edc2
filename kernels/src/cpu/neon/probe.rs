//! Multiply-adds that keep NEON's units busy, for [`crate::probe`].

use std::{
    arch::{aarch64::*, asm},
    hint::black_box,
};

use crate::cpu::{Isa, probe::STEPS};

/// Sums that hide the latency of an instruction of which four start a cycle.
const CHAINS: usize = 24;

/// `smlal` into 16 bits, which is what base NEON does without `sdot` but for adding up; the operations done.
pub(in crate::cpu) fn smlal() -> Option<usize> {
    #[target_feature(enable = "neon")]
    fn run(rounds: usize) {
        let (u, v) = black_box((vdupq_n_s8(1), vdupq_n_s8(1)));
        let mut sums = [vdupq_n_s16(0); CHAINS];
        for _ in 0..rounds {
            for sum in &mut sums {
                // SAFETY: registers only.
                unsafe {
                    asm!("smlal2 {0:v}.8h, {1:v}.16b, {2:v}.16b", inout(vreg) *sum, in(vreg) u, in(vreg) v,
                        options(pure, nomem, nostack, preserves_flags));
                }
            }
        }
        black_box(sums);
    }
    // SAFETY: NEON belongs to the target.
    unsafe { run(STEPS) };
    Some(STEPS * CHAINS * 8 * 2)
}

/// `sdot`; the operations done, or `None` where the machine lacks it.
pub(in crate::cpu) fn sdot() -> Option<usize> {
    #[target_feature(enable = "neon,dotprod")]
    fn run(rounds: usize) {
        let (u, v) = black_box((vdupq_n_s8(3), vdupq_n_s8(5)));
        let mut sums = [vdupq_n_s32(0); CHAINS];
        for _ in 0..rounds {
            for sum in &mut sums {
                // SAFETY: registers only.
                unsafe {
                    asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) *sum, in(vreg) u, in(vreg) v,
                        options(pure, nomem, nostack, preserves_flags));
                }
            }
        }
        black_box(sums);
    }
    // SAFETY: the machine has it.
    Isa::NeonDotprod.is_available().then(|| unsafe { run(STEPS) })?;
    Some(STEPS * CHAINS * 16 * 2)
}

/// `smmla`; the operations done, or `None` where the machine lacks it.
pub(in crate::cpu) fn smmla() -> Option<usize> {
    #[target_feature(enable = "neon,i8mm")]
    fn run(rounds: usize) {
        let (u, v) = black_box((vdupq_n_s8(3), vdupq_n_s8(5)));
        let mut sums = [vdupq_n_s32(0); CHAINS];
        for _ in 0..rounds {
            for sum in &mut sums {
                // SAFETY: registers only.
                unsafe {
                    asm!("smmla {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) *sum, in(vreg) u, in(vreg) v,
                        options(pure, nomem, nostack, preserves_flags));
                }
            }
        }
        black_box(sums);
    }
    // SAFETY: the machine has it.
    Isa::NeonI8mm.is_available().then(|| unsafe { run(STEPS) })?;
    Some(STEPS * CHAINS * 32 * 2)
}
