//! A backend that has no memory and computes nothing: it adds up what a load asks for.
//!
//! The memory plan needs no more. Within [`pumice_kernels::Count`] it tells the work of a forward pass in microseconds.

use pumice_kernels::{Backend, Bytes, DType, Error, Gelu, Result, Tensor};

/// A backend of no substance: bytes asked for so far.
#[derive(Debug, Default)]
pub struct Tally {
    /// By `load`: on the CPU the mapped file itself.
    pub loaded: u64,
    /// By `alloc`.
    pub allocated: u64,
    /// Of both, what belongs to each layer of the text model.
    pub layers: Vec<u64>,
    /// Loaded before the first layer: the embedding table.
    pub table: u64,
    /// Loaded after it, and of no layer: norm and matrix of the output.
    pub output: u64,
    layer: Option<usize>,
}

impl Tally {
    /// Bytes of a matrix, loaded or allocated alike.
    fn tensor(rows: usize, cols: usize, dtype: DType) -> Result<(Tensor, u64)> {
        let row = dtype.row_bytes(cols).ok_or(Error::RaggedBlock { cols, len: dtype.block_len(), dtype })?;
        let bytes = (row as u64).saturating_mul(rows as u64);
        Ok((Tensor { buffer: 0, first: 0, rows, cols, dtype }, bytes))
    }

    /// Adds to the present layer, if there is one.
    fn add_to_layer(&mut self, bytes: u64) -> bool {
        let layer = self.layer.map(|i| &mut self.layers[i]);
        layer.map(|sum| *sum = sum.saturating_add(bytes)).is_some()
    }
}

impl Backend for Tally {
    fn name(&self) -> String {
        "memory plan".into()
    }

    fn load(&mut self, _: Bytes, rows: usize, cols: usize, dtype: DType) -> Result<Tensor> {
        let (tensor, bytes) = Self::tensor(rows, cols, dtype)?;
        self.loaded = self.loaded.saturating_add(bytes);
        if !self.add_to_layer(bytes) {
            let sum = if self.layers.is_empty() { &mut self.table } else { &mut self.output };
            *sum = sum.saturating_add(bytes);
        }
        Ok(tensor)
    }

    fn alloc(&mut self, rows: usize, cols: usize, dtype: DType) -> Result<Tensor> {
        let (tensor, bytes) = Self::tensor(rows, cols, dtype)?;
        self.allocated = self.allocated.saturating_add(bytes);
        self.add_to_layer(bytes);
        Ok(tensor)
    }

    fn layer(&mut self, index: Option<usize>) {
        let layers = index.map_or(0, |i| i + 1).max(self.layers.len());
        self.layers.resize(layers, 0);
        self.layer = index;
    }

    fn write(&mut self, _: Tensor, _: &[u8]) {}
    fn read(&mut self, _: &mut [f32], _: Tensor) -> Result<()> {
        Ok(())
    }
    fn matmul(&mut self, _: Tensor, _: Tensor, _: Tensor, _: Option<Tensor>) {}
    fn get_rows(&mut self, _: Tensor, _: Tensor, _: Tensor) {}
    fn rms_norm(&mut self, _: Tensor, _: Tensor, _: Tensor, _: f32) {}
    fn layer_norm(&mut self, _: Tensor, _: Tensor, _: Tensor, _: Tensor, _: f32) {}
    fn rope(&mut self, _: Tensor, _: Tensor, _: Tensor, _: usize) {}
    fn attention(&mut self, _: Tensor, _: Tensor, _: Tensor, _: Tensor, _: Option<Tensor>, _: usize) {}
    fn swiglu(&mut self, _: Tensor, _: Tensor) {}
    fn gelu(&mut self, _: Tensor, _: Gelu) {}
    fn add(&mut self, _: Tensor, _: Tensor) {}
    fn copy(&mut self, _: Tensor, _: Tensor) {}
    fn top_k(&mut self, _: Tensor, _: Tensor, _: usize) {}
}
