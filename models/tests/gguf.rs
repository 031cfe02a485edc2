//! GGUF files: what is written is read back, and what is damaged is refused with a message that says where.

use std::path::Path;

use pumice_kernels::{Bytes, DType};
use pumice_models::{
    Error,
    gguf::{Array, File, Header, Value, Writer},
};

/// A small file: one key of each scalar type, two arrays, three tensors of different types.
fn sample() -> Vec<u8> {
    let mut header = Header::new();
    header
        .set("general.architecture", "llama")
        .set("a.u8", 250u8)
        .set("a.i8", -3i8)
        .set("a.u16", 60_000u16)
        .set("a.i16", -300i16)
        .set("a.u32", 4_000_000_000u32)
        .set("a.i32", -5i32)
        .set("a.f32", 1e-5f32)
        .set("a.bool", true)
        .set("a.u64", u64::MAX)
        .set("a.i64", i64::MIN)
        .set("a.f64", 0.1f64)
        .set("a.words", vec!["<s>".to_owned(), "▁the".to_owned()])
        .set("a.nested", vec![Array::U8(vec![1, 2]), Array::String(vec!["x".into()]), Array::Array(vec![])])
        .tensor("x.weight", &[4, 3], DType::F32)
        .tensor("y.weight", &[32, 2], DType::Q8_0)
        .tensor("z.bias", &[5], DType::F16);
    let mut w = Writer::in_memory(header).unwrap();
    w.write("x.weight", &(0u8..48).collect::<Vec<_>>()).unwrap();
    w.write("y.weight", &[7; 34]).unwrap();
    w.write("y.weight", &[8; 34]).unwrap();
    w.write("z.bias", &[9; 10]).unwrap();
    w.finish().unwrap()
}

fn read(bytes: Vec<u8>) -> Result<File, Error> {
    File::from_bytes("sample.gguf", Bytes::new(bytes))
}

#[test]
fn what_is_written_is_read_back() {
    let f = read(sample()).unwrap();
    assert_eq!(f.need_str("general.architecture").unwrap(), "llama");
    assert_eq!(f.need_u64("a.u64").unwrap(), u64::MAX);
    assert_eq!(f.get("a.i64"), Some(&Value::I64(i64::MIN)));
    assert_eq!(f.need_f32("a.f64").unwrap(), 0.1);
    assert_eq!(f.need_strings("a.words").unwrap()[1], "▁the");
    let t = f.need_tensor("y.weight").unwrap();
    assert_eq!((t.cols(), t.rows(), t.dtype, t.bytes), (32, 2, Some(DType::Q8_0), 68));
    assert_eq!(&f.bytes(t)[..], [[7u8; 34], [8; 34]].concat());
    assert_eq!(f.bytes(f.tensor("z.bias").unwrap()).as_ptr().addr() % 8, 0);
    assert_eq!(f.path(), Path::new("sample.gguf"));
}
