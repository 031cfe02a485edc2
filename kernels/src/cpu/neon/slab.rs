//! A slab of a weight row in registers, by format: the bytes of each block of 32 columns, and the scales.
//!
//! Layouts are ggml's; `quant` draws them. A block is a constant, so that shifts are too, and what two blocks share is read once.

use std::arch::{aarch64::*, asm};

use crate::{
    DType,
    cpu::matmul::{IQ4, Scales, Unpack},
};

/// `$e` of each vector `$v` of two. A macro, because a closure that is called twice is not always inlined.
macro_rules! both {
    ($array:expr, |$v:ident| $e:expr) => {{
        let [a, b] = $array;
        let first = {
            let $v = a;
            $e
        };
        let $v = b;
        [first, $e]
    }};
}

/// The codes of block `I` of 8 in the slab at `p`: unsigned, but those of 8 bits signed.
///
/// # Safety
/// A whole slab of the format is readable at `p`.
#[inline(always)]
pub(super) unsafe fn codes<F: Unpack, const I: usize>(p: *const u8) -> [int8x16_t; 2] {
    // SAFETY: offsets are those of the formats.
    unsafe {
        match F::DTYPE {
            DType::Q4_0 => four_bits(p.add(18 * I + 2)),
            DType::Q4_1 => four_bits(p.add(20 * I + 4)),
            DType::Q5_0 => five_bits(p.add(22 * I + 2)),
            DType::Q5_1 => five_bits(p.add(24 * I + 4)),
            DType::Q8_0 => both!(load(p.add(34 * I + 2)), |v| vreinterpretq_s8_u8(v)),
            DType::IQ4_NL => iq4(four_bits(p.add(18 * I + 2))),
            DType::IQ4_XS => iq4(four_bits(p.add(16 * I + 8))),
            DType::Q4_K => nibbles::<I>(load(p.add(16 + I / 2 * 32))),
            DType::Q5_K => {
                let bit = vdupq_n_u8(1 << I);
                let fifth = both!(load(p.add(16)), |high| vandq_u8(vtstq_u8(high, bit), vdupq_n_u8(16)));
                or(nibbles::<I>(load(p.add(48 + I / 2 * 32))), fifth)
            }
            DType::Q6_K => {
                let (half, quarter) = (I / 4, I % 4);
                let low = load(p.add(64 * half + quarter % 2 * 32));
                let low = if quarter < 2 { nibbles::<0>(low) } else { nibbles::<1>(low) };
                let high = both!(load(p.add(128 + 32 * half)), |high| {
                    let high = match quarter {
                        0 => vshlq_n_u8::<4>(high),
                        1 => vshlq_n_u8::<2>(high),
                        2 => high,
                        _ => vshrq_n_u8::<2>(high),
                    };
                    vandq_u8(high, vdupq_n_u8(0x30))
                });
                or(low, high)
            }
            other => unreachable!("{other} has no bytes"),
        }
    }
}

/// The same less ZERO.
///
/// # Safety
/// As [`codes`].
#[inline(always)]
pub(super) unsafe fn signed<F: Unpack, const I: usize>(p: *const u8) -> [int8x16_t; 2] {
    // SAFETY: as this function's.
    unsafe {
        let codes = codes::<F, I>(p);
        if F::BITS == 8 { codes } else { both!(codes, |v| vsubq_s8(v, vdupq_n_s8(F::ZERO as i8))) }
    }
}

/// # Safety
/// 32 bytes are readable at `p`.
#[inline(always)]
unsafe fn load(p: *const u8) -> [uint8x16_t; 2] {
    // SAFETY: as this function's.
    unsafe { [vld1q_u8(p), vld1q_u8(p.add(16))] }
}

/// The low nibbles of 32 bytes where `I` is even, else the high ones.
#[inline(always)]
fn nibbles<const I: usize>(v: [uint8x16_t; 2]) -> [int8x16_t; 2] {
    // SAFETY: NEON belongs to the target.
    unsafe {
        both!(v, |v| vreinterpretq_s8_u8(if I.is_multiple_of(2) {
            vandq_u8(v, vdupq_n_u8(15))
        } else {
            vshrq_n_u8::<4>(v)
        }))
    }
}

#[inline(always)]
fn or([a, b]: [int8x16_t; 2], [c, d]: [uint8x16_t; 2]) -> [int8x16_t; 2] {
    // SAFETY: NEON belongs to the target.
    unsafe { [vorrq_s8(a, vreinterpretq_s8_u8(c)), vorrq_s8(b, vreinterpretq_s8_u8(d))] }
}

/// The low nibbles of 16 bytes, then the high ones.
///
/// # Safety
/// They are readable at `p`.
#[inline(always)]
unsafe fn four_bits(p: *const u8) -> [int8x16_t; 2] {
    // SAFETY: as this function's.
    unsafe {
        let v = vld1q_u8(p);
        [vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(15))), vreinterpretq_s8_u8(vshrq_n_u8::<4>(v))]
    }
}

