//! Plain numbers: F32, F16 and BF16 rows, and the half that block formats store as their scale.

use super::ActBlock;
use crate::DType;
use half::{bf16, f16, slice::HalfFloatSliceExt};

/// An IEEE half in two bytes, little-endian. It has alignment 1, so that blocks can be read wherever a file maps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(transparent)]
pub struct F16([u8; 2]);

impl F16 {
    /// The half nearest to `x`, ties to even; ±∞ beyond its range.
    pub fn new(x: f32) -> Self {
        Self(f16::from_f32(x).to_le_bytes())
    }

    /// The finite half nearest to `x`: the end of the range (65504) beyond it.
    pub fn finite(x: f32) -> Self {
        Self::new(x.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()))
    }

    /// The finite half nearest to `x` among those of no smaller magnitude. Integer multiples of it, up to some limit, then
    /// reach what the same multiples of `x` reach, though halves lie far apart near zero.
    pub(super) fn outward(x: f32) -> Self {
        let near = Self::finite(x);
        let bits = u16::from_le_bytes(near.0);
        let short = near.get().abs() < x.abs() && bits & 0x7fff < f16::MAX.to_bits();
        // The bits of a half, without its sign, order as magnitudes do.
        if short { Self((bits + 1).to_le_bytes()) } else { near }
    }

    /// The number, exactly.
    pub fn get(self) -> f32 {
        f16::from_le_bytes(self.0).to_f32()
    }
}

/// Elements converted at a time: 1 KiB of floats on the stack.
const CHUNK: usize = 256;

/// Writes `src` as numbers of a plain `dtype`.
#[track_caller]
pub(super) fn from_f32(dtype: DType, src: &[f32], dst: &mut [u8]) {
    match dtype {
        DType::F32 => dst.copy_from_slice(bytemuck::cast_slice(src)),
        DType::F16 => {
            for (x, y) in src.chunks(CHUNK).zip(dst.chunks_mut(2 * CHUNK)) {
                let mut h = [f16::ZERO; CHUNK];
                h[..x.len()].convert_from_f32_slice(x);
                y.copy_from_slice(bytemuck::cast_slice(&h[..x.len()]));
            }
        }
        DType::BF16 => {
            for (x, y) in src.iter().zip(dst.chunks_exact_mut(2)) {
                y.copy_from_slice(&bf16::from_f32(*x).to_le_bytes());
            }
        }
        _ => panic!("{dtype} is no type of floating-point numbers"),
    }
}

/// Reads numbers of a plain `dtype`.
#[track_caller]
pub(super) fn to_f32(dtype: DType, src: &[u8], dst: &mut [f32]) {
    match dtype {
        DType::F32 => bytemuck::cast_slice_mut(dst).copy_from_slice(src),
        DType::F16 => {
            for (x, y) in src.chunks(2 * CHUNK).zip(dst.chunks_mut(CHUNK)) {
                let mut h = [f16::ZERO; CHUNK];
                bytemuck::cast_slice_mut::<f16, u8>(&mut h[..y.len()]).copy_from_slice(x);
                h[..y.len()].convert_to_f32_slice(y);
            }
        }
        DType::BF16 => {
            for (x, y) in src.chunks_exact(2).zip(dst) {
                *y = bf16::from_le_bytes([x[0], x[1]]).to_f32();
            }
        }
        _ => panic!("{dtype} is no type of floating-point numbers"),
    }
}

/// Σ wᵢ·xᵢ in f32, in order within a run of 32, the runs in order.
#[track_caller]
pub(super) fn dot(dtype: DType, row: &[u8], act: &[ActBlock]) -> f32 {
    let bytes = dtype.block_bytes() * ActBlock::LEN;
    let mut sum = 0.0;
    for (w, a) in row.chunks_exact(bytes).zip(act) {
        let mut w32 = [0.0; ActBlock::LEN];
        to_f32(dtype, w, &mut w32);
        sum += a.d * w32.iter().zip(&a.q).map(|(w, &q)| w * f32::from(q)).sum::<f32>();
    }
    sum
}
