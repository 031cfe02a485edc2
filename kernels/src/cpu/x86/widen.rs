//! Widening for AVX-512: rows are unpacked by plain Rust, then transposed 16 rows × 16 bytes at a time.

use std::arch::x86_64::*;

use crate::cpu::matmul::{PANEL, Rows, SLAB, Tile, Unpack, Weights, widen as by_rows};

/// Widens slab `slab` of the rows from `first` on.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn widen<F: Unpack>(tile: &mut Tile, w: Weights<'_>, first: usize, slab: usize) {
    by_rows::<F>(tile, w, first, slab, |rows, tile| transpose(rows, tile));
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn transpose(rows: &Rows, tile: &mut Tile) {
    for half in 0..PANEL / 16 {
        for chunk in 0..SLAB / 16 {
            // SAFETY: 16 rows of 256 bytes from row 16·half on, 16 bytes of each; the tile's row k4 is 128 bytes long.
            unsafe {
                let v = dwords(rows.0[16 * half].as_ptr().add(16 * chunk), SLAB);
                for (j, v) in v.into_iter().enumerate() {
                    _mm512_store_si512(tile.u[4 * chunk + j].as_mut_ptr().add(16 * half).cast(), v);
                }
            }
        }
    }
}

/// 16 rows × 16 bytes to four registers: register j holds dword j of the rows.
///
/// # Safety
/// 16 bytes are readable at `p` + i·`stride` for i in 0..16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn dwords(p: *const u8, stride: usize) -> [__m512i; 4] {
    // SAFETY: as this function's.
    let load = |i: usize| unsafe { _mm_loadu_si128(p.add(i * stride).cast()) };
    let rows = |i: usize| {
        let v = _mm512_castsi128_si512(load(i));
        let v = _mm512_inserti32x4::<1>(v, load(i + 4));
        let v = _mm512_inserti32x4::<2>(v, load(i + 8));
        _mm512_inserti32x4::<3>(v, load(i + 12))
    };
    let (a, b, c, d) = (rows(0), rows(1), rows(2), rows(3));
    let (ab0, ab1) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (cd0, cd1) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(ab0, cd0),
        _mm512_unpackhi_epi64(ab0, cd0),
        _mm512_unpacklo_epi64(ab1, cd1),
        _mm512_unpackhi_epi64(ab1, cd1),
    ]
}
