//! The writer: any header comes back as it was, faults are refused, and no half file is left under a good name.

use proptest::{collection::vec, prelude::*};

use super::*;

fn array() -> impl Strategy<Value = Array> {
    let leaf = prop_oneof![
        vec(any::<u8>(), 0..5).prop_map(Array::U8),
        vec(any::<i8>(), 0..5).prop_map(Array::I8),
        vec(any::<u16>(), 0..5).prop_map(Array::U16),
        vec(any::<i16>(), 0..5).prop_map(Array::I16),
        vec(any::<u32>(), 0..5).prop_map(Array::U32),
        vec(any::<i32>(), 0..5).prop_map(Array::I32),
        vec(any::<f32>(), 0..5).prop_map(Array::F32),
        vec(any::<bool>(), 0..5).prop_map(Array::Bool),
        vec(".{0,8}", 0..5).prop_map(Array::String),
        vec(any::<u64>(), 0..5).prop_map(Array::U64),
        vec(any::<i64>(), 0..5).prop_map(Array::I64),
        vec(any::<f64>(), 0..5).prop_map(Array::F64),
    ];
    leaf.prop_recursive(4, 16, 4, |inner| vec(inner, 0..4).prop_map(Array::Array))
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<f32>().prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        ".{0,20}".prop_map(Value::String),
        array().prop_map(Value::Array),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<f64>().prop_map(Value::F64),
    ]
}

/// A type and dimensions that fit it.
fn shape() -> impl Strategy<Value = (DType, Vec<usize>)> {
    (0..DType::ALL.len(), 1usize..4, vec(1usize..4, 0..4)).prop_map(|(i, blocks, mut rest)| {
        let dtype = DType::ALL[i];
        rest.truncate(3);
        rest.insert(0, blocks * dtype.block_len());
        (dtype, rest)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_header_comes_back(
        keys in proptest::collection::btree_map("[a-z.]{0,12}", value(), 0..12),
        shapes in vec(shape(), 0..6),
        alignment in prop_oneof![Just(None), (3u32..8).prop_map(|n| Some(1 << n))],
        seed in any::<u8>(),
        piece in 1usize..300,
    ) {
        let mut header = Header::new();
        keys.iter().for_each(|(k, v)| _ = header.set(k, v.clone()));
        if let Some(n) = alignment {
            header.set("general.alignment", n);
        }
        let mut data = Vec::new();
        for (i, (dtype, dims)) in shapes.iter().enumerate() {
            let name = format!("tensor.{i}");
            header.tensor(&name, dims, *dtype);
            let bytes = dtype.row_bytes(dims[0]).unwrap() * dims[1..].iter().product::<usize>();
            data.push((name, (0..bytes).map(|j| (j as u8).wrapping_mul(seed)).collect::<Vec<u8>>()));
        }
        let mut w = Writer::in_memory(header).unwrap();
        for (name, bytes) in &data {
            bytes.chunks(piece).for_each(|b| w.write(name, b).unwrap());
        }
        let (written, total) = w.progress();
        prop_assert_eq!(written, total);
        let file = w.finish().unwrap();
        prop_assert_eq!(file.len() as u64, total);

        let f = read(file).unwrap();
        let mut expected = keys.clone();
        if let Some(n) = alignment {
            expected.insert("general.alignment".into(), Value::U32(n));
        }
        let got = f.keys().map(|(k, v)| (k.to_owned(), v.clone())).collect();
        prop_assert_eq!(expected, got);
        prop_assert_eq!(f.tensors().len(), shapes.len());
        for ((t, (dtype, dims)), (name, bytes)) in f.tensors().iter().zip(&shapes).zip(&data) {
            prop_assert_eq!((&t.name, t.dtype, &t.dims), (name, Some(*dtype), dims));
            prop_assert_eq!(&f.bytes(t)[..], &bytes[..]);
        }
    }
}

fn one_tensor() -> Header {
    let mut header = Header::new();
    header.tensor("w", &[4], DType::F32);
    header
}

#[test]
fn faulty_headers_are_refused() {
    let of = |change: &dyn Fn(&mut Header)| {
        let mut header = one_tensor();
        change(&mut header);
        Writer::in_memory(header).map(|_| ())
    };
    refused(of(&|h| _ = h.tensor("w", &[4], DType::F32)), &["tensor w", "declared twice"]);
    refused(of(&|h| _ = h.tensor(&"x".repeat(64), &[4], DType::F32)), &["64 bytes", "63"]);
    refused(of(&|h| _ = h.tensor("v", &[1; 5], DType::F32)), &["tensor v", "more than 4 dimensions"]);
    refused(of(&|h| _ = h.tensor("v", &[0, 4], DType::F32)), &["tensor v", "[0, 4]", "is 0"]);
    refused(of(&|h| _ = h.tensor("v", &[100], DType::Q4_K)), &["tensor v", "[100]", "256", "Q4_K"]);
    refused(of(&|h| _ = h.tensor("v", &[1 << 40, 1 << 40], DType::F32)), &["tensor v", "more elements"]);
    refused(of(&|h| _ = h.set("general.alignment", 3u32)), &["general.alignment", "power of two"]);
    refused(of(&|h| _ = h.set("general.alignment", 32u64)), &["general.alignment", "u32"]);
    let deep = (0..9).fold(Array::U8(vec![]), |a, _| Array::Array(vec![a]));
    refused(of(&|h| _ = h.set("k", deep.clone())), &["key k", "8 deep"]);
}

#[test]
fn a_key_set_twice_keeps_its_place_and_the_last_value() {
    let mut header = one_tensor();
    header.set("a", 1u32).set("b", 2u32).set("a", "x");
    assert_eq!(header.get("a"), Some(&Value::from("x")));
    let mut w = Writer::in_memory(header).unwrap();
    w.write("w", &[0; 16]).unwrap();
    let f = read(w.finish().unwrap()).unwrap();
    assert_eq!(f.keys().collect::<Vec<_>>(), [("a", &Value::from("x")), ("b", &Value::U32(2))]);
}

#[test]
fn tensors_must_come_whole_and_in_order() {
    let start = || {
        let mut header = one_tensor();
        header.tensor("v", &[2], DType::F32);
        Writer::in_memory(header).unwrap()
    };
    let mut w = start();
    w.write("w", &[0; 8]).unwrap();
    refused(w.write("v", &[0; 8]), &["tensor v", "while tensor w has 8 of its 16 bytes"]);
    refused(w.write("w", &[0; 9]), &["tensor w", "9 bytes written where 8 of its 16"]);
    refused(w.finish(), &["tensor w", "only 8 of its 16 bytes"]);
    let mut w = start();
    w.write("w", &[0; 16]).unwrap();
    w.write("v", &[0; 8]).unwrap();
    refused(w.write("w", &[]), &["after all declared tensors"]);
    refused(start().finish(), &["tensor w", "only 0 of its 16"]);
}

/// Names in a folder.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_appears_only_when_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.gguf");
    let mut w = Writer::create(&path, header(), false).unwrap();
    let during = names(dir.path());
    assert_eq!(during.len(), 1);
    assert!(during[0].starts_with(".out.") && during[0].ends_with(".gguf.part"), "{during:?}");
    fill(&mut w);
    w.finish().unwrap();
    assert_eq!(names(dir.path()), ["out.gguf"]);
    assert_eq!(fs::read(&path).unwrap(), sample());
    assert_eq!(File::open(&path).unwrap().tensors().len(), 3);
}

#[test]
fn a_dropped_or_incomplete_writer_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.gguf");
    let mut w = Writer::create(&path, header(), false).unwrap();
    w.write("x.weight", &[0; 40]).unwrap();
    drop(w);
    assert!(names(dir.path()).is_empty());
    let w = Writer::create(&path, header(), false).unwrap();
    refused(w.finish(), &["x.weight", "only 0"]);
    assert!(names(dir.path()).is_empty());
}

