//! Checkpoints saved by PyTorch and safetensors (`golden/make_checkpoints.py`) read here; damaged and hostile ones do not.

use std::{
    fs,
    path::{Path, PathBuf},
};

use pumice_kernels::Bytes;
use pumice_models::{
    Error,
    checkpoint::{Element, Folder, Kind, pickle, read},
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/checkpoint").join(name)
}

/// Elements of tensor `name` as f32.
fn floats(f: &Folder, name: &str) -> Vec<f32> {
    let t = f.need_tensor(name).unwrap();
    let mut out = vec![f32::NAN; t.elements()];
    t.to_f32(0, &mut out).unwrap();
    out
}

/// The values that the script fills tensors with.
fn ramp(n: usize) -> Vec<f32> {
    (0..n).map(|i| i as f32 / 8.0 - 1.0).collect()
}

/// The error's message, which must contain all `parts`.
#[track_caller]
fn refused<T>(result: Result<T, Error>, parts: &[&str]) {
    let message = result.err().expect("should have been refused").to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

/// A copy of a golden folder that a test may damage.
fn copy(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden(name)).unwrap() {
        let from = entry.unwrap().path();
        fs::copy(&from, dir.path().join(from.file_name().unwrap())).unwrap();
    }
    dir
}

#[test]
fn safetensors_shards_read_as_one() {
    let f = Folder::open(&golden("safetensors")).unwrap();
    assert_eq!((f.kind(), f.files().len(), f.tensors().len()), (Kind::Model, 2, 4));
    let a = f.need_tensor("a.weight").unwrap();
    assert_eq!((&a.shape[..], a.element, a.rows(), a.cols()), (&[2, 3][..], Element::F32, 2, 3));
    assert_eq!(floats(&f, "a.weight"), ramp(6));
    assert_eq!(floats(&f, "b.weight"), ramp(4));
    assert_eq!(floats(&f, "c.weight"), ramp(6));
    assert_eq!(f.config().unwrap()["hidden_size"], 4);
    assert!(f.json("generation_config.json").unwrap().is_none());
    refused(a.to_f32(4, &mut [0.0; 3]), &["a.weight", "4..7", "[2, 3]"]);
    refused(f.need_tensor("ids").unwrap().to_f32(0, &mut [0.0]), &["I64", "float16"]);
    refused(f.need_tensor("d"), &["d: missing"]);
}

#[test]
fn a_row_converts_alone() {
    let f = Folder::open(&golden("safetensors")).unwrap();
    let mut row = [0.0; 2];
    f.need_tensor("c.weight").unwrap().to_f32(2, &mut row).unwrap();
    assert_eq!(row[..], ramp(6)[2..4]);
}

#[test]
fn long_f16_tensors_convert_across_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("half.safetensors");
    let n = 2500;
    let mut file = format!("{{\"w\":{{\"dtype\":\"F16\",\"shape\":[{n}],\"data_offsets\":[0,{}]}}}}", 2 * n)
        .into_bytes();
    let mut bytes = (file.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut file);
    let values: Vec<f32> =
        (0..n).map(|i| (i as f32).sin()).map(|x| half::f16::from_f32(x).to_f32()).collect();
    bytes.extend(values.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()));
    fs::write(&path, bytes).unwrap();
    let f = Folder::open(&path).unwrap();
    assert_eq!(f.kind(), Kind::File);
    assert_eq!(floats(&f, "w"), values);
}

