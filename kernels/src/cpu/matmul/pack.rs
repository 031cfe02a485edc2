//! Activations as the int8 kernels read them: rounded to 8 bits in blocks of 32, tokens side by side.
//!
//! A record holds one slab of columns for one group of `t` tokens, in the order in which a kernel reads it, so that the
//! whole product streams through the packed activations:
//! ```text
//! [256/GROUP][t]  off: BIAS − ZERO·Σq as i32 per GROUP columns, or, for formats with a minimum, d·Σq as f32 per 32
//! [8][t]          d: the scale of each block of 32 columns, f32
//! [64][t]         q: four columns per dword, i8
//! ```

use super::SLAB;
#[cfg(target_arch = "x86_64")]
use super::Unpack;
use crate::quant::ActBlock;

/// [`ActBlock::new`], to be inlined where vectors are enabled; a test holds them equal to the bit.
#[cfg(any(target_arch = "x86_64", test))]
#[inline(always)]
pub(crate) fn quantize(x: &[f32; 32]) -> ActBlock {
    quantize_to(x, f32::from_bits(x.iter().fold(0, |m, v| m.max(v.to_bits() & 0x7fff_ffff))))
}

/// The same with the scale of `amax`, which no magnitude exceeds.
#[inline(always)]
pub(crate) fn quantize_to(x: &[f32; 32], amax: f32) -> ActBlock {
    let inverse = 127.0 / amax;
    if !inverse.is_finite() || !amax.is_finite() {
        return ActBlock { d: if amax.is_finite() { 0.0 } else { f32::NAN }, ..ActBlock::ZERO };
    }
    // Adding 1.5·2^23 rounds to an integer, ties to even, and leaves it in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    let mut act = ActBlock { d: amax / 127.0, ..ActBlock::ZERO };
    for (q, x) in act.q.iter_mut().zip(x) {
        let i = (x * inverse + MAGIC).to_bits().wrapping_sub(MAGIC.to_bits()) as i32;
        *q = i as i8;
        act.sum += i;
    }
    act
}

/// Where things lie in a record, in dwords per token.
pub(crate) struct Record;

impl Record {
    /// Dwords of `off`, which come first.
    pub(crate) const fn off(group: usize) -> usize {
        SLAB / group
    }

    /// Dwords of a record.
    pub(crate) const fn len(group: usize) -> usize {
        Self::off(group) + SLAB / 32 + SLAB / 4
    }
}

/// Packs the columns of a slab for a group of tokens. `x` starts at the first token's first column of the slab,
/// `k` is the distance of tokens, `cols` the columns of this slab, a multiple of 32. `BIAS` is what the
/// kernel's integer sums start at.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn pack<F: Unpack, const BIAS: i32>(
    x: &[f32],
    k: usize,
    cols: usize,
    tokens: usize,
    record: &mut [i32],
) {
    let (off, rest) = record.split_at_mut(Record::off(F::GROUP) * tokens);
    let (scales, codes) = rest.split_at_mut(SLAB / 32 * tokens);
    for token in 0..tokens {
        for (block, x) in x[token * k..][..cols].as_chunks::<32>().0.iter().enumerate() {
            let act = quantize(x);
            scales[block * tokens + token] = act.d.to_bits() as i32;
            if F::MIN {
                off[block * tokens + token] = (act.d * act.sum as f32).to_bits() as i32;
            } else if F::GROUP == 32 {
                off[block * tokens + token] = BIAS - F::ZERO * act.sum;
            } else {
                let (l, h) = act.q.split_at(16);
                for (half, q) in [l, h].into_iter().enumerate() {
                    let sum: i32 = q.iter().map(|&q| i32::from(q)).sum();
                    off[(2 * block + half) * tokens + token] = BIAS - F::ZERO * sum;
                }
            }
            for (j, q) in act.q.as_chunks::<4>().0.iter().enumerate() {
                codes[(block * 8 + j) * tokens + token] = i32::from_le_bytes(q.map(|q| q as u8));
            }
        }
    }
}
