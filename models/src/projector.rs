//! The projector: image features in, rows as wide as the text model's embeddings out.
//!
//! LLaVA's is one matrix (v1), or matrices with GELUs between them (v1.5). The GELU is the exact one, with erf:
//! PyTorch's default, which the projector was trained with.

use pumice_kernels::{Backend, DType, Gelu, Tensor};

use crate::{
    Result,
    config::ProjectorConfig,
    gguf::File,
    weights::{Linear, biased},
};

/// A projector on a backend, with its activations.
#[derive(Debug)]
pub struct Projector {
    layers: Vec<Layer>,
}

/// One matrix and what comes out of it.
#[derive(Debug)]
struct Layer {
    /// [m, k]
    linear: Linear,
    /// [feature rows, m] F32
    out: Tensor,
}

impl Projector {
    /// Takes the projector of `file` to `b`, for features of `rows` rows.
    ///
    /// # Errors
    /// A tensor is missing or misshapen, or memory is short.
    pub fn load(file: &File, config: &ProjectorConfig, rows: usize, b: &mut dyn Backend) -> Result<Self> {
        let mut layers = Vec::new();
        for ((weight, bias), widths) in config.layers.iter().zip(config.widths.windows(2)) {
            let (k, m) = (widths[0], widths[1]);
            let linear = biased(file, b, weight, bias, (m, k))?;
            layers.push(Layer { linear, out: b.alloc(rows, m, DType::F32)? });
        }
        Ok(Self { layers })
    }

    /// Projects `features` [rows, width in]; the result, [rows, width out], stays until the next call.
    pub fn project(&self, b: &mut dyn Backend, features: Tensor) -> Tensor {
        let mut x = features;
        for (i, layer) in self.layers.iter().enumerate() {
            if i > 0 {
                b.gelu(x, Gelu::Erf);
            }
            layer.linear.apply(b, layer.out, x);
            x = layer.out;
        }
        x
    }
}
