//! Quantization formats: rows of numbers to bytes and back, one file per format.
//!
//! A format is a property of a weight. Nothing above the kernels sees a block; the kernels see it only inside `matmul`
//! and `get_rows`. What stands here is the specification: [`quantize`] is deterministic on every machine (no fused
//! multiply-add, sums in a fixed order), [`dequantize`] gives the very bits that gguf-py gives, and [`dot`] is the scalar
//! product that every SIMD path and shader must agree with. [`crate::cpu::quantize`] is [`quantize`] compiled for wider vectors. Byte layouts and names are ggml's (`ggml-common.h`).
//!
//! `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1` and `Q8_0` without importances are quantized to the bytes of ggml's reference. For all else
//! `fit` searches the scales; the objective is the plain squared error, or with an importance per column the error weighted by
//! it, which is the expected error of the layer's output. Errors and speeds beside llama.cpp's: `tests/golden/rmse.md`.

pub mod act;
pub mod error;
mod fit;
pub mod float;
pub mod iq4_nl;
pub mod iq4_xs;
pub mod q4_0;
pub mod q4_1;
pub mod q4_k;
pub mod q5_0;
pub mod q5_1;
pub mod q5_k;
pub mod q6_k;
pub mod q8_0;

pub use act::{ActBlock, quantize_act};
pub use float::F16;

use crate::DType;

/// A block of weights: so many elements in so many bytes. Blocks have alignment 1 and lie anywhere in a mapped file.
pub trait Block: bytemuck::Pod {
    /// The format.
    const DTYPE: DType;
    /// Elements of the block: 32 or 256.
    const LEN: usize = Self::DTYPE.block_len();

    /// Writes the blocks nearest to `x` ([`Block::LEN`] elements for each of `out`). `weights`, one per element, weigh the
    /// squared errors; without them all count alike. Numbers that are not finite, or beyond what the format holds, give
    /// some valid block. A block does not depend on its neighbours: they come together so that they can share vectors.
    fn quantize(x: &[f32], weights: Option<&[f32]>, out: &mut [Self]);

    /// Writes the block's [`Block::LEN`] elements to `out`.
    fn dequantize(&self, out: &mut [f32]);

    /// Σ wᵢ·xᵢ over the block; `act` holds [`Block::LEN`]/32 activation blocks.
    fn dot(&self, act: &[ActBlock]) -> f32;
}

/// Calls `$f::<B>` with the block type of `$dtype`, or evaluates to `$plain` for types without blocks.
macro_rules! with_block {
    ($dtype:expr, $f:ident($($arg:expr),*), $plain:expr) => {
        match $dtype {
            DType::Q8_0 => $f::<q8_0::BlockQ8_0>($($arg),*),
            DType::Q4_0 => $f::<q4_0::BlockQ4_0>($($arg),*),
            DType::Q4_1 => $f::<q4_1::BlockQ4_1>($($arg),*),
            DType::Q5_0 => $f::<q5_0::BlockQ5_0>($($arg),*),
            DType::Q5_1 => $f::<q5_1::BlockQ5_1>($($arg),*),
            DType::Q4_K => $f::<q4_k::BlockQ4_K>($($arg),*),
            DType::Q5_K => $f::<q5_k::BlockQ5_K>($($arg),*),
            DType::Q6_K => $f::<q6_k::BlockQ6_K>($($arg),*),
            DType::IQ4_NL => $f::<iq4_nl::BlockIQ4_NL>($($arg),*),
            DType::IQ4_XS => $f::<iq4_xs::BlockIQ4_XS>($($arg),*),
            DType::F32 | DType::F16 | DType::BF16 | DType::I32 => $plain,
        }
    };
}

/// Quantizes whole rows of `cols` elements each; `importance` (one value per column, ≥ 0, any scale) weighs the squared
/// errors: Σ x² of the column's activations makes the error that of the layer's output. F32, F16, BF16 and Q8_0 ignore it.
///
/// # Panics
/// Where `src` is not a number of rows, `cols` not a number of blocks, `dst` not as long as the rows in `dtype`,
/// `importance` not `cols` long, or `dtype` is I32.
#[track_caller]
pub fn quantize(dtype: DType, cols: usize, src: &[f32], dst: &mut [u8], importance: Option<&[f32]>) {
    quantize_with(dtype, cols, src, dst, importance);
}

