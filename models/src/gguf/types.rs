//! ggml's element types by number, also those that Pumice does not compute with, and what a file says of a tensor.
//!
//! A file may hold types that we have no kernel for. It still opens, its sizes are still checked and it can be listed;
//! only asking for such a tensor is an error, which names the type. Numbers and sizes are those of llama.cpp's
//! `ggml.h` and gguf-py's `GGML_QUANT_SIZES`.

use pumice_kernels::DType;

/// What the file says of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The tensor's name, unique in the file.
    pub name: String,
    /// Lengths of the dimensions, fastest first (ggml's `ne`; PyTorch's shape reversed); 0 to 4 of them, none zero.
    pub dims: Vec<usize>,
    /// ggml's number of the element type.
    pub ggml_type: u32,
    /// The element type, where Pumice computes with it.
    pub dtype: Option<DType>,
    /// Bytes of all elements; 0 where even the size of the type is unknown.
    pub bytes: usize,
    /// Index of the part (shard) that holds the tensor.
    pub(super) part: usize,
    /// First byte, counted from the start of that part.
    pub(super) start: usize,
}

impl TensorInfo {
    /// Elements of a row: the fastest dimension.
    pub fn cols(&self) -> usize {
        self.dims.first().copied().unwrap_or(1)
    }

    /// Rows: the product of all dimensions but the fastest.
    pub fn rows(&self) -> usize {
        self.dims.iter().skip(1).product()
    }

    /// All elements.
    pub fn elements(&self) -> usize {
        self.cols() * self.rows()
    }

    /// The element type in ggml's words, or its bare number.
    pub fn type_name(&self) -> String {
        type_name(self.ggml_type)
    }
}

/// Name, elements and bytes of a block of each ggml type. Missing numbers were withdrawn from the format.
const TYPES: [(u32, &str, usize, usize); 35] = [
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (9, "Q8_1", 32, 36),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
    (40, "NVFP4", 64, 36),
    (41, "Q1_0", 128, 18),
    (42, "Q2_0", 64, 18),
];

/// Elements and bytes of a block of ggml's type `id`.
pub(super) fn block(id: u32) -> Option<(usize, usize)> {
    TYPES.iter().find(|t| t.0 == id).map(|t| (t.2, t.3))
}

/// ggml's name of type `id`, or its bare number.
pub(super) fn type_name(id: u32) -> String {
    TYPES.iter().find(|t| t.0 == id).map_or_else(|| format!("number {id}"), |t| format!("{} ({id})", t.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_types_have_the_same_blocks_here() {
        for t in DType::ALL {
            assert_eq!(block(t as u32), Some((t.block_len(), t.block_bytes())), "{t}");
            assert_eq!(type_name(t as u32), format!("{t} ({})", t as u32));
        }
    }
}
