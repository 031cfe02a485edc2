//! GGUF files: what is written is read back, what gguf-py writes is read, and what is damaged is refused with a message
//! that says where.

use std::{
    fs,
    path::{Path, PathBuf},
};

use pumice_kernels::{Bytes, DType};
use pumice_models::{
    Error,
    gguf::{Array, File, Header, Holding, Value, Writer},
};

#[path = "gguf/damaged.rs"]
mod damaged;
#[path = "gguf/writer.rs"]
mod writer;

/// A small file: one key of each scalar type, arrays, three tensors of different types.
fn header() -> Header {
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
        .set("a.scores", vec![0.5f32, -1000.0])
        .set("a.types", vec![1i32, -6])
        .set("a.flags", vec![true, false])
        .set("a.empty", Vec::<u32>::new())
        .tensor("x.weight", &[4, 3], DType::F32)
        .tensor("y.weight", &[32, 2], DType::Q8_0)
        .tensor("z.bias", &[5], DType::F16);
    header
}

/// [`header`] with its tensors' bytes.
fn sample() -> Vec<u8> {
    let mut w = Writer::in_memory(header()).unwrap();
    fill(&mut w);
    w.finish().unwrap()
}

fn fill<W: std::io::Write>(w: &mut Writer<W>) {
    w.write("x.weight", &(0u8..48).collect::<Vec<_>>()).unwrap();
    w.write("y.weight", &[7; 34]).unwrap();
    w.write("y.weight", &[8; 34]).unwrap();
    w.write("z.bias", &[9; 10]).unwrap();
}

