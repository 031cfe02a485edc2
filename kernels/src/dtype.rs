//! Element types: ggml's names and numbers, block lengths and sizes.

use std::fmt;

/// The type of a tensor's elements. The discriminant is ggml's type number, as GGUF files store it.
#[allow(non_camel_case_types, reason = "ggml's names, the same word in file, struct, shader and bench")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
#[non_exhaustive]
pub enum DType {
    /// IEEE 754 single.
    F32 = 0,
    /// IEEE 754 half.
    F16 = 1,
    /// 4 bits, scale per 32.
    Q4_0 = 2,
    /// 4 bits, scale and minimum per 32.
    Q4_1 = 3,
    /// 5 bits, scale per 32.
    Q5_0 = 6,
    /// 5 bits, scale and minimum per 32.
    Q5_1 = 7,
    /// 8 bits, scale per 32.
    Q8_0 = 8,
    /// 4 bits, 6-bit scale and minimum per 32, super-blocks of 256.
    Q4_K = 12,
    /// 5 bits, 6-bit scale and minimum per 32, super-blocks of 256.
    Q5_K = 13,
    /// 6 bits, 8-bit scale per 16, super-blocks of 256.
    Q6_K = 14,
    /// 4 bits into a table of 16 values, scale per 32.
    IQ4_NL = 20,
    /// 4 bits into a table of 16 values, 6-bit scale per 32, super-blocks of 256.
    IQ4_XS = 23,
    /// 32-bit integers: token ids and positions.
    I32 = 26,
    /// bfloat16.
    BF16 = 30,
}

impl DType {
    /// All types, in the order of ggml's numbers.
    pub const ALL: [DType; 14] = [
        DType::F32,
        DType::F16,
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q8_0,
        DType::Q4_K,
        DType::Q5_K,
        DType::Q6_K,
        DType::IQ4_NL,
        DType::IQ4_XS,
        DType::I32,
        DType::BF16,
    ];

    /// The type of ggml's number `id`, if it is one of ours.
    pub fn from_ggml(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|t| *t as u32 == id)
    }

    /// ggml's name: `Q4_K`.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::Q4_0 => "Q4_0",
            DType::Q4_1 => "Q4_1",
            DType::Q5_0 => "Q5_0",
            DType::Q5_1 => "Q5_1",
            DType::Q8_0 => "Q8_0",
            DType::Q4_K => "Q4_K",
            DType::Q5_K => "Q5_K",
            DType::Q6_K => "Q6_K",
            DType::IQ4_NL => "IQ4_NL",
            DType::IQ4_XS => "IQ4_XS",
            DType::I32 => "I32",
            DType::BF16 => "BF16",
        }
    }

    /// The type named `name`, whatever its case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.name().eq_ignore_ascii_case(name))
    }

    /// Elements of a block (1 for plain numbers).
    pub const fn block_len(self) -> usize {
        match self {
            DType::F32 | DType::F16 | DType::BF16 | DType::I32 => 1,
            DType::Q4_0 | DType::Q4_1 | DType::Q5_0 | DType::Q5_1 | DType::Q8_0 | DType::IQ4_NL => 32,
            DType::Q4_K | DType::Q5_K | DType::Q6_K | DType::IQ4_XS => 256,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::Q4_0 | DType::IQ4_NL => 18,
            DType::Q4_1 => 20,
            DType::Q5_0 => 22,
            DType::Q5_1 => 24,
            DType::Q8_0 => 34,
            DType::Q4_K => 144,
            DType::Q5_K => 176,
            DType::Q6_K => 210,
            DType::IQ4_XS => 136,
        }
    }

    /// Bytes of a row of `cols` elements; `None` where `cols` is no multiple of the block or the product overflows.
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Whether elements are quantized in blocks.
    pub const fn is_quantized(self) -> bool {
        self.block_len() > 1
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