/// Fifth bits (4 bytes), then nibbles (16 bytes).
///
/// # Safety
/// They are readable at `p`.
#[inline(always)]
unsafe fn five_bits(p: *const u8) -> [int8x16_t; 2] {
    // SAFETY: as this function's.
    unsafe {
        // A byte of bits to eight lanes, each of which tests its own.
        let bits = vreinterpretq_u8_u32(vdupq_n_u32(p.cast::<u32>().read_unaligned()));
        let own = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
        let first = vcombine_u8(vdup_n_u8(0), vdup_n_u8(1));
        let fifth = both!([first, vaddq_u8(first, vdupq_n_u8(2))], |lanes| {
            vandq_u8(vtstq_u8(vqtbl1q_u8(bits, lanes), own), vdupq_n_u8(16))
        });
        or(four_bits(p.add(4)), fifth)
    }
}

/// Codes of 0..16 as values of the IQ4 formats.
#[inline(always)]
fn iq4(codes: [int8x16_t; 2]) -> [int8x16_t; 2] {
    // SAFETY: 16 bytes.
    unsafe {
        let values = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(IQ4.as_ptr()), vdupq_n_u8(0x80)));
        both!(codes, |codes| vqtbl1q_s8(values, vreinterpretq_u8_s8(codes)))
    }
}

/// The scales of the slab at `p`.
///
/// # Safety
/// A whole slab of the format is readable at `p`.
#[inline(always)]
pub(super) unsafe fn scales<F: Unpack>(p: *const u8) -> Scales {
    // SAFETY: offsets are those of the formats.
    unsafe {
        let mut scales = Scales::default();
        let (a, c) = (&mut scales.a, &mut scales.c);
        match F::DTYPE {
            DType::Q4_K | DType::Q5_K => {
                let (d, minus) = (half(p), -half(p.add(2)));
                let word = |i: usize| p.add(4 * i).cast::<u32>().read_unaligned();
                let (u0, u1, u2) = (word(1), word(2), word(3));
                let high = |low: u32, bits: u32| low & 0x0f0f_0f0f | bits >> 2 & 0x3030_3030;
                let bytes = |low: u32, high: u32| u64::from(low & 0x3f3f_3f3f) | u64::from(high) << 32;
                store(&mut a[..8], vcreate_s8(bytes(u0, high(u2, u0))), d);
                store(c, vcreate_s8(bytes(u1, high(u2 >> 4, u1))), minus);
            }
            DType::Q6_K => {
                let d = half(p.add(208));
                store(&mut a[..8], vld1_s8(p.add(192).cast()), d);
                store(&mut a[8..], vld1_s8(p.add(200).cast()), d);
            }
            DType::IQ4_XS => {
                let (high, low) =
                    (p.add(2).cast::<u16>().read_unaligned(), p.add(4).cast::<u32>().read_unaligned());
                // Four bits a lane, in order, and two more.
                let low = vcreate_u8(u64::from(low));
                let low = vzip1_u8(vand_u8(low, vdup_n_u8(15)), vshr_n_u8::<4>(low));
                // 0, 2, 4 and 6 to the right.
                let shifts = vcreate_s8(0xfafc_fe00_fafc_fe00);
                let high = vcreate_u8((u64::from(high & 0xff) | u64::from(high >> 8) << 32) * 0x0101_0101);
                let high = vshl_n_u8::<4>(vand_u8(vshl_u8(high, shifts), vdup_n_u8(3)));
                store(&mut a[..8], vsub_s8(vreinterpret_s8_u8(vorr_u8(low, high)), vdup_n_s8(32)), half(p));
            }
            _ => {
                let bytes = F::DTYPE.block_bytes();
                halves(&mut a[..8], p, bytes);
                if F::MIN {
                    halves(c, p.add(2), bytes);
                }
            }
        }
        scales
    }
}

/// Eight numbers times `d`.
#[inline(always)]
fn store(to: &mut [f32], numbers: int8x8_t, d: f32) {
    assert!(to.len() == 8);
    // SAFETY: eight floats.
    unsafe {
        let wide = vmovl_s8(numbers);
        let floats = [vmovl_s16(vget_low_s16(wide)), vmovl_high_s16(wide)];
        for (i, four) in floats.into_iter().enumerate() {
            vst1q_f32(to.as_mut_ptr().add(4 * i), vmulq_n_f32(vcvtq_f32_s32(four), d));
        }
    }
}

/// Eight halves, `stride` bytes apart.
///
/// # Safety
/// They are readable at `p`.
#[inline(always)]
unsafe fn halves(to: &mut [f32], p: *const u8, stride: usize) {
    assert!(to.len() == 8);
    // SAFETY: as this function's; eight floats.
    unsafe {
        for i in 0..2 {
            let mut four = [0u16; 4];
            for (j, half) in four.iter_mut().enumerate() {
                *half = p.add((4 * i + j) * stride).cast::<u16>().read_unaligned();
            }
            vst1q_f32(to.as_mut_ptr().add(4 * i), floats(vld1_u16(four.as_ptr())));
        }
    }
}

/// Four halves as floats. The conversion is part of base NEON; its intrinsic is not stable.
#[inline(always)]
pub(super) fn floats(halves: uint16x4_t) -> float32x4_t {
    let floats;
    // SAFETY: registers only.
    unsafe {
        asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) floats, in(vreg) halves, options(pure, nomem, nostack, preserves_flags));
    }
    floats
}

/// A half as float.
///
/// # Safety
/// Two bytes are readable at `p`.
#[inline(always)]
unsafe fn half(p: *const u8) -> f32 {
    // SAFETY: as this function's.
    unsafe { vgetq_lane_f32::<0>(floats(vdup_n_u16(p.cast::<u16>().read_unaligned()))) }
}
