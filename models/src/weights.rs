//! A weight found by name, checked against the shape that the config asks for, and given to a backend.
//!
//! A matrix stays as the file stores it, whatever its type. Norms, biases, positions and the class embedding must be
//! F32 for the ops that take them; files store some of them as F16, so they are converted here, once, by the backend's
//! own `get_rows`.

use bytemuck::cast_slice;
use pumice_kernels::{Backend, DType, Tensor};

use crate::{
    Error, Result,
    gguf::{File, TensorInfo},
};

/// A layer y = x·wᵀ + bias.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Linear {
    /// w, [m, k], as the file stores it.
    pub weight: Tensor,
    /// [1, m] F32; most layers of LLaMA have none.
    pub bias: Option<Tensor>,
}

impl Linear {
    /// y [n, m] = x [n, k]·wᵀ + bias.
    pub(crate) fn apply(self, b: &mut dyn Backend, y: Tensor, x: Tensor) {
        b.matmul(y, x, self.weight, self.bias);
    }
}

/// A norm by rows: its weight, and its bias where it is a LayerNorm.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayerNorm {
    /// [1, k] F32.
    pub weight: Tensor,
    /// [1, k] F32.
    pub bias: Tensor,
    /// What keeps the division from zero.
    pub eps: f32,
}

impl LayerNorm {
    /// y [n, k] = layer_norm(x [n, k]).
    pub(crate) fn apply(self, b: &mut dyn Backend, y: Tensor, x: Tensor) {
        b.layer_norm(y, x, self.weight, self.bias, self.eps);
    }
}

/// The tensor `name`, whose elements must make a [rows, cols] matrix.
///
/// Dimensions are compared after joining: `cols` must be a product of the fastest dimensions, so that a convolution
/// stored as [14, 14, 3, 1024] is a [1024, 588] matrix.
fn find<'a>(file: &'a File, name: &str, rows: usize, cols: usize) -> Result<&'a TensorInfo> {
    let t = file.need_tensor(name)?;
    let mut joined = 1;
    let mut dims = t.dims.iter();
    while joined < cols {
        let Some(d) = dims.next() else { break };
        joined *= d;
    }
    if joined != cols || dims.product::<usize>() != rows {
        return Err(Error::tensor(
            file.path(),
            name,
            format!(
                "has dimensions {:?} (fastest first) where the file's own keys ask for {rows} rows of {cols}; \
                 the file was made wrongly, get or make another",
                t.dims
            ),
        ));
    }
    Ok(t)
}

/// The matrix `name`, [rows, cols], as stored.
pub(crate) fn matrix(
    file: &File,
    b: &mut dyn Backend,
    name: &str,
    rows: usize,
    cols: usize,
) -> Result<Tensor> {
    let t = find(file, name, rows, cols)?;
    let dtype = file.dtype(t)?;
    if dtype == DType::I32 {
        return Err(Error::tensor(file.path(), name, "holds integers where a weight is needed"));
    }
    Ok(b.load(file.bytes(t), rows, cols, dtype)?)
}

/// The matrix `name`, [rows, cols], as F32; a vector is one row.
pub(crate) fn floats(
    file: &File,
    b: &mut dyn Backend,
    name: &str,
    rows: usize,
    cols: usize,
) -> Result<Tensor> {
    let stored = matrix(file, b, name, rows, cols)?;
    if stored.dtype == DType::F32 {
        return Ok(stored);
    }
    let ids = b.alloc(rows, 1, DType::I32)?;
    let all: Vec<i32> = (0..rows as i32).collect();
    b.write(ids, cast_slice(&all));
    let converted = b.alloc(rows, cols, DType::F32)?;
    b.get_rows(converted, stored, ids);
    Ok(converted)
}

/// A layer of `weight` [m, k] and, where the file has it, `bias` `[m]`.
pub(crate) fn linear(
    file: &File,
    b: &mut dyn Backend,
    weight: &str,
    bias: &str,
    (m, k): (usize, usize),
) -> Result<Linear> {
    if file.tensor(bias).is_some() {
        return biased(file, b, weight, bias, (m, k));
    }
    Ok(Linear { weight: matrix(file, b, weight, m, k)?, bias: None })
}

/// A layer of `weight` `[m, k]` and `bias` `[m]`, neither of which may be missing.
pub(crate) fn biased(
    file: &File,
    b: &mut dyn Backend,
    weight: &str,
    bias: &str,
    (m, k): (usize, usize),
) -> Result<Linear> {
    Ok(Linear { weight: matrix(file, b, weight, m, k)?, bias: Some(floats(file, b, bias, 1, m)?) })
}

/// A LayerNorm over rows of `k`.
pub(crate) fn layer_norm(
    file: &File,
    b: &mut dyn Backend,
    weight: &str,
    bias: &str,
    k: usize,
    eps: f32,
) -> Result<LayerNorm> {
    Ok(LayerNorm { weight: floats(file, b, weight, 1, k)?, bias: floats(file, b, bias, 1, k)?, eps })
}
