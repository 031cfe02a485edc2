//! Damaged GGUF files: refused with the place and the reason, and never a panic.

use super::*;

/// A file of `n_tensors` and `n_keys` whose header goes on with `body`.
fn file(n_tensors: u64, n_keys: u64, body: &[u8]) -> Result<File, Error> {
    let counts = [n_tensors.to_le_bytes(), n_keys.to_le_bytes()].concat();
    read([b"GGUF\x03\0\0\0".as_slice(), &counts, body].concat())
}

fn string(s: &str) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes(), s.as_bytes()].concat()
}

fn key(name: &str, id: u32, value: &[u8]) -> Vec<u8> {
    [&string(name), id.to_le_bytes().as_slice(), value].concat()
}

fn tensor(name: &str, dims: &[u64], id: u32, offset: u64) -> Vec<u8> {
    let dims =
        [(dims.len() as u32).to_le_bytes().to_vec(), dims.iter().flat_map(|d| d.to_le_bytes()).collect()];
    [string(name), dims.concat(), id.to_le_bytes().to_vec(), offset.to_le_bytes().to_vec()].concat()
}

/// A file of these tensors and 4096 zero bytes.
fn tensors(infos: &[Vec<u8>]) -> Result<File, Error> {
    file(infos.len() as u64, 0, &[infos.concat(), vec![0; 4096]].concat())
}

#[test]
fn other_files_are_told_apart() {
    refused(read(vec![]), &["sample.gguf", "empty"]);
    refused(read(b"GGU".to_vec()), &["no GGUF file"]);
    refused(read(b"lmgg1234".to_vec()), &["before GGUF", "pumice quantize"]);
    refused(read(b"PK\x03\x04aaaa".to_vec()), &["zip"]);
    refused(read(b"version https://git-lfs.github.com/spec/v1".to_vec()), &["git lfs pull"]);
    refused(read(b"GGUF\x01\0\0\0".to_vec()), &["version 1", "newer file"]);
    refused(read(b"GGUF\0\0\0\x03".to_vec()), &["big-endian", "gguf-convert-endian"]);
    refused(read(b"GGUF\x09\0\0\0".to_vec()), &["version 9"]);
    refused(read(b"GGUF\x03\0".to_vec()), &["byte 4", "version"]);
    refused(File::open(Path::new("/nowhere/x.gguf")), &["/nowhere/x.gguf", "could not open"]);
    refused(File::open(Path::new(env!("CARGO_MANIFEST_DIR"))), &["folder"]);
}

#[test]
fn lying_counts_are_refused_before_memory_is_taken() {
    refused(file(u64::MAX, 0, &[]), &["byte 8", "number of tensors", "18446744073709551615"]);
    refused(file(0, 1 << 40, &[]), &["byte 16", "number of keys"]);
    refused(file(0, 1, &key("a", 8, &u64::MAX.to_le_bytes())), &["byte 37", "a: ", "18446744073709551615"]);
    for (id, name) in [(0u32, "u8"), (6, "f32"), (8, "str"), (9, "arr"), (12, "f64")] {
        let value = [id.to_le_bytes().as_slice(), &(1u64 << 60).to_le_bytes()].concat();
        refused(
            file(0, 1, &key("a", 9, &value)),
            &["byte 41", &format!("a (arr[{name}])"), "1152921504606846976"],
        );
    }
}

#[test]
fn keys_are_checked() {
    refused(file(0, 1, &key("a", 13, &[0; 20])), &["byte 33", "\"a\"", "value type 13"]);
    refused(file(0, 1, &key("a", 7, &[2])), &["byte 37", "a: a bool is 2"]);
    refused(
        file(
            0,
            1,
            &key("a", 8, &string("x").iter().map(|b| if *b == b'x' { 0xff } else { *b }).collect::<Vec<_>>()),
        ),
        &["byte 45", "not UTF-8"],
    );
    let array = |id: u32, bytes: &[u8]| [id.to_le_bytes().as_slice(), &1u64.to_le_bytes(), bytes].concat();
    refused(file(0, 1, &key("a", 9, &array(13, &[0; 20]))), &["array of type 13"]);
    refused(file(0, 1, &key("a", 9, &array(7, &[9]))), &["a bool is 9"]);
    let twice = [key("a", 0, &[1]), key("a", 0, &[2])].concat();
    refused(file(0, 2, &twice), &["byte 38", "\"a\" stands twice"]);
    let nested = |n: usize| (0..n).fold(array(0, &[1]), |inner, _| array(9, &inner));
    assert!(file(0, 1, &key("a", 9, &nested(7))).is_ok());
    refused(file(0, 1, &key("a", 9, &nested(8))), &["nested more than 8 deep"]);
}

