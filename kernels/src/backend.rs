//! The seam: four calls for memory and a closed set of ops on matrices.
//!
//! Models are written once against this trait. The CPU computes at once; a GPU records and submits, so nothing but
//! [`Backend::read`] waits for a result. Every op writes to its first argument. Operands of one op lie in different
//! buffers, except where an op works in place, which its doc says. A shape error is a bug of the caller and panics with
//! both shapes. `load`, `alloc` and `read` are the only calls that can fail, so memory is planned before the first token; where a
//! device is lost or runs out of memory in the middle of an op, that op and all after it do nothing, and the next of these three
//! says so.
//!
//! Ids and positions are columns [n, 1] of I32, a row for each token, so that a part of a batch is a view of them; a
//! single row [1, n] is taken too.
//!
//! Letters: `n` rows (tokens), `k` columns in, `m` columns out, `h` heads, `d` head width, `len` cached positions.

mod boxed;

use std::time::Duration;

use crate::{Bytes, DType, Result, count::Op};

/// A handle to rows of a buffer that a backend owns: a matrix, row-major, rows contiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tensor {
    /// Which buffer, in the backend's own numbering.
    pub buffer: u32,
    /// The first row of this view, counted in the buffer's rows.
    pub first: usize,
    /// Rows of this view.
    pub rows: usize,
    /// Columns (elements in a row), the whole width of the buffer.
    pub cols: usize,
    /// Type of the elements.
    pub dtype: DType,
}

impl Tensor {
    /// `rows` rows from row `first` of this view on.
    ///
    /// # Panics
    /// Where they leave the view.
    #[track_caller]
    pub fn rows(self, first: usize, rows: usize) -> Self {
        assert!(
            first.checked_add(rows).is_some_and(|end| end <= self.rows),
            "rows {first}..{first}+{rows} of a tensor of {} rows",
            self.rows
        );
        Self { first: self.first + first, rows, ..self }
    }
}

/// Which approximation of the Gaussian error linear unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gelu {
    /// x·Φ(x) = x/2·(1 + erf(x/√2)): the projector.
    Erf,
    /// x·σ(1.702·x): CLIP's `quick_gelu`.
    Quick,
    /// x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³))): other vision towers.
    Tanh,
}

/// A device that holds matrices and computes on them.
pub trait Backend: Send {
    /// The device in words: `cpu (avx512-vnni, 2 threads)`.
    fn name(&self) -> String;

    /// Takes a weight matrix, [rows, cols], from bytes in GGUF layout. The CPU keeps `bytes` as they are, without a copy.
    fn load(&mut self, bytes: Bytes, rows: usize, cols: usize, dtype: DType) -> Result<Tensor>;

    /// A zeroed matrix, [rows, cols], of `dtype` F32, F16, Q8_0 (caches) or I32 (ids and positions).
    fn alloc(&mut self, rows: usize, cols: usize, dtype: DType) -> Result<Tensor>;

    /// Writes `src`, the bytes of `dst`'s rows in `dst`'s type, little-endian.
    fn write(&mut self, dst: Tensor, src: &[u8]);

    /// Reads the rows of a tensor of F32, or of a cache of F16 or Q8_0, dequantized. Waits for all ops before it.
    ///
    /// # Errors
    /// The device was lost, or ran out of memory, in this call or in an op before it; `dst` then holds nothing that counts.
    fn read(&mut self, dst: &mut [f32], src: Tensor) -> Result<()>;

    /// What is loaded and allocated from now on belongs to block `index` of the text model, or to none. A backend of several
    /// devices places it by that; others need not know.
    fn layer(&mut self, _index: Option<usize>) {}

    /// The time that each call took on the device since the last question, as the device itself measured it; calls that it fused
    /// into one are told as one of them. `None` where it does not measure. Waits for all ops before it.
    fn device_times(&mut self) -> Option<Vec<(Op, Duration)>> {
        None
    }

    /// dst = x·wᵀ + bias. `dst` [n, m] F32, `x` [n, k] F32, `w` [m, k] of any weight type, `bias` [1, m] F32.
    ///
    /// Quantized weights meet `x` rounded to 8 bits in blocks of 32 (see NUMERICS.md); other types are exact to f32 sums.
    fn matmul(&mut self, dst: Tensor, x: Tensor, w: Tensor, bias: Option<Tensor>);

    /// `dst[i] = table[ids[i]]`, dequantized. `dst` [n, k] F32, `table` [m, k] of any weight type, `ids` [n, 1] I32.
    fn get_rows(&mut self, dst: Tensor, table: Tensor, ids: Tensor);

    /// dst = x / √(mean(x²) + eps) · weight, by rows (RMSNorm, arXiv 1910.07467). `dst`, `x` [n, k], `weight` [1, k], all F32.
    fn rms_norm(&mut self, dst: Tensor, x: Tensor, weight: Tensor, eps: f32);

    /// dst = (x − mean)/√(var + eps) · weight + bias, by rows (LayerNorm, arXiv 1607.06450). `dst`, `x` [n, k], the rest [1, k], all F32.
    fn layer_norm(&mut self, dst: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: f32);

    /// Rotates adjacent pairs of every head, in place (RoPE, arXiv 2104.09864; GGUF's `llama` layout):
    /// (a, b) → (a·cos θ − b·sin θ, a·sin θ + b·cos θ) with (a, b) = `x[2i, 2i+1]` of a head and `θ = position·inv_freq[i]`.
    ///
    /// `x` [n, h·head_dim] F32; `positions` [n, 1] I32; `inv_freq` [1, r/2] F32, r ≤ head_dim: elements past r stay.
    fn rope(&mut self, x: Tensor, positions: Tensor, inv_freq: Tensor, head_dim: usize);

    /// dst = softmax(q·kᵀ/√d)·v for every head. `dst`, `q` [n, h·d] F32; `k`, `v` [len, h_kv·d] F32, F16 or Q8_0.
    ///
    /// Query head i reads key head i·h_kv/h (grouped-query attention, arXiv 2305.13245). With `positions` ([n, 1] I32)
    /// row i sees keys `0..=positions[i]` (causal); without, all keys.
    fn attention(
        &mut self,
        dst: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        positions: Option<Tensor>,
        head_dim: usize,
    );

    /// gate = gate·σ(gate)·up, in place (SwiGLU, arXiv 2002.05202). Both [n, k] F32.
    fn swiglu(&mut self, gate: Tensor, up: Tensor);

    /// x = gelu(x), in place. F32.
    fn gelu(&mut self, x: Tensor, kind: Gelu);

    /// dst += x, in place. Both [n, k] F32, or `x` [1, k] added to every row.
    fn add(&mut self, dst: Tensor, x: Tensor);

    /// dst = x converted to dst's type. Same shape; `x` F32 (dst F32, F16 or Q8_0), or both of one type.
    fn copy(&mut self, dst: Tensor, x: Tensor);

    /// The k largest of the first `among` elements of every row, largest first, then their columns as numbers: `dst` [n, 2k] F32,
    /// `x` [n, m] F32, 1 ≤ k ≤ `among` ≤ m < 2^24 (so that a column is exact in f32).
    ///
    /// Among equals the lower column comes first; −0 equals 0. What is no number counts as larger than all numbers.
    fn top_k(&mut self, dst: Tensor, x: Tensor, among: usize);
}
