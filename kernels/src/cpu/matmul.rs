//! The matrix product, out = x·wᵀ + bias, for every weight format, on every instruction set.
//!
//! Weights are read from the mapped file as they are, each once per product (per pass of [`PASS`] tokens): what is
//! repacked lives in a tile that fits the first cache. Three ideas carry everything:
//! - [`unpack`]: every quantized format is bytes, a scale and a minimum per group, so there is one int8 product ([`int8`]);
//! - the other formats become f32, or on x86 whole numbers of 16 bits, in the same way ([`float`]);
//! - both are the same loops around a kernel of an instruction set, and the one-row product (decoding), which memory
//!   bounds, is a plain dot per weight row.
//!
//! [`scalar`] is the specification. The instruction sets of x86 depart from it where a format bears it: activations share a scale
//! per 256 columns, and several tokens meet block scales as integers (`x86/avx2/slab.rs`) or weights rounded to a byte per slab (`x86/slab.rs`). Given up:
//! sharing packed activations between products of one input (q, k, v), worth 1 %.

mod float;
mod int8;
mod pack;
mod scalar;
#[cfg(test)]
mod tests;
mod unpack;

use std::{
    collections::TryReserveError,
    sync::{Mutex, PoisonError},
};

#[cfg(target_arch = "aarch64")]
use super::neon::{self, Neon};
use super::{Isa, pool::Pool};
use crate::DType;

#[cfg(target_arch = "x86_64")]
pub(crate) use float::{F32, float_passes};
pub(crate) use float::{FloatIsa, FloatTile, FloatWay, Plain, SPAN, float_pack};
pub(crate) use int8::{ActSlab, Int8Isa, Tile};
#[cfg(target_arch = "x86_64")]
pub(crate) use int8::{ByBlock, Way, act_slab, passes};
pub(crate) use pack::Record;
#[cfg(target_arch = "x86_64")]
pub(crate) use pack::pack;
#[cfg(test)]
use pack::quantize;
#[cfg(target_arch = "aarch64")]
pub(crate) use pack::quantize_to;
pub(crate) use unpack::IQ4;
pub(crate) use unpack::{SLAB, Scales, Unpack};

use unpack::half;

/// Weight rows that a kernel takes at once: two AVX-512 registers of 32-bit sums.
pub(crate) const PANEL: usize = 32;

/// Panels whose sums a thread holds until all of k is done: with [`PASS`] tokens 0.7 MB, a third of a 2 MB second cache.
const PANELS: usize = 8;

/// Tokens of one pass over the weights. It bounds the scratch; one LLaVA picture (576 patches) and the words around it are one pass, as
/// one batch of a model is.
const PASS: usize = 672;

/// One product: `out[i][j] = Σ x[i][l]·w[j][l] + bias[j]`.
pub(crate) struct Product<'a> {
    /// [n, m].
    pub(crate) out: &'a mut [f32],
    /// [n, k].
    pub(crate) x: &'a [f32],
    /// [m, k] in GGUF's layout of `dtype`.
    pub(crate) w: &'a [u8],
    /// `[m]`.
    pub(crate) bias: Option<&'a [f32]>,
    /// Type of the weights.
    pub(crate) dtype: DType,
    /// Tokens.
    pub(crate) n: usize,
    /// Columns in.
    pub(crate) k: usize,
    /// Columns out.
    pub(crate) m: usize,
}

/// A cache line, so that buffers are aligned for any vector.
#[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A buffer that grows to the largest product seen and is then reused.
#[derive(Default)]
struct Buffer(Vec<Line>);

impl Buffer {
    /// Room for `bytes`, so that `get` does not allocate.
    fn reserve(&mut self, bytes: usize) -> Result<(), TryReserveError> {
        let lines = bytes.div_ceil(size_of::<Line>());
        self.0.try_reserve_exact(lines.saturating_sub(self.0.len()))
    }

    /// `len` elements, of any value.
    fn get<T: bytemuck::Pod>(&mut self, len: usize) -> &mut [T] {
        let bytes = len * size_of::<T>();
        let lines = bytes.div_ceil(size_of::<Line>());
        if self.0.len() < lines {
            self.0.resize(lines, Line([0; 64]));
        }
        bytemuck::cast_slice_mut::<u8, T>(&mut bytemuck::cast_slice_mut(&mut self.0)[..bytes])
    }
}

