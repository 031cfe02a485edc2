//! Bytes against gguf-py: quantized ones of the formats that have a reference, restored numbers of all formats.

use pumice_kernels::{DType, quant};

const COLS: usize = 256;

fn golden(name: &str) -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// The rows of quant.py's `byte_input`.
const ROWS: [&str; 12] = [
    "normal",
    "heavy-tailed",
    "zero",
    "constant",
    "ties",
    "mirrored",
    "denormal scales",
    "denormals",
    "large",
    "scales beyond a half",
    "signed zeros",
    "outliers",
];

#[test]
fn quantized_bytes_are_those_of_gguf_py() {
    let input = floats(&golden("quant_input.bin"));
    assert_eq!(input.len(), ROWS.len() * COLS);
    let expected = golden("quant_bytes.bin");
    let mut at = 0;
    let types = [DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q8_0, DType::F16, DType::BF16];
    for dtype in types {
        let row_bytes = dtype.row_bytes(COLS).unwrap();
        let mut got = vec![0; row_bytes * ROWS.len()];
        quant::quantize(dtype, COLS, &input, &mut got, None);
        for (name, got) in ROWS.iter().zip(got.chunks_exact(row_bytes)) {
            let expected = &expected[at..at + row_bytes];
            let differ = got.iter().zip(expected).position(|(a, b)| a != b);
            assert!(differ.is_none(), "{dtype}, row {name:?}: first difference at byte {differ:?}");
            at += row_bytes;
        }
    }
    assert_eq!(at, expected.len());
}

#[test]
fn restored_numbers_are_those_of_gguf_py() {
    let (bytes, expected) = (golden("dequant_bytes.bin"), floats(&golden("dequant_floats.bin")));
    let (mut at, mut element) = (0, 0);
    let types = [
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
        DType::F16,
        DType::BF16,
    ];
    for dtype in types {
        let n = dtype.row_bytes(1024).unwrap();
        let mut got = vec![0.0; 1024];
        quant::dequantize(dtype, &bytes[at..at + n], &mut got);
        for (i, (got, expected)) in got.iter().zip(&expected[element..]).enumerate() {
            assert_eq!(got.to_bits(), expected.to_bits(), "{dtype}, element {i}: {got} for {expected}");
        }
        at += n;
        element += 1024;
    }
    assert_eq!((at, element), (bytes.len(), expected.len()));
}