/// The same, to be compiled with the instructions of whoever calls it: everything on the way is inlined.
#[inline(always)]
#[track_caller]
pub(crate) fn quantize_with(
    dtype: DType,
    cols: usize,
    src: &[f32],
    dst: &mut [u8],
    importance: Option<&[f32]>,
) {
    let row_bytes = dtype.row_bytes(cols);
    assert!(
        cols > 0
            && src.len().is_multiple_of(cols)
            && row_bytes.and_then(|b| b.checked_mul(src.len() / cols)) == Some(dst.len()),
        "{} elements in rows of {cols} do not make {} bytes of {dtype}",
        src.len(),
        dst.len()
    );
    assert!(
        importance.is_none_or(|w| w.len() == cols),
        "{} importances for {cols} columns",
        importance.map_or(0, <[f32]>::len)
    );
    with_block!(dtype, quantize_blocks(cols, src, dst, importance), float::from_f32(dtype, src, dst));
}

#[inline(always)]
fn quantize_blocks<B: Block>(cols: usize, src: &[f32], dst: &mut [u8], importance: Option<&[f32]>) {
    let blocks = bytemuck::cast_slice_mut::<u8, B>(dst);
    for (x, row) in src.chunks_exact(cols).zip(blocks.chunks_exact_mut(cols / B::LEN)) {
        B::quantize(x, importance, row);
    }
}

/// Writes the elements of whole blocks to `dst`, bit for bit as gguf-py.
///
/// # Panics
/// Where `src` is not a number of blocks, `dst` does not hold their elements, or `dtype` is I32.
#[track_caller]
pub fn dequantize(dtype: DType, src: &[u8], dst: &mut [f32]) {
    assert!(
        dtype.row_bytes(dst.len()) == Some(src.len()),
        "{} bytes of {dtype} do not make {} elements",
        src.len(),
        dst.len()
    );
    with_block!(dtype, dequantize_blocks(src, dst), float::to_f32(dtype, src, dst));
}

fn dequantize_blocks<B: Block>(src: &[u8], dst: &mut [f32]) {
    for (block, out) in bytemuck::cast_slice::<u8, B>(src).iter().zip(dst.chunks_exact_mut(B::LEN)) {
        block.dequantize(out);
    }
}

/// One weight row times one activation row: the scalar specification of `matmul`. Integer products are summed exactly
/// within the run of elements that shares a scale; the scaled sums are added in f32, in order.
///
/// # Panics
/// Where `row` and `act` differ in elements, or `dtype` is I32.
#[track_caller]
pub fn dot(dtype: DType, row: &[u8], act: &[ActBlock]) -> f32 {
    assert!(
        dtype.row_bytes(act.len() * ActBlock::LEN) == Some(row.len()),
        "{} bytes of {dtype} do not make {} elements",
        row.len(),
        act.len() * ActBlock::LEN
    );
    with_block!(dtype, dot_blocks(row, act), float::dot(dtype, row, act))
}

fn dot_blocks<B: Block>(row: &[u8], act: &[ActBlock]) -> f32 {
    let blocks = bytemuck::cast_slice::<u8, B>(row);
    blocks.iter().zip(act.chunks_exact(B::LEN / ActBlock::LEN)).map(|(b, a)| b.dot(a)).sum()
}

/// Splits 16 bytes into 32 codes of 4 bits: byte i holds element i in its low and element i + 16 in its high bits.
fn nibbles(qs: &[u8; 16]) -> [u8; 32] {
    std::array::from_fn(|i| if i < 16 { qs[i] & 15 } else { qs[i - 16] >> 4 })
}

/// The low 4 bits of 32 codes in 16 bytes: what [`nibbles`] splits.
#[inline(always)]
fn pack_nibbles(q: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|i| (q[i] & 15) | (q[i + 16] << 4))
}

/// Bit 4 of 32 codes in 4 bytes: bit i is that of element i.
#[inline(always)]
fn pack_fifth(q: &[u8; 32]) -> [u8; 4] {
    (0..32).fold(0u32, |bits, i| bits | (u32::from(q[i] >> 4) & 1) << i).to_le_bytes()
}

/// 32 codes of 5 bits from their nibbles and their fifth bits.
fn five_bits(qs: &[u8; 16], qh: [u8; 4]) -> [u8; 32] {
    let (low, high) = (nibbles(qs), u32::from_le_bytes(qh));
    std::array::from_fn(|i| low[i] | ((high >> i & 1) as u8) << 4)
}

/// `x` as the array it is: the parts of a quantizer hand each other slices of known length.
#[track_caller]
#[inline(always)]
fn array<const N: usize>(x: &[f32]) -> &[f32; N] {
    x.try_into().expect("a slice as long as the block")
}

/// Makes every block of `out` from its 32 elements alone.
#[inline(always)]
fn one_by_one<B: Block>(x: &[f32], out: &mut [B], f: impl Fn(&[f32; 32]) -> B) {
    for (x, out) in x.chunks_exact(32).zip(out) {
        *out = f(array(x));
    }
}