/// The memory of products: packed activations, and per thread the sums of some panels.
#[derive(Default)]
pub(crate) struct Scratch {
    x: Buffer,
    /// Uncontended: a thread locks its own.
    threads: Vec<Mutex<Buffer>>,
}

impl Scratch {
    /// For a pool of `threads`.
    pub(crate) fn new(threads: usize) -> Self {
        Self { x: Buffer::default(), threads: (0..threads).map(|_| Mutex::default()).collect() }
    }

    /// Room for products with activations [n, k], so that they do not allocate. Pages are touched when they are used.
    pub(crate) fn reserve(&mut self, n: usize, k: usize) -> Result<(), TryReserveError> {
        let tokens = n.min(PASS);
        // The widest packing is that of f32.
        self.x.reserve(tokens.saturating_mul(k.next_multiple_of(SLAB)).saturating_mul(size_of::<f32>()))?;
        self.threads.iter_mut().try_for_each(|buffer| {
            let sums = (PANELS * PANEL * tokens).max(k) * size_of::<f32>();
            buffer.get_mut().unwrap_or_else(PoisonError::into_inner).reserve(sums)
        })
    }
}

/// The weights of a product.
#[derive(Clone, Copy)]
pub(crate) struct Weights<'a> {
    bytes: &'a [u8],
    row_bytes: usize,
    rows: usize,
}

impl<'a> Weights<'a> {
    /// Weight rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of a row.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Row `row`.
    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> &'a [u8] {
        &self.bytes[row * self.row_bytes..][..self.row_bytes]
    }

    /// The bytes of row `row` from `start` on, `len` at most.
    #[inline(always)]
    pub(crate) fn part(&self, row: usize, start: usize, len: usize) -> &'a [u8] {
        let row = self.row(row);
        &row[start..row.len().min(start + len)]
    }
}

/// Computes `p` on the threads of `pool`, for which `scratch` was made.
///
/// # Panics
/// Where a slice does not have its shape's length, `k` is not a number of blocks, `dtype` is no weight type or the
/// machine lacks `isa`.
pub(crate) fn matmul(isa: Isa, pool: &Pool, scratch: &mut Scratch, p: Product<'_>) {
    let Product { n, k, m, dtype, .. } = p;
    assert!(p.out.len() == n * m, "out holds {} elements, not {n}×{m}", p.out.len());
    assert!(p.x.len() == n * k, "x holds {} elements, not {n}×{k}", p.x.len());
    assert!(
        dtype.row_bytes(k).and_then(|row| row.checked_mul(m)) == Some(p.w.len()),
        "w holds {} bytes, not {m}×{k} of {dtype}",
        p.w.len()
    );
    assert!(p.bias.is_none_or(|b| b.len() == m), "bias does not hold {m} elements");
    assert!(scratch.threads.len() >= pool.threads(), "the scratch is for fewer threads");
    assert!(isa.is_available(), "this machine lacks {isa}");
    if n == 0 || m == 0 {
        return;
    }
    if k == 0 {
        return p.out.chunks_exact_mut(m).for_each(|out| match p.bias {
            Some(bias) => out.copy_from_slice(bias),
            None => out.fill(0.0),
        });
    }
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => dispatch(super::x86::Avx512::new().expect("available"), pool, scratch, p),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2Vnni => dispatch(super::x86::Avx2Vnni::new().expect("available"), pool, scratch, p),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => dispatch(super::x86::Avx2::new().expect("available"), pool, scratch, p),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonI8mm => dispatch(Neon::<neon::Smmla>::new().expect("available"), pool, scratch, p),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDotprod => dispatch(Neon::<neon::Sdot>::new().expect("available"), pool, scratch, p),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => dispatch(Neon::<neon::Smull>::new().expect("available"), pool, scratch, p),
        _ => scalar::product(pool, scratch, p),
    }
}

