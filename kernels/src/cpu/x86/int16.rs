//! The product of F16 and BF16 weights on AVX-512 with VNNI: whole numbers of 16 bits, for many tokens.
//!
//! `vpdpwssd` multiplies two columns in each of 16 lanes and adds both to a 32-bit sum: twice the work of a multiply-add, as often. So weights
//! and activations become whole numbers with a unit per row and [`WIDTH`] columns, as large as the sum allows: by
//! Cauchy and Schwarz it stays below ‖w‖·‖x‖, and both norms are kept below √(2³¹) ([`NORM`]). A rounding is then some 2⁻¹⁷ of the norm of
//! its columns, where bf16, which would be as fast, and that on fewer chips, rounds to 2⁻⁹ of each number. Sums of a span are
//! exact; spans add up in f32. A span with a number that is none, or infinite, gives no number.
//!
//! 32 rows × 12 tokens: 24 sums, 2 vectors of weights and a broadcast. Columns stand in the order in which `vpackssdw` leaves them,
//! which is the same for weights and activations.

use std::arch::x86_64::*;

use super::{Avx512, plain};
use crate::cpu::matmul::{F32, FloatWay, PANEL, Plain, SPAN, Weights};

/// Tokens from which whole numbers pay: for fewer, finding the units of the weights takes longer than the product gains (4096×4096:
/// 0.12 TOP/s with 15 tokens in f32, 0.13 with 16 so).
pub(super) const MANY: usize = 16;

/// Columns of a span.
pub(super) const WIDTH: usize = 2 * SPAN;

/// Largest norm of a span of whole numbers before they are rounded, which adds √256/2 at most: (46300 + 8)² < 2³¹.
pub(super) const NORM: f32 = 46_300.0;

/// Largest of them: below 2¹⁵ with room for the roundings of the unit.
pub(super) const LARGEST: f32 = 32_700.0;

/// A span of a panel in whole numbers.
#[derive(Clone, Copy, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(super) struct WordTile {
    /// `[steps][rows]` of two columns.
    pub(super) w: [[[i16; 2]; PANEL]; SPAN],
    /// `[row]`: the unit.
    pub(super) unit: [f32; PANEL],
}

/// Steps for `cols` columns: whole vectors.
pub(super) fn steps(cols: usize) -> usize {
    cols.next_multiple_of(32) / 2
}

/// The checks that let a kernel work on pointers.
#[track_caller]
pub(super) fn check(tokens: usize, record: &[f32], c: &[f32], cols: usize) {
    assert!(record.len() >= tokens * (SPAN + 1) && c.len() >= tokens * PANEL && cols <= WIDTH);
}

/// A power of two near `largest`, to divide by before squaring so that nothing overflows, and its inverse; both of 0 and of numbers that
/// are not normal: (0, 2¹²⁷).
pub(super) fn power(largest: f32) -> (f32, f32) {
    let exponent = (largest.to_bits() >> 23).min(253);
    (f32::from_bits(exponent << 23), f32::from_bits((254 - exponent) << 23))
}

/// What to multiply numbers by whose sum of squares and largest magnitude these are, to make them whole, and the unit then.
pub(super) fn factor(squares: f32, largest: f32, power: f32) -> (f32, f32) {
    if !squares.is_finite() {
        return (0.0, f32::NAN);
    }
    if squares == 0.0 {
        return (0.0, 0.0);
    }
    let factor = (NORM / squares.sqrt()).min(LARGEST / largest);
    (factor, power / factor)
}

/// The product on 16 bits.
#[derive(Clone, Copy)]
pub(super) struct Int16(pub(super) Avx512);

impl FloatWay for Int16 {
    type Tile = WordTile;
    const TOKENS: usize = plain::TOKENS;
    const COLS: usize = 2;
    /// The unit, then the steps: `[tokens]`, `[steps][tokens]`.
    const RECORD: usize = 1 + SPAN;

