//! How far a quantized tensor is from what it was: the figures of the quantizer's report.

use super::dequantize;
use crate::DType;

/// Errors of a tensor's elements. Sums of squares can be merged: see [`Deviation::with`].
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Deviation {
    /// Elements compared.
    pub count: usize,
    /// Σ (x − x̂)².
    pub noise: f64,
    /// Σ x².
    pub signal: f64,
    /// max |x − x̂|.
    pub max: f32,
}

impl Deviation {
    /// The errors of `quantized`, whole rows of `dtype`, against the original elements.
    ///
    /// # Panics
    /// Where `quantized` does not hold as many elements as `original`.
    #[track_caller]
    pub fn of(dtype: DType, original: &[f32], quantized: &[u8]) -> Self {
        /// Elements dequantized at a time: a multiple of every block.
        const CHUNK: usize = 1024;
        assert!(
            dtype.row_bytes(original.len()) == Some(quantized.len()),
            "{} elements against {} bytes of {dtype}",
            original.len(),
            quantized.len()
        );
        let mut error = Self::default();
        let mut restored = [0.0; CHUNK];
        let chunk_bytes = CHUNK / dtype.block_len() * dtype.block_bytes();
        for (x, bytes) in original.chunks(CHUNK).zip(quantized.chunks(chunk_bytes)) {
            let restored = &mut restored[..x.len()];
            dequantize(dtype, bytes, restored);
            for (x, y) in x.iter().zip(restored) {
                let e = x - *y;
                error.noise += f64::from(e) * f64::from(e);
                error.signal += f64::from(*x) * f64::from(*x);
                error.max = error.max.max(e.abs());
            }
        }
        error.count = original.len();
        error
    }

    /// The errors of two parts together.
    pub fn with(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            noise: self.noise + other.noise,
            signal: self.signal + other.signal,
            max: self.max.max(other.max),
        }
    }

    /// Root of the mean squared error, in the tensor's unit; 0 for no elements.
    pub fn rmse(&self) -> f64 {
        if self.count == 0 { 0.0 } else { (self.noise / self.count as f64).sqrt() }
    }

    /// Signal to noise, 10·log₁₀(Σ x² / Σ (x − x̂)²), in dB; ∞ without noise.
    pub fn snr_db(&self) -> f64 {
        if self.noise == 0.0 { f64::INFINITY } else { 10.0 * (self.signal / self.noise).log10() }
    }
}