#[test]
fn pytorch_shards_read_with_all_their_views() {
    let f = Folder::open(&golden("torch")).unwrap();
    assert_eq!((f.kind(), f.files().len(), f.tensors().len()), (Kind::Model, 2, 14));
    let whole = ramp(24);
    assert_eq!(floats(&f, "whole"), whole);
    assert_eq!(floats(&f, "rows"), whole[6..18]);
    assert_eq!(f.need_tensor("rows").unwrap().shape, [2, 6]);
    let transposed: Vec<f32> = (0..24).map(|i| whole[i % 4 * 6 + i / 4]).collect();
    assert_eq!(floats(&f, "transposed"), transposed);
    assert_eq!(f.need_tensor("transposed").unwrap().shape, [6, 4]);
    let columns: Vec<f32> = (0..8).map(|i| whole[i / 2 * 6 + 2 + i % 2]).collect();
    assert_eq!(floats(&f, "columns"), columns);
    assert_eq!(floats(&f, "half"), ramp(4));
    assert_eq!(floats(&f, "brain"), ramp(4));
    assert_eq!(floats(&f, "double"), ramp(2));
    assert_eq!(floats(&f, "parameter"), ramp(3));
    assert_eq!(floats(&f, "scalar"), [2.5]);
    assert_eq!(f.need_tensor("scalar").unwrap().shape, [0usize; 0]);
    assert_eq!((floats(&f, "empty").len(), f.need_tensor("empty").unwrap().cols()), (0, 4));
    let bytes =
        |name: &str| (f.need_tensor(name).unwrap().element, f.need_tensor(name).unwrap().bytes.to_vec());
    assert_eq!(bytes("int32"), (Element::I32, [(-1i32).to_le_bytes(), 2i32.to_le_bytes()].concat()));
    assert_eq!(bytes("bytes"), (Element::U8, vec![0, 255]));
    assert_eq!(bytes("yes"), (Element::Bool, vec![1, 0]));
    let ids = [0i64, 1, 2].map(i64::to_le_bytes).concat();
    assert_eq!(bytes("position_ids"), (Element::I64, ids));
    // Views of one storage share its bytes; only what has gaps was copied.
    let at = |name: &str| f.need_tensor(name).unwrap().bytes.as_ptr().addr();
    assert_eq!(at("rows"), at("whole") + 24);
}

#[test]
fn lora_and_projector_folders_open() {
    let f = Folder::open(&golden("lora")).unwrap();
    assert_eq!((f.kind(), f.tensors().len(), f.files().len()), (Kind::Adapter, 2, 2));
    assert_eq!(f.json("adapter_config.json").unwrap().unwrap()["lora_alpha"], 4);
    assert_eq!(floats(&f, "base_model.model.model.mm_projector.0.weight"), ramp(8));
    let p = Folder::open(&golden("projector")).unwrap();
    assert_eq!((p.kind(), floats(&p, "model.mm_projector.0.weight")), (Kind::Projector, ramp(8)));
    refused(p.config(), &["projector", "config.json"]);
}

#[test]
fn other_weights_in_the_folder_are_passed_over() {
    let dir = copy("safetensors");
    fs::copy(golden("projector/mm_projector.bin"), dir.path().join("mm_projector.bin")).unwrap();
    let f = Folder::open(dir.path()).unwrap();
    assert_eq!(f.tensors().len(), 4);
    assert_eq!(f.passed_over(), [dir.path().join("mm_projector.bin")]);
}

#[test]
fn a_missing_shard_is_named() {
    let dir = copy("safetensors");
    fs::remove_file(dir.path().join("model-00002-of-00002.safetensors")).unwrap();
    refused(
        Folder::open(dir.path()),
        &["model-00002-of-00002.safetensors is missing", &dir.path().display().to_string()],
    );
}

#[test]
fn an_index_that_lies_is_refused() {
    let dir = copy("safetensors");
    let index = dir.path().join("model.safetensors.index.json");
    let text = fs::read_to_string(&index).unwrap();
    fs::write(&index, text.replace("\"ids\"", "\"odd\"")).unwrap();
    refused(Folder::open(dir.path()), &["odd", "model-00002-of-00002.safetensors", "promises"]);
    fs::write(&index, text.replace("\"model-00002", "\"../model-00002")).unwrap();
    refused(Folder::open(dir.path()), &["weight_map", "no plain file name"]);
    fs::write(&index, "{\"weight_map\":3}").unwrap();
    refused(Folder::open(dir.path()), &["weight_map"]);
    fs::write(&index, "{").unwrap();
    refused(Folder::open(dir.path()), &["model.safetensors.index.json", "JSON"]);
}

#[test]
fn a_pickle_that_would_run_a_command_is_refused() {
    // Python pickles os.system under the name of the module that implements it.
    refused(
        Folder::open(&golden("refused/evil.bin")),
        &["evil.bin", "pickle asks for posix.system", "refused"],
    );
}