#[test]
fn the_alignment_is_checked() {
    let aligned = |id: u32, n: &[u8]| file(0, 1, &key("general.alignment", id, n));
    assert!(aligned(4, &64u32.to_le_bytes()).is_ok());
    for n in [0u32, 4, 24, 1 << 21, u32::MAX] {
        refused(aligned(4, &n.to_le_bytes()), &["key general.alignment", "power of two"]);
    }
    refused(aligned(5, &(-8i32).to_le_bytes()), &["power of two"]);
    refused(aligned(7, &[1]), &["power of two"]);
    // Offsets are held against the file's own alignment.
    let body =
        [key("general.alignment", 4, &64u32.to_le_bytes()), tensor("t", &[4], 0, 32), vec![0; 256]].concat();
    refused(file(1, 1, &body), &["offset 32", "alignment 64"]);
}

#[test]
fn tensors_are_checked() {
    assert!(tensors(&[tensor("t", &[4], 0, 0)]).is_ok());
    assert_eq!(tensors(&[tensor("scalar", &[], 0, 0)]).unwrap().tensors()[0].bytes, 4);
    refused(tensors(&[tensor("t", &[1; 5], 0, 0)]), &["byte 24", "\"t\"", "5 dimensions"]);
    refused(tensors(&[tensor("t", &[4, 0], 0, 0)]), &["\"t\" [4, 0]", "a dimension is 0"]);
    refused(tensors(&[tensor("t", &[1 << 33, 1 << 33], 0, 0)]), &["more elements"]);
    refused(tensors(&[tensor("t", &[1 << 62], 0, 0)]), &["more elements"]);
    refused(tensors(&[tensor("t", &[100], 12, 0)]), &["\"t\" [100]", "256", "Q4_K"]);
    refused(tensors(&[tensor("t", &[4], 0, 8)]), &["offset 8", "alignment 32"]);
    refused(tensors(&[tensor("t", &[4], 0, 1 << 20)]), &["reaches past the file's end"]);
    refused(tensors(&[tensor("t", &[4], 0, u64::MAX - 31)]), &["reaches past"]);
    refused(
        tensors(&[tensor("t", &[4], 0, 0), tensor("t", &[4], 0, 32)]),
        &["byte 57", "\"t\" stands twice"],
    );
    refused(tensors(&[tensor("t", &[9], 0, 0), tensor("u", &[4], 0, 32)]), &["\"t\" and \"u\" overlap"]);
    // A number that nobody knows yet: listed, of unknown size.
    let f = tensors(&[tensor("t", &[4], 999, 0)]).unwrap();
    assert_eq!((f.tensors()[0].bytes, f.bytes(&f.tensors()[0]).len()), (0, 0));
    refused(f.need_tensor("t"), &["tensor t", "number 999"]);
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = sample();
    // The last tensor's padding may be missing.
    for len in 0..whole.len() - 22 {
        assert!(read(whole[..len].to_vec()).is_err(), "cut at {len}");
    }
    assert!(read(whole[..whole.len() - 22].to_vec()).is_ok());
}

#[test]
fn flipped_bits_never_panic() {
    let whole = [sample(), fs::read(golden("sample.gguf")).unwrap()];
    for (whole, i) in whole.iter().flat_map(|w| (0..w.len() * 8).map(move |i| (w, i))) {
        let mut bytes = whole.clone();
        bytes[i / 8] ^= 1 << (i % 8);
        if let Ok(f) = read(bytes) {
            f.tensors().iter().for_each(|t| assert_eq!(f.bytes(t).len(), t.bytes));
        }
    }
}
