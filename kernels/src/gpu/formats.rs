//! The shaders' decoders: which files read a weight of each format.

use crate::DType;

/// What all decoders have in common, the file of a format, and what follows from it for formats of blocks.
macro_rules! blocks {
    ($($file:literal),+) => {
        concat!(
            include_str!("wgsl/weight.wgsl"),
            $(include_str!(concat!("wgsl/formats/", $file, ".wgsl")),)+
            include_str!("wgsl/quantized.wgsl")
        )
    };
}

/// The same for formats of plain numbers.
macro_rules! plain {
    ($file:literal) => {
        concat!(
            include_str!("wgsl/weight.wgsl"),
            include_str!(concat!("wgsl/formats/", $file, ".wgsl")),
            include_str!("wgsl/plain.wgsl")
        )
    };
}

/// The text of the decoder of `format`.
pub(super) fn decoder(format: DType) -> &'static str {
    match format {
        DType::F32 => plain!("f32"),
        DType::F16 => plain!("f16"),
        DType::BF16 => plain!("bf16"),
        DType::Q4_0 => blocks!("q4_0"),
        DType::Q4_1 => blocks!("q4_1"),
        DType::Q5_0 => blocks!("q5_0"),
        DType::Q5_1 => blocks!("q5_1"),
        DType::Q8_0 => blocks!("q8_0"),
        DType::Q4_K => blocks!("q4_k"),
        DType::Q5_K => blocks!("q5_k"),
        DType::Q6_K => blocks!("q6_k"),
        DType::IQ4_NL => blocks!("levels", "iq4_nl"),
        DType::IQ4_XS => blocks!("levels", "iq4_xs"),
        DType::I32 => panic!("integers are no weights"),
    }
}