/// Calls the product of the format.
fn dispatch<I: Int8Isa + FloatIsa>(isa: I, pool: &Pool, scratch: &mut Scratch, p: Product<'_>) {
    match p.dtype {
        DType::F32 => float::product::<I, float::F32>(isa, pool, scratch, p),
        DType::F16 => float::product::<I, float::F16>(isa, pool, scratch, p),
        DType::BF16 => float::product::<I, float::BF16>(isa, pool, scratch, p),
        DType::Q4_0 => int8::product::<I, unpack::Q4_0>(isa, pool, scratch, p),
        DType::Q4_1 => int8::product::<I, unpack::Q4_1>(isa, pool, scratch, p),
        DType::Q5_0 => int8::product::<I, unpack::Q5_0>(isa, pool, scratch, p),
        DType::Q5_1 => int8::product::<I, unpack::Q5_1>(isa, pool, scratch, p),
        DType::Q8_0 => int8::product::<I, unpack::Q8_0>(isa, pool, scratch, p),
        DType::Q4_K => int8::product::<I, unpack::Q4_K>(isa, pool, scratch, p),
        DType::Q5_K => int8::product::<I, unpack::Q5_K>(isa, pool, scratch, p),
        DType::Q6_K => int8::product::<I, unpack::Q6_K>(isa, pool, scratch, p),
        DType::IQ4_NL => int8::product::<I, unpack::IQ4_NL>(isa, pool, scratch, p),
        DType::IQ4_XS => int8::product::<I, unpack::IQ4_XS>(isa, pool, scratch, p),
        DType::I32 => panic!("I32 is no weight type"),
    }
}

/// Slabs of columns, of `chunk` at PASS tokens, whose packed activations stay in the second cache.
fn chunk_of(chunk: usize, n: usize) -> usize {
    chunk * PASS / n
}

/// Tokens per pass: PASS at most, the passes alike, whole groups of `group`.
fn pass_tokens(n: usize, group: usize) -> usize {
    n.div_ceil(n.div_ceil(PASS)).next_multiple_of(group)
}

/// Weight rows that a thread takes at once: [`PANELS`] panels, or fewer so that four pieces a thread even out what else
/// the machine does.
fn piece_rows(m: usize, threads: usize) -> usize {
    PANEL * (m / PANEL / (4 * threads)).clamp(1, PANELS)
}

/// Rows of plain numbers that a thread takes at once when there is one token: enough that two streams within them run long, and at
/// least eight pieces a thread.
fn dot_rows(m: usize, threads: usize) -> usize {
    (m.div_ceil(8 * threads)).next_multiple_of(2).clamp(16, 512)
}

/// Bytes of quantized weights that a thread takes at once when there is one token: some 2 µs of reading, which is what a thread may wait for
/// another at the end, and fifty times what taking a piece costs. A thread's pieces are neighbours, so nothing speaks for long ones.
const RUN: usize = 64 << 10;

/// Rows of that many bytes, or fewer so that there are eight pieces a thread, but of a quarter of them at least.
fn run_rows(m: usize, row_bytes: usize, threads: usize) -> usize {
    (RUN / row_bytes).min(m.div_ceil(8 * threads)).max(RUN / 4 / row_bytes).max(1)
}

/// Writes `sums` `[tokens][PANEL]`, of panel `panel` of a piece and the tokens from `first` on, to their places in the piece's tile of the output.
fn store(
    tile: &mut super::pool::Tile<'_, f32>,
    panel: usize,
    first: usize,
    sums: &[f32],
    bias: Option<&[f32]>,
) {
    let start = panel * PANEL;
    let end = tile.cols().min(start + PANEL);
    let bias = bias.map(|bias| &bias[tile.first_col()..][start..end]);
    for (token, sums) in sums.as_chunks::<PANEL>().0.iter().enumerate() {
        let out = &mut tile.row(first + token)[start..end];
        match (bias, <&mut [f32; PANEL]>::try_from(&mut *out)) {
            (None, Ok(out)) => *out = *sums,
            (None, Err(_)) => out.copy_from_slice(&sums[..end - start]),
            (Some(bias), _) => {
                for ((out, sum), bias) in out.iter_mut().zip(sums).zip(bias) {
                    *out = sum + bias;
                }
            }
        }
    }
}

/// `f` with the memory of a thread: `len` elements.
fn with_scratch<T: bytemuck::Pod>(buffer: &Mutex<Buffer>, len: usize, f: impl FnOnce(&mut [T])) {
    // A panic elsewhere leaves no invariant broken: the contents are scratch.
    f(buffer.lock().unwrap_or_else(PoisonError::into_inner).get(len));
}