#[test]
fn old_and_compressed_files_are_refused_with_a_way_out() {
    refused(Folder::open(&golden("refused/legacy.bin")), &["before version 1.6", "torch.save"]);
    refused(Folder::open(&golden("refused/deflated.bin")), &["compressed", "torch.save"]);
    refused(Folder::open(&golden("refused/nested.bin")), &["no tensors by name", "state_dict"]);
    refused(Folder::open(&golden("refused")), &["no weights here", "model.safetensors", "mm_projector.bin"]);
    refused(Folder::open(&golden("nowhere")), &["does not exist"]);
    let of = |bytes: &[u8]| read(Path::new("x"), Bytes::new(bytes.to_vec()));
    refused(of(b""), &["empty"]);
    refused(of(b"GGUF...."), &["GGUF"]);
    refused(of(b"version https://git-lfs.github.com/spec/v1\n"), &["git lfs pull"]);
    refused(of(b"hello there"), &["neither"]);
    refused(of(b"PK\x03\x04"), &["zip"]);
}

#[test]
fn safetensors_headers_that_lie_are_refused() {
    let of = |header: &str, data: usize| {
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat();
        read(Path::new("x.safetensors"), Bytes::new(bytes))
    };
    let tensor = |shape: &str, to: u64| {
        format!("{{\"w\":{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":[0,{to}]}}}}")
    };
    assert_eq!(of(&tensor("[2,2]", 16), 16).unwrap()[0].shape, [2, 2]);
    refused(of(&tensor("[2,3]", 16), 16), &["x.safetensors", "header"]);
    refused(of(&tensor("[2,2]", 16), 15), &["x.safetensors", "tensor w", "0..16", "end at 15"]);
    refused(of(&tensor("[4294967296,4294967296]", 16), 16), &["header"]);
    refused(of("{\"w\":3}", 0), &["header"]);
    let long = [u64::MAX.to_le_bytes().as_slice(), b"{}"].concat();
    refused(read(Path::new("x"), Bytes::new(long)), &["does not begin as a safetensors file"]);
    let cut = [100u64.to_le_bytes().as_slice(), b"{}"].concat();
    refused(read(Path::new("x"), Bytes::new(cut)), &["header of 100 bytes"]);
}

/// The first PyTorch shard, each of its files changed by `change`.
fn repacked(change: impl Fn(&str, &mut Vec<u8>)) -> Result<usize, Error> {
    use std::io::{Cursor, Read, Write};
    let file = fs::File::open(golden("torch/pytorch_model-00001-of-00002.bin")).unwrap();
    let mut old = zip::ZipArchive::new(file).unwrap();
    let mut new = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for i in 0..old.len() {
        let mut entry = old.by_index(i).unwrap();
        let (name, mut data) = (entry.name().unwrap().into_owned(), Vec::new());
        entry.read_to_end(&mut data).unwrap();
        change(name.split_once('/').unwrap().1, &mut data);
        if !data.is_empty() {
            new.start_file(name, options).unwrap();
            new.write_all(&data).unwrap();
        }
    }
    read(Path::new("p.bin"), Bytes::new(new.finish().unwrap().into_inner())).map(|t| t.len())
}

#[test]
fn pytorch_files_whose_parts_disagree_are_refused() {
    assert_eq!(repacked(|_, _| ()).unwrap(), 6);
    let on = |file: &'static str, change: fn(&mut Vec<u8>)| {
        repacked(move |name, data| {
            if name == file {
                change(data)
            }
        })
    };
    refused(on("data/0", |d| d.truncate(92)), &["tensor whole", "storage of 24 F32 elements has 92 bytes"]);
    refused(on("data/0", |d| d.push(0)), &["tensor whole", "97 bytes"]);
    refused(on("data/0", Vec::clear), &["tensor whole", "storage \"0\" is not in the file"]);
    refused(on("byteorder", |d| *d = b"big".to_vec()), &["big-endian"]);
    refused(on("data.pkl", Vec::clear), &["no PyTorch checkpoint"]);
    // Strides and offsets that leave the storage: 6 elements from one row to the next become 200.
    let stride = |d: &mut Vec<u8>| {
        let at = d.windows(4).position(|w| w == b"K\x06K\x01").unwrap();
        d[at + 1] = 200;
    };
    refused(on("data.pkl", stride), &["tensor whole", "strides [200, 1]", "storage of 24"]);
}