fn read(bytes: Vec<u8>) -> Result<File, Error> {
    File::from_bytes("sample.gguf", Bytes::new(bytes))
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The error's message, which must contain all `parts`.
#[track_caller]
fn refused<T>(result: Result<T, Error>, parts: &[&str]) {
    let message = result.err().expect("should have been refused").to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

#[test]
fn what_is_written_is_read_back() {
    let f = read(sample()).unwrap();
    assert_eq!(f.keys().next(), Some(("general.architecture", &Value::String("llama".into()))));
    assert_eq!(f.keys().count(), 17);
    assert_eq!(f.need_u64("a.u64").unwrap(), u64::MAX);
    assert_eq!(f.get("a.i64"), Some(&Value::I64(i64::MIN)));
    assert_eq!(f.need_strings("a.words").unwrap()[1], "▁the");
    let t = f.need_tensor("y.weight").unwrap();
    assert_eq!((t.cols(), t.rows(), t.elements(), t.dtype, t.bytes), (32, 2, 64, Some(DType::Q8_0), 68));
    assert_eq!(&f.bytes(t)[..], [[7u8; 34], [8; 34]].concat());
    assert!(f.tensors().iter().all(|t| f.bytes(t).as_ptr().addr().is_multiple_of(16)));
    assert_eq!(f.path(), Path::new("sample.gguf"));
    assert_eq!(f.size(), sample().len() as u64);
}

#[test]
fn unaligned_bytes_from_memory_are_moved() {
    let shifted = [vec![0], sample()].concat();
    let bytes = Bytes::new(shifted).slice(1..sample().len() + 1).unwrap();
    let f = File::from_bytes("m", bytes).unwrap();
    let t = f.need_tensor("x.weight").unwrap();
    assert_eq!(f.bytes(t).as_ptr().addr() % 16, 0);
    assert_eq!(&f.bytes(t)[..], (0u8..48).collect::<Vec<_>>());
}

/// kB that this process has locked; `None` where the system does not tell.
fn locked() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[test]
fn read_into_memory_or_locked_it_is_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("held.gguf");
    fs::write(&path, sample()).unwrap();
    for (copy, lock) in [(true, false), (false, true), (true, true)] {
        let f = File::open_as(&path, Holding { copy, lock }).unwrap();
        let t = f.need_tensor("x.weight").unwrap();
        assert_eq!(&f.bytes(t)[..], (0u8..48).collect::<Vec<_>>());
        assert_eq!((f.path(), f.size()), (path.as_path(), sample().len() as u64));
        assert!(lock || f.unlocked().is_none());
        // A system may allow nobody to lock anything; where it says nothing, it did.
        if let (true, None, Some(kb)) = (lock, f.unlocked(), locked()) {
            assert!(kb > 0, "nothing is locked");
        }
        if copy {
            // What is read once is not touched by what becomes of the file.
            fs::write(&path, vec![0; sample().len()]).unwrap();
            assert_eq!(f.bytes(t)[1], 1);
            fs::write(&path, sample()).unwrap();
        }
    }
    let absent = File::open_as(&dir.path().join("absent.gguf"), Holding { copy: true, lock: false });
    refused(absent, &["absent.gguf", "open"]);
}

#[test]
fn version_2_reads_alike() {
    let mut bytes = sample();
    bytes[4] = 2;
    assert_eq!(read(bytes).unwrap().tensors(), read(sample()).unwrap().tensors());
}

#[test]
fn numbers_of_any_fitting_type_are_taken() {
    let f = read(sample()).unwrap();
    assert_eq!(f.need_u32("a.u8").unwrap(), 250);
    assert_eq!(f.need_i32("a.u16").unwrap(), 60_000);
    assert_eq!(f.need_usize("a.u32").unwrap(), 4_000_000_000);
    assert_eq!(f.need_f32("a.f64").unwrap(), 0.1);
    assert_eq!(f.need_f32("a.i8").unwrap(), -3.0);
    assert_eq!(f.need_integers("a.types").unwrap(), [1, -6]);
    assert_eq!(f.need_floats("a.types").unwrap(), [1.0, -6.0]);
    assert_eq!(f.need_floats("a.scores").unwrap(), [0.5, -1000.0]);
    assert!(f.need_bool("a.bool").unwrap());
    assert_eq!(f.need_array("a.flags").unwrap(), &Array::Bool(vec![true, false]));
    assert_eq!(f.u32("absent").unwrap(), None);
}

#[test]
fn wrong_and_missing_keys_are_named_with_their_types() {
    let f = read(sample()).unwrap();
    refused(f.need_u32("absent"), &["sample.gguf", "key absent", "missing", "u32"]);
    refused(f.u32("a.i8"), &["key a.i8", "the i8 -3", "u32"]);
    refused(f.i32("a.u32"), &["a.u32", "4000000000"]);
    refused(f.u32("a.f32"), &["a.f32", "the f32"]);
    refused(f.str("a.words"), &["a.words", "arr[str] of 2", "a str is needed"]);
    refused(f.strings("a.scores"), &["a.scores", "arr[f32]"]);
    refused(f.bool("general.architecture"), &["the str \"llama\"", "a bool"]);
    refused(f.need_tensor("nothing"), &["tensor nothing", "missing"]);
}

#[test]
fn a_file_of_gguf_py_reads() {
    let f = File::open(&golden("sample.gguf")).unwrap();
    assert_eq!(f.get("x.u8"), Some(&Value::U8(200)));
    assert_eq!(f.get("x.i8"), Some(&Value::I8(-100)));
    assert_eq!(f.get("x.u16"), Some(&Value::U16(60_000)));
    assert_eq!(f.get("x.i16"), Some(&Value::I16(-30_000)));
    assert_eq!(f.get("x.u32"), Some(&Value::U32(4_000_000_000)));
    assert_eq!(f.get("x.i32"), Some(&Value::I32(-2_000_000_000)));
    assert_eq!(f.get("x.f32"), Some(&Value::F32(1.5)));
    assert_eq!(f.get("x.bool"), Some(&Value::Bool(true)));
    assert_eq!(f.get("x.str"), Some(&Value::from("Grüße, 世界")));
    assert_eq!(f.get("x.u64"), Some(&Value::U64(1 << 63)));
    assert_eq!(f.get("x.i64"), Some(&Value::I64(-(1 << 62))));
    assert_eq!(f.get("x.f64"), Some(&Value::F64(0.1)));
    assert_eq!(f.need_strings("x.strings").unwrap(), ["<unk>", "<s>", "▁a"]);
    assert_eq!(f.need_floats("x.floats").unwrap(), [0.5, -2.0]);
    assert_eq!(f.need_integers("x.ints").unwrap(), [1, -2, 3]);
    assert_eq!(f.get("x.bools"), Some(&Value::from(vec![true, false])));
    let nested = vec![Array::I32(vec![1, 2]), Array::I32(vec![3])];
    assert_eq!(f.get("x.nested"), Some(&Value::from(nested)));

    let names: Vec<&str> = f.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["plain.weight", "half.weight", "q.weight", "fp4.weight"]);
    let plain = f.need_tensor("plain.weight").unwrap();
    assert_eq!(plain.dims, [3, 2]);
    assert_eq!(bytemuck::cast_slice::<u8, f32>(&f.bytes(plain)), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let q = f.need_tensor("q.weight").unwrap();
    assert_eq!((q.dims.as_slice(), q.dtype, q.bytes), (&[32, 2][..], Some(DType::Q8_0), 68));
}

#[test]
fn a_type_that_we_lack_is_listed_but_refused_when_asked_for() {
    let f = File::open(&golden("sample.gguf")).unwrap();
    let t = f.tensor("fp4.weight").unwrap();
    assert_eq!((t.ggml_type, t.dtype, t.bytes, t.dims.as_slice()), (39, None, 17, &[32, 1][..]));
    refused(
        f.need_tensor("fp4.weight"),
        &["sample.gguf", "fp4.weight", "MXFP4 (39)", "Q4_K", "pumice quantize"],
    );
}

#[test]
fn any_part_of_a_split_model_opens_all() {
    for no in 1..=2 {
        let f = File::open(&golden(&format!("split-0000{no}-of-00002.gguf"))).unwrap();
        assert_eq!(f.need_u32("llama.block_count").unwrap(), 1);
        assert_eq!(f.paths().count(), 2);
        assert_eq!(f.tensors().len(), 3);
        for (i, t) in f.tensors().iter().enumerate() {
            assert_eq!(t.name, format!("t{i}"));
            assert_eq!(bytemuck::cast_slice::<u8, f32>(&f.bytes(t)), [i as f32; 4]);
        }
    }
}

#[test]
fn split_models_that_do_not_fit_together_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (one, two) = ("split-00001-of-00002.gguf", "split-00002-of-00002.gguf");
    fs::copy(golden(one), at(one)).unwrap();
    refused(File::open(&at(one)), &[two, "part 2 of the 2", "missing"]);
    fs::copy(golden(one), at(two)).unwrap();
    refused(File::open(&at(one)), &[two, "split.no", "is 0 where 1"]);
    fs::copy(golden(two), at("renamed.gguf")).unwrap();
    refused(File::open(&at("renamed.gguf")), &["renamed.gguf", "original names"]);
    fs::copy(golden(two), at("split-00002-of-00003.gguf")).unwrap();
    refused(File::open(&at("split-00002-of-00003.gguf")), &["split.count", "is 2", "says 3"]);
    let bytes = Bytes::new(fs::read(golden(one)).unwrap());
    refused(File::from_bytes("m", bytes), &["one of 2 parts"]);
}

#[test]
#[ignore = "makes the file for golden/check_with_gguf_py.py, at the path PUMICE_GGUF_OUT"]
fn a_file_for_gguf_py() {
    let path = std::env::var_os("PUMICE_GGUF_OUT").expect("set PUMICE_GGUF_OUT to the path to write");
    let mut w = Writer::create(Path::new(&path), header(), true).unwrap();
    fill(&mut w);
    w.finish().unwrap();
}
