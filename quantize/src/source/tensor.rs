//! A tensor of a source: where its numbers lie and what is done to them on the way out.
//!
//! Nothing is read before its rows are asked for. Rows may be reordered (for rotary positions), cut off (rows of the
//! vocabulary that only pad) and have a LoRA update added, W + (alpha/r)·B·A, each a row at a time in f32, so that a
//! 13B merge takes no more memory than a plain copy.

use pumice_kernels::{Bytes, DType, quant};
use pumice_models::checkpoint;

use crate::{Error, Result};

/// A tensor under its GGUF name.
#[derive(Debug, Clone)]
pub struct SourceTensor {
    /// GGUF name.
    pub name: String,
    /// Lengths of the dimensions, fastest first, as they will stand in the file.
    pub dims: Vec<usize>,
    pub(super) data: Data,
    pub(super) order: Order,
    pub(super) delta: Option<Delta>,
}

/// Where the numbers are.
#[derive(Debug, Clone)]
pub(super) enum Data {
    /// In a PyTorch or safetensors file.
    Checkpoint(checkpoint::Tensor),
    /// In a GGUF file.
    Gguf(Bytes, DType),
    /// Computed.
    Values(Vec<f32>),
    /// Drawn.
    Random(Random),
}

/// Normal numbers, the same in every run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Random {
    /// Tells tensors apart.
    pub seed: u64,
    pub mean: f32,
    pub spread: f32,
    /// Rows after which the tensor repeats; tensors that repeat share their rows, each beginning at another.
    pub period: Option<usize>,
}

impl Random {
    /// Which of the shared rows the tensor begins with.
    pub fn rotation(&self) -> usize {
        self.period.map_or(0, |period| mix(self.seed) as usize % period)
    }

    /// Row `row`, each of its numbers a pair of the generator's (Box and Muller, 1958).
    fn row(&self, row: usize, out: &mut [f32]) {
        let start = match self.period {
            Some(period) => ((row + self.rotation()) % period) as u64,
            None => mix(self.seed) ^ row as u64,
        };
        let state = mix(start.wrapping_add(1));
        for (i, o) in out.iter_mut().enumerate() {
            let bits = mix(state.wrapping_add(i as u64));
            // 24 bits each, the first above zero for the logarithm.
            let (a, b) = ((bits >> 40) + 1, bits & 0xFF_FFFF);
            let (a, b) = (a as f32 / 16_777_216.0, b as f32 / 16_777_216.0);
            *o = self.mean + self.spread * (-2.0 * a.ln()).sqrt() * (std::f32::consts::TAU * b).cos();
        }
    }
}

/// Steps and scrambles a number (SplitMix64, Steele, Lea and Flood 2014).
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    n ^ (n >> 31)
}

/// Which row of the data is row `i`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Row `i`.
    Same,
    /// Heads of this many rows, whose halves are interleaved: row 2i+s of a head is its row s·half + i.
    Interleaved {
        /// Rows of a head.
        head: usize,
    },
}

/// A LoRA update (arXiv 2106.09685): scale·B·A.
#[derive(Debug, Clone)]
pub(super) struct Delta {
    /// A, [r, cols].
    pub a: checkpoint::Tensor,
    /// B, [rows, r].
    pub b: checkpoint::Tensor,
    /// alpha/r, or alpha/√r for rank-stabilised LoRA.
    pub scale: f32,
}

impl SourceTensor {
    /// `tensor` under the name `name`, dimensions reversed as GGUF has them.
    pub(super) fn from_checkpoint(name: String, tensor: checkpoint::Tensor) -> Self {
        let dims = tensor.shape.iter().rev().copied().collect();
        Self { name, dims, data: Data::Checkpoint(tensor), order: Order::Same, delta: None }
    }

    /// Numbers that were computed.
    pub(super) fn from_values(name: &str, values: Vec<f32>) -> Self {
        let (name, dims) = (name.to_owned(), vec![values.len()]);
        Self { name, dims, data: Data::Values(values), order: Order::Same, delta: None }
    }

    /// Numbers that are drawn.
    pub(crate) fn from_random(name: String, dims: Vec<usize>, random: Random) -> Self {
        Self { name, dims, data: Data::Random(random), order: Order::Same, delta: None }
    }

    /// The generator, where rows repeat.
    pub(crate) fn repeats(&self) -> Option<&Random> {
        match &self.data {
            Data::Random(random) => random.period.is_some().then_some(random),
            _ => None,
        }
    }

    /// Elements of a row. The patch convolution (four dimensions) counts as a matrix with a row per output channel.
    pub fn cols(&self) -> usize {
        match self.dims.len() {
            0 => 1,
            1 => self.dims[0],
            n => self.dims[..n - 1].iter().product(),
        }
    }

    /// Rows; 1 for a vector.
    pub fn rows(&self) -> usize {
        if self.dims.len() < 2 { 1 } else { self.dims[self.dims.len() - 1] }
    }

    /// All elements.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// The shape as PyTorch writes it, rows first.
    pub(super) fn shape(&self) -> Vec<usize> {
        self.dims.iter().rev().copied().collect()
    }

    /// The type of the source's numbers: "BF16", "F16 + LoRA of rank 128".
    pub fn source_type(&self) -> String {
        let base = match &self.data {
            Data::Checkpoint(t) => t.element.to_string(),
            Data::Gguf(_, dtype) => dtype.to_string(),
            Data::Values(_) | Data::Random(_) => "F32".into(),
        };
        match &self.delta {
            Some(delta) => format!("{base} + LoRA of rank {}", delta.a.rows()),
            None => base,
        }
    }

