//! The element types of a cache, as vectors: what attention reads K and V through.

use super::{MAX_LANES, Simd};
use crate::DType;

/// A type that K and V may have.
pub(super) trait Cell {
    /// LANES elements from element `i` (a multiple of LANES) of the row on.
    ///
    /// # Safety
    /// `row` is valid for reading i + LANES elements.
    unsafe fn load<S: Simd>(s: S, row: *const u8, i: usize) -> S::V;

    /// Element `i` of `row`.
    fn one(row: &[u8], i: usize) -> f32;

    /// The elements of `row`, of d, from `i` on; zeros from element d.
    #[inline(always)]
    fn load_tail<S: Simd>(s: S, row: &[u8], i: usize, d: usize) -> S::V {
        let mut padded = [0.0; MAX_LANES];
        for (lane, x) in padded.iter_mut().enumerate().take(d - i) {
            *x = Self::one(row, i + lane);
        }
        s.load(&padded)
    }
}

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct Q8_0;

/// Panics where K or V are of a type that no cache has.
#[track_caller]
pub(super) fn no_cell(dtype: DType) -> ! {
    panic!("attention: K and V are F32, F16 or Q8_0, not {dtype}")
}

impl Cell for F32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, row: *const u8, i: usize) -> S::V {
        // SAFETY: valid by the caller's promise; vectors are loaded unaligned.
        unsafe { s.load_ptr(row.cast::<f32>().add(i)) }
    }

    #[inline(always)]
    fn one(row: &[u8], i: usize) -> f32 {
        bytemuck::pod_read_unaligned(&row[4 * i..4 * i + 4])
    }
}

impl Cell for F16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, row: *const u8, i: usize) -> S::V {
        // SAFETY: valid by the caller's promise.
        unsafe { s.load_f16(row.add(2 * i)) }
    }

    #[inline(always)]
    fn one(row: &[u8], i: usize) -> f32 {
        half::f16::from_le_bytes([row[2 * i], row[2 * i + 1]]).to_f32()
    }
}

impl Cell for Q8_0 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, row: *const u8, i: usize) -> S::V {
        // SAFETY: valid by the caller's promise. LANES divides 32, so that the elements are of one block: its 2 bytes of
        // scale, then a byte each.
        unsafe {
            let block = row.add(i / 32 * DType::Q8_0.block_bytes());
            let scale = s.splat(s.half([*block, *block.add(1)]));
            s.mul(s.load_i8(block.add(2 + i % 32)), scale)
        }
    }

    #[inline(always)]
    fn one(row: &[u8], i: usize) -> f32 {
        let block = &row[i / 32 * DType::Q8_0.block_bytes()..];
        half::f16::from_le_bytes([block[0], block[1]]).to_f32() * f32::from(block[2 + i % 32] as i8)
    }
}
