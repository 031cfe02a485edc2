//! The file types: llama.cpp's names and numbers (`llama_ftype`), and the type each mix is named for.

use std::{fmt, str::FromStr};

use pumice_kernels::DType;

use crate::Error;

/// A mix of tensor types. The discriminant is llama.cpp's number, which `general.file_type` holds.
#[allow(non_camel_case_types, reason = "llama.cpp's names, the same word in file and command line")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum FileType {
    /// 32 bits per weight.
    F32 = 0,
    /// 16 bits.
    F16 = 1,
    /// 4.5 bits, the plainest 4-bit format.
    Q4_0 = 2,
    /// 5 bits.
    Q4_1 = 3,
    /// 8.5 bits, hardly distinguishable from F16.
    Q8_0 = 7,
    /// 5.5 bits.
    Q5_0 = 8,
    /// 6 bits.
    Q5_1 = 9,
    /// About 4.6 bits.
    Q4_K_S = 14,
    /// About 4.8 bits: the usual choice.
    Q4_K_M = 15,
    /// About 5.5 bits.
    Q5_K_S = 16,
    /// About 5.7 bits.
    Q5_K_M = 17,
    /// 6.6 bits.
    Q6_K = 18,
    /// 4.5 bits into a table of 16 values.
    IQ4_NL = 25,
    /// About 4.3 bits, the smallest here.
    IQ4_XS = 30,
    /// 16 bits, with the range of F32.
    BF16 = 32,
}

impl FileType {
    /// All file types, the widest first.
    pub const ALL: [FileType; 15] = [
        FileType::F32,
        FileType::F16,
        FileType::BF16,
        FileType::Q8_0,
        FileType::Q6_K,
        FileType::Q5_1,
        FileType::Q5_K_M,
        FileType::Q5_K_S,
        FileType::Q5_0,
        FileType::Q4_1,
        FileType::Q4_K_M,
        FileType::Q4_K_S,
        FileType::Q4_0,
        FileType::IQ4_NL,
        FileType::IQ4_XS,
    ];

    /// The type that most matrices take.
    pub fn dtype(self) -> DType {
        match self {
            FileType::F32 => DType::F32,
            FileType::F16 => DType::F16,
            FileType::BF16 => DType::BF16,
            FileType::Q4_0 => DType::Q4_0,
            FileType::Q4_1 => DType::Q4_1,
            FileType::Q5_0 => DType::Q5_0,
            FileType::Q5_1 => DType::Q5_1,
            FileType::Q8_0 => DType::Q8_0,
            FileType::Q4_K_S | FileType::Q4_K_M => DType::Q4_K,
            FileType::Q5_K_S | FileType::Q5_K_M => DType::Q5_K,
            FileType::Q6_K => DType::Q6_K,
            FileType::IQ4_NL => DType::IQ4_NL,
            FileType::IQ4_XS => DType::IQ4_XS,
        }
    }

    /// llama.cpp's name: `Q4_K_M`.
    pub fn name(self) -> &'static str {
        match self {
            FileType::Q4_K_S => "Q4_K_S",
            FileType::Q4_K_M => "Q4_K_M",
            FileType::Q5_K_S => "Q5_K_S",
            FileType::Q5_K_M => "Q5_K_M",
            plain => plain.dtype().name(),
        }
    }

    /// The plain file type whose matrices are all of `dtype`, for a vision tower's file.
    pub(crate) fn of(dtype: DType) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.dtype() == dtype && !t.name().ends_with("_M"))
    }
}

impl fmt::Display for FileType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for FileType {
    type Err = Error;

    /// Reads a name in any case. `Q4_K` and `Q5_K` mean the medium mixes, as in llama.cpp.
    fn from_str(name: &str) -> Result<Self, Error> {
        let wanted = match name.to_ascii_uppercase().as_str() {
            "Q4_K" => "Q4_K_M".to_owned(),
            "Q5_K" => "Q5_K_M".to_owned(),
            other => other.to_owned(),
        };
        Self::ALL.into_iter().find(|t| t.name() == wanted).ok_or_else(|| Error::Unknown {
            what: "file type",
            name: name.into(),
            known: Self::ALL.map(FileType::name).join(" "),
        })
    }
}