    /// Whether the source's numbers are rounded to blocks already.
    pub(crate) fn is_quantized(&self) -> bool {
        matches!(self.data, Data::Gguf(_, dtype) if dtype.is_quantized())
    }

    /// Bytes in the source.
    pub fn source_bytes(&self) -> u64 {
        let bytes = match &self.data {
            Data::Checkpoint(t) => t.bytes.len(),
            Data::Gguf(bytes, _) => bytes.len(),
            Data::Values(v) => size_of_val(v.as_slice()),
            Data::Random(_) => 4 * self.elements(),
        };
        bytes as u64
    }

    /// The bytes as they are, where they are of `dtype` already and nothing is to be done to them.
    pub(crate) fn verbatim(&self, dtype: DType) -> Option<&Bytes> {
        match &self.data {
            Data::Gguf(bytes, own) if *own == dtype && self.order == Order::Same && self.delta.is_none() => {
                Some(bytes)
            }
            _ => None,
        }
    }

    /// Makes the tensor ready to be read.
    ///
    /// # Errors
    /// The LoRA matrices hold no floats.
    pub(crate) fn reader(&self) -> Result<Reader<'_>> {
        let delta = match &self.delta {
            Some(delta) => Some(LoadedDelta {
                a: all(&delta.a)?,
                b: all(&delta.b)?,
                rank: delta.a.rows(),
                scale: delta.scale,
            }),
            None => None,
        };
        Ok(Reader { tensor: self, delta })
    }
}

fn all(tensor: &checkpoint::Tensor) -> Result<Vec<f32>> {
    let mut values = vec![0.0; tensor.elements()];
    tensor.to_f32(0, &mut values)?;
    Ok(values)
}

/// A LoRA update in f32.
struct LoadedDelta {
    /// [rank, cols].
    a: Vec<f32>,
    /// [rows, rank].
    b: Vec<f32>,
    rank: usize,
    scale: f32,
}

/// Reads rows of a tensor; many threads may at once.
pub(crate) struct Reader<'a> {
    tensor: &'a SourceTensor,
    delta: Option<LoadedDelta>,
}

impl Reader<'_> {
    /// Rows `first..` into `out`, as many as it holds, [n, cols].
    ///
    /// # Errors
    /// The source holds no floats, or one that is infinite or not a number.
    pub fn read(&self, first: usize, out: &mut [f32]) -> Result<()> {
        let cols = self.tensor.cols();
        if self.tensor.order == Order::Same {
            self.read_plain(first * cols, out)?;
            for (i, row) in out.chunks_exact_mut(cols).enumerate() {
                self.finish(first + i, first + i, row)?;
            }
            return Ok(());
        }
        for (i, row) in out.chunks_exact_mut(cols).enumerate() {
            let from = self.tensor.order.source(first + i);
            self.read_plain(from * cols, row)?;
            self.finish(first + i, from, row)?;
        }
        Ok(())
    }

    /// Elements `first..` of the data as they are.
    fn read_plain(&self, first: usize, out: &mut [f32]) -> Result<()> {
        match &self.tensor.data {
            Data::Checkpoint(t) => t.to_f32(first, out)?,
            Data::Values(v) => out.copy_from_slice(&v[first..first + out.len()]),
            Data::Random(random) => {
                let cols = self.tensor.cols();
                for (i, row) in out.chunks_exact_mut(cols).enumerate() {
                    random.row(first / cols + i, row);
                }
            }
            Data::Gguf(bytes, dtype) => {
                let at = |elements: usize| elements / dtype.block_len() * dtype.block_bytes();
                quant::dequantize(*dtype, &bytes[at(first)..at(first + out.len())], out);
            }
        }
        Ok(())
    }

    /// Adds the LoRA update of row `from` of the data and checks what became row `row`.
    fn finish(&self, row: usize, from: usize, out: &mut [f32]) -> Result<()> {
        if let Some(delta) = &self.delta {
            for (b, a) in
                delta.b[from * delta.rank..][..delta.rank].iter().zip(delta.a.chunks_exact(out.len()))
            {
                let factor = delta.scale * b;
                for (o, a) in out.iter_mut().zip(a) {
                    *o += factor * a;
                }
            }
        }
        // All of them, without leaving at the first: that the compiler does many at a time.
        match out.iter().fold(true, |finite, v| finite & v.is_finite()) {
            true => Ok(()),
            false => Err(Error::NotFinite { tensor: self.tensor.name.clone(), row }),
        }
    }
}

impl Order {
    /// Row of the data that becomes row `row`.
    fn source(self, row: usize) -> usize {
        match self {
            Order::Same => row,
            Order::Interleaved { head } => {
                let (start, within) = (row / head * head, row % head);
                start + within % 2 * (head / 2) + within / 2
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_heads_are_interleaved() {
        // Two heads of 6 rows: rows i and i + 3 of a head become neighbours.
        let order = Order::Interleaved { head: 6 };
        let rows: Vec<usize> = (0..12).map(|r| order.source(r)).collect();
        assert_eq!(rows, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
    }

    #[test]
    fn a_value_that_is_not_a_number_is_named() {
        let tensor = SourceTensor {
            dims: vec![2, 3],
            ..SourceTensor::from_values("blk.0.ffn_up.weight", vec![0.0, 1.0, 2.0, 3.0, f32::NAN, 5.0])
        };
        let reader = tensor.reader().unwrap();
        reader.read(0, &mut [0.0; 4]).unwrap();
        let error = reader.read(1, &mut [0.0; 4]).unwrap_err();
        assert!(matches!(error, Error::NotFinite { ref tensor, row: 2 } if tensor == "blk.0.ffn_up.weight"));
    }
}