/// A pickle of protocol 2 that ends in `body`.
fn pickled(body: &[u8]) -> Result<usize, Error> {
    let data = [b"\x80\x02", body, b"."].concat();
    pickle::tensors(Path::new("p.bin"), 100, &data).map(|t| t.len())
}

#[test]
fn every_way_to_run_code_is_refused_by_name() {
    refused(pickled(b"cos\nsystem\n(X\x02\x00\x00\x00lstR"), &["asks for os.system", "refused"]);
    refused(pickled(b"X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93"), &["asks for os.system"]);
    refused(pickled(b"cbuiltins\neval\n"), &["builtins.eval"]);
    refused(pickled(b"ctorch.storage\n_load_from_bytes\n"), &["torch.storage._load_from_bytes"]);
    refused(pickled(b"ctorch\nload\n"), &["torch.load"]);
    refused(pickled(b"(ios\nsystem\n"), &["0x69", "INST"]);
    refused(pickled(b"(ccollections\nOrderedDict\no"), &["0x6f", "OBJ"]);
    refused(pickled(b"ccollections\nOrderedDict\n)\x81"), &["0x81", "NEWOBJ"]);
    refused(pickled(b"\x82\x01"), &["0x82", "EXT"]);
    // Names that are allowed must not become anything but tensors.
    refused(pickled(b"ccollections\nOrderedDict\n]\x85R"), &["cannot be called"]);
    refused(pickled(b"ctorch\nFloatStorage\n)R"), &["cannot be called"]);
}

#[test]
fn damaged_pickles_are_refused() {
    assert_eq!(pickled(b"}").unwrap(), 0);
    refused(pickled(b"]"), &["byte 104", "no dictionary"]);
    refused(pickled(b""), &["empty stack"]);
    refused(pickled(b"t"), &["no mark"]);
    refused(pickled(b"h\x05"), &["item 5"]);
    refused(pickled(b"X\xff\xff\xff\xffab"), &["ends in the middle"]);
    refused(pickled(b"X\x01\x00\x00\x00\xff"), &["not UTF-8"]);
    refused(pickled(b"}K\x01a"), &["no list"]);
    refused(pickled(b"}(K\x01u"), &["no dictionary"]);
    refused(
        pickle::tensors(Path::new("p"), 0, &vec![b'}'; pickle::MAX_BYTES + 1]),
        &["no checkpoint of weights"],
    );
    // Deep nesting and self-reference must neither overflow the stack nor hang.
    assert!(pickled(&vec![b'\x85'; 1 << 20]).is_err());
    let deep = [vec![b'N'], vec![b'\x85'; 1 << 20], vec![b'}']].concat();
    assert_eq!(pickled(&deep).unwrap(), 0);
    assert_eq!(pickled(b"}q\x00X\x01\x00\x00\x00xh\x00s").unwrap(), 0);
}

/// All golden files of weights that read well.
fn files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in ["safetensors", "torch", "lora", "projector"] {
        for entry in fs::read_dir(golden(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e != "json") {
                files.push(path);
            }
        }
    }
    files.sort();
    assert_eq!(files.len(), 7);
    files
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    for path in files() {
        let whole = fs::read(&path).unwrap();
        for len in 0..whole.len() {
            let result = read(&path, Bytes::new(whole[..len].to_vec()));
            assert!(result.is_err(), "{} cut at {len}", path.display());
        }
    }
}

#[test]
fn flipped_bits_never_panic() {
    for path in files() {
        let whole = fs::read(&path).unwrap();
        for bit in 0..whole.len() * 8 {
            // One bit of each byte, another one from byte to byte: some thousand cases in a second.
            if bit / 8 % 8 != bit % 8 {
                continue;
            }
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let Ok(tensors) = read(&path, Bytes::new(bytes)) else { continue };
            for t in tensors {
                let mut out = vec![0.0; t.elements()];
                let converted = t.to_f32(0, &mut out);
                assert!(converted.is_ok() || !matches!(t.element, Element::F32 | Element::F16), "{t:?}");
            }
        }
    }
}