    fn convert<F: Plain>(self, tile: &mut WordTile, w: Weights<'_>, first: usize, col: usize) {
        // SAFETY: the proof.
        unsafe { convert::<F>(tile, w, first, col) }
    }

    fn fetch(self, part: &[u8]) {
        plain::fetch(part);
    }

    fn pack(self, x: &[f32], k: usize, cols: usize, tokens: usize, record: &mut [f32]) {
        // SAFETY: the proof.
        unsafe { pack(x, k, cols, tokens, record) }
    }

    fn multiply(self, tokens: usize, tile: &WordTile, record: &[f32], c: &mut [f32], cols: usize) {
        check(tokens, record, c, cols);
        // SAFETY: the proof; the lengths are checked.
        unsafe { multiply(tokens, tile, record.as_ptr(), c.as_mut_ptr(), steps(cols)) }
    }
}

/// Up to [`WIDTH`] numbers of `part` as whole ones, and their unit. Zeros fill up the vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn quantize<F: Plain>(part: &[u8]) -> ([__m512; 8], f32) {
    let size = size_of::<F::Bytes>();
    let cols = part.len() / size;
    let mut x = [_mm512_setzero_ps(); 16];
    if cols == WIDTH {
        for (i, x) in x.iter_mut().enumerate() {
            // SAFETY: the slice holds 16 times 16.
            *x = unsafe { plain::load::<F>(part.as_ptr().add(16 * i * size), 16) };
        }
    } else {
        for (x, part) in x.iter_mut().zip(part.chunks(16 * size)) {
            // SAFETY: the slice holds them.
            *x = unsafe { plain::load::<F>(part.as_ptr(), part.len() / size) };
        }
    }
    whole(x)
}

/// Numbers as whole ones, and their unit.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn whole(mut x: [__m512; 16]) -> ([__m512; 8], f32) {
    let mut most = [_mm512_setzero_ps(); 4];
    for (i, x) in x.iter().enumerate() {
        most[i % 4] = _mm512_max_ps(most[i % 4], _mm512_abs_ps(*x));
    }
    let largest = _mm512_max_ps(_mm512_max_ps(most[0], most[1]), _mm512_max_ps(most[2], most[3]));
    let largest = _mm512_reduce_max_ps(largest);
    let (power, inverse) = power(largest);
    let mut squares = [_mm512_setzero_ps(); 4];
    for (i, x) in x.iter_mut().enumerate() {
        *x = _mm512_mul_ps(*x, _mm512_set1_ps(inverse));
        squares[i % 4] = _mm512_fmadd_ps(*x, *x, squares[i % 4]);
    }
    let [a, b, c, d] = squares;
    let squares = _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)));
    let (factor, unit) = factor(squares, largest * inverse, power);
    let whole = |x| _mm512_cvtps_epi32(_mm512_mul_ps(x, _mm512_set1_ps(factor)));
    let mut words = [_mm512_setzero_ps(); 8];
    for (words, x) in words.iter_mut().zip(x.as_chunks::<2>().0) {
        *words = _mm512_castsi512_ps(_mm512_packs_epi32(whole(x[0]), whole(x[1])));
    }
    (words, unit)
}

/// Converts a span of the rows from `first` on, 16 rows at a time.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn convert<F: Plain>(tile: &mut WordTile, w: Weights<'_>, first: usize, col: usize) {
    let size = size_of::<F::Bytes>();
    for lane in [0, 16] {
        let mut blocks = [[_mm512_setzero_ps(); 16]; 8];
        let mut cols = 0;
        tile.unit[lane..lane + 16].fill(0.0);
        for r in 0..16.min(w.rows().saturating_sub(first + lane)) {
            let part = w.part(first + lane + r, col * size, WIDTH * size);
            cols = part.len() / size;
            let (words, unit) = quantize::<F>(part);
            tile.unit[lane + r] = unit;
            for (block, words) in blocks.iter_mut().zip(words) {
                block[r] = words;
            }
        }
        for (block, steps) in blocks.iter().zip(tile.w.as_chunks_mut::<16>().0).take(cols.div_ceil(32)) {
            for (to, step) in steps.iter_mut().zip(plain::transpose(block)) {
                // SAFETY: 16 of 32 pairs, from 0 or 16 on.
                unsafe { _mm512_storeu_ps(to.as_mut_ptr().add(lane).cast(), step) };
            }
        }
    }
}