#[test]
fn an_existing_file_is_replaced_only_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.gguf");
    fs::write(&path, "precious").unwrap();
    refused(Writer::create(&path, header(), false).map(|_| ()), &["out.gguf", "exists already", "--force"]);
    let w = Writer::create(&path, header(), true).unwrap();
    drop(w);
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    let mut w = Writer::create(&path, header(), true).unwrap();
    fill(&mut w);
    w.finish().unwrap();
    assert_eq!(fs::read(&path).unwrap(), sample());
    // One that appears while ours is being written is not replaced either.
    let late = dir.path().join("late.gguf");
    let mut w = Writer::create(&late, header(), false).unwrap();
    fill(&mut w);
    fs::write(&late, "precious").unwrap();
    refused(w.finish(), &["late.gguf", "exists already"]);
    assert_eq!(fs::read(&late).unwrap(), b"precious");
    assert_eq!(names(dir.path()), ["late.gguf", "out.gguf"]);
}

#[test]
fn places_that_cannot_be_written_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let of = |path: &Path| Writer::create(path, header(), true).map(|_| ());
    refused(of(dir.path()), &["is a folder"]);
    refused(of(&dir.path().join("no/such/out.gguf")), &["no/such/out.gguf", "temporary file"]);
    if cfg!(unix) {
        refused(of(Path::new("/dev/null")), &["no regular file"]);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_file_that_no_disk_holds_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut header = one_tensor();
    // A pebibyte: past ext4's limit on one file, and past the space of any other system a test runs on.
    header.tensor("v", &[1 << 48], DType::F32);
    let e = Writer::create(&dir.path().join("out.gguf"), header, false).map(|_| ());
    refused(e, &["out.gguf", "no room", "1125899906842"]);
    assert!(names(dir.path()).is_empty());
}

#[test]
#[cfg(unix)]
fn the_file_has_the_permissions_of_any_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (path, plain) = (dir.path().join("out.gguf"), dir.path().join("plain"));
    let mut w = Writer::create(&path, header(), false).unwrap();
    fill(&mut w);
    w.finish().unwrap();
    fs::write(&plain, "").unwrap();
    let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode();
    assert_eq!(mode(&path), mode(&plain));
}
