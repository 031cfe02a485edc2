//! Multiply-adds that keep NEON's units busy, for [`crate::probe`].

use std::{arch::aarch64::*, hint::black_box};

use super::probe::STEPS;

/// Two `smull` into 16 bits, then `sadalp` into 32, the most that NEON does without `sdot`; the operations done.
pub(crate) fn smull() -> Option<usize> {
    const VECTORS: usize = 32;
    #[target_feature(enable = "neon")]
    fn run(rounds: usize) {
        let mut u = [vdupq_n_s8(3); VECTORS];
        let v = black_box(vdupq_n_s8(5));
        let mut sums = [vdupq_n_s32(0); 8];
        for _ in 0..rounds {
            for u in black_box(&mut u).as_chunks::<8>().0 {
                for (u, sum) in u.iter().zip(&mut sums) {
                    let short = vmlal_s8(vmull_high_s8(*u, v), vget_low_s8(*u), vget_low_s8(v));
                    *sum = vpadalq_s16(*sum, short);
                }
            }
        }
        black_box(sums);
    }
    // SAFETY: NEON belongs to the target.
    unsafe { run(STEPS) };
    Some(STEPS * VECTORS * 16 * 2)
}