/// Packs the first `cols` columns of `tokens` rows of `x`, which are `k` apart.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn pack(x: &[f32], k: usize, cols: usize, tokens: usize, record: &mut [f32]) {
    let (units, record) = record.split_at_mut(tokens);
    let mut blocks = [[_mm512_setzero_ps(); 16]; 8];
    for (token, to) in units.iter_mut().enumerate() {
        let (words, unit) = quantize::<F32>(bytemuck::cast_slice(&x[token * k..][..cols]));
        *to = unit;
        for (block, words) in blocks.iter_mut().zip(words) {
            block[token] = words;
        }
    }
    let used = &mut record[..steps(cols) * tokens];
    for (block, to) in blocks.iter().zip(used.chunks_mut(16 * tokens)) {
        plain::store_steps(block, to, tokens);
    }
}

/// `c[token][row]` += the sums of `steps` steps.
///
/// # Safety
/// `record` is valid for `tokens`·(1 + `steps`) reads, `c` for `tokens`·[`PANEL`] reads and writes; `steps` is at most [`SPAN`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn multiply(tokens: usize, tile: &WordTile, record: *const f32, c: *mut f32, steps: usize) {
    // SAFETY: as this function's.
    unsafe {
        match tokens {
            12 => kernel::<12>(tile, record, c, steps),
            11 => kernel::<11>(tile, record, c, steps),
            10 => kernel::<10>(tile, record, c, steps),
            9 => kernel::<9>(tile, record, c, steps),
            8 => kernel::<8>(tile, record, c, steps),
            7 => kernel::<7>(tile, record, c, steps),
            6 => kernel::<6>(tile, record, c, steps),
            5 => kernel::<5>(tile, record, c, steps),
            4 => kernel::<4>(tile, record, c, steps),
            3 => kernel::<3>(tile, record, c, steps),
            2 => kernel::<2>(tile, record, c, steps),
            1 => kernel::<1>(tile, record, c, steps),
            _ => unreachable!("{tokens} tokens in a group of {}", plain::TOKENS),
        }
    }
}

/// # Safety
/// As [`multiply`], with `T` tokens.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn kernel<const T: usize>(tile: &WordTile, record: *const f32, c: *mut f32, steps: usize) {
    // SAFETY: `steps` rows of the tile, (1 + steps)·T dwords of the record, T·PANEL floats of c.
    unsafe {
        let (w, x) = (tile.w.as_ptr().cast::<i32>(), record.add(T).cast::<i32>());
        let mut sums = [[_mm512_setzero_si512(); 2]; T];
        for step in 0..steps {
            let w0 = _mm512_load_si512(w.add(step * PANEL).cast());
            let w1 = _mm512_load_si512(w.add(step * PANEL + 16).cast());
            for (i, sum) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_epi32(*x.add(step * T + i));
                sum[0] = _mm512_dpwssd_epi32(sum[0], w0, x);
                sum[1] = _mm512_dpwssd_epi32(sum[1], w1, x);
            }
        }
        for half in 0..2 {
            let unit = _mm512_load_ps(tile.unit.as_ptr().add(16 * half));
            for (i, sum) in sums.iter().enumerate() {
                let c = c.add(i * PANEL + 16 * half);
                // In this order no product of small units becomes 0.
                let sum = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[half]), unit);
                let sum = _mm512_fmadd_ps(sum, _mm512_set1_ps(*record.add(i)), _mm512_loadu_ps(c));
                _mm512_storeu_ps(c, sum);
            }
        }
    }
}
