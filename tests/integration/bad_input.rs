//! What people, files and disks do wrong: each ends with a message that names the thing and the way out, never a panic.

use std::{
    fs,
    io::Read,
    path::Path,
    process::{Command, Stdio},
};

use pumice_kernels::Bytes;
use pumice_models::gguf::{File, Header, Value, Writer};

use crate::program::{folder, picture, pumice, run, text, tiny, tiny_file};

/// Asks the model in `path`, without a picture.
fn ask(path: &Path) -> crate::program::Outcome {
    pumice(["chat", "-m", text(path), "-p", "Hi", "-n", "2", "-c", "256"])
}

/// The tiny model written anew, `change` deciding what becomes of each key and tensor (name, dims, data).
fn rewritten(
    mut key: impl FnMut(&str, &Value) -> Option<Value>,
    mut tensor: impl FnMut(&str, &[usize]) -> bool,
) -> Vec<u8> {
    let file = File::from_bytes("tiny", Bytes::new(tiny().to_vec())).expect("the tiny model");
    let mut header = Header::new();
    for (name, value) in file.keys() {
        if let Some(value) = key(name, value) {
            header.set(name, value);
        }
    }
    let kept: Vec<_> = file.tensors().iter().filter(|t| tensor(&t.name, &t.dims)).collect();
    for t in &kept {
        header.tensor(&t.name, &t.dims, file.dtype(t).expect("a known type"));
    }
    let mut writer = Writer::in_memory(header).expect("a writer");
    for t in &kept {
        writer.write(&t.name, &file.bytes(t)).expect("a write to memory");
    }
    writer.finish().expect("a whole file")
}

#[test]
fn damaged_models() {
    let dir = folder("damaged-models");
    let path = dir.join("model.gguf");
    let name = text(&path).to_string();
    let check = |bytes: &[u8], words: &[&str]| {
        fs::write(&path, bytes).expect("a file for the test");
        let mut all = vec![name.as_str()];
        all.extend_from_slice(words);
        ask(&path).fails_with(&all);
    };
    check(&tiny()[..tiny().len() / 2], &["cut short"]);
    check(&tiny()[..20], &[]);
    check(b"", &[]);
    let mut magic = tiny().to_vec();
    magic[..4].copy_from_slice(b"GGML");
    check(&magic, &["GGUF"]);
    let mut version = tiny().to_vec();
    version[4] = 77;
    check(&version, &["version"]);
    let mut counts = tiny().to_vec();
    counts[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    check(&counts, &[]);

    // The last tensor's entry in the header: dims, then type, then offset; found by its name.
    let file = File::from_bytes("tiny", Bytes::new(tiny().to_vec())).expect("the tiny model");
    let last = file.tensors().last().expect("tensors").clone();
    let at = tiny().windows(last.name.len()).rposition(|w| w == last.name.as_bytes()).expect("its name");
    let dims = at + last.name.len() + 4;
    let kind = dims + 8 * last.dims.len();
    let mut offset = tiny().to_vec();
    offset[kind + 4..kind + 12].copy_from_slice(&(1u64 << 40).to_le_bytes());
    check(&offset, &[last.name.as_str()]);
    let mut shape = tiny().to_vec();
    shape[dims..dims + 8].copy_from_slice(&(1u64 << 62).to_le_bytes());
    check(&shape, &[last.name.as_str()]);
    let mut unknown = tiny().to_vec();
    unknown[kind..kind + 4].copy_from_slice(&39u32.to_le_bytes());
    check(&unknown, &[last.name.as_str(), "39"]);

    let other = rewritten(
        |key, value| Some(if key == "general.architecture" { Value::from("qwen2") } else { value.clone() }),
        |_, _| true,
    );
    check(&other, &["qwen2"]);
    check(
        &rewritten(|_, v| Some(v.clone()), |name, _| name != "blk.1.ffn_up.weight"),
        &["blk.1.ffn_up.weight"],
    );
    check(
        &rewritten(|key, v| (key != "tokenizer.ggml.tokens").then(|| v.clone()), |_, _| true),
        &["tokenizer.ggml.tokens"],
    );
}

#[test]
fn flipped_bits_never_panic() {
    // Bits in the header; in weights a flip is just another weight.
    let dir = folder("flipped-bits");
    let path = dir.join("model.gguf");
    for seed in 0..24usize {
        let mut bytes = tiny().to_vec();
        let at = seed.wrapping_mul(2_654_435_761) % 6000;
        bytes[at] ^= 1 << (seed % 8);
        fs::write(&path, &bytes).expect("a file for the test");
        let outcome = ask(&path);
        assert!(matches!(outcome.code, Some(0 | 1)), "byte {at}: {:?} {}", outcome.code, outcome.stderr);
        assert!(!outcome.stderr.contains("panicked"), "byte {at}: {}", outcome.stderr);
    }
}

#[test]
fn files_that_are_no_models() {
    let dir = folder("no-models");
    ask(&dir.join("absent.gguf")).fails_with(&["absent.gguf"]);
    ask(&dir).fails_with(&[text(&dir)]);
    let half = pumice(["chat", "--mmproj", "half.gguf", "-p", "Hi"]);
    assert_eq!(half.code, Some(2), "a vision half without its text half: {}", half.stderr);
    assert_eq!(pumice(["chat", "--synthetic", "tiny", "--no-such-flag"]).code, Some(2));
}

#[test]
fn a_vision_half_of_another_model() {
    let dir = folder("other-mmproj");
    let source = pumice_quantize::synthetic::source("tiny").expect("the tiny model");
    let options = pumice_quantize::Options {
        layout: pumice_quantize::Layout::Pair,
        ..pumice_quantize::Options::new(pumice_quantize::Recipe::new(pumice_quantize::FileType::F16))
    };
    let report = pumice_quantize::run(&source, &dir.join("tiny.gguf"), &options, &()).expect("a pair");
    let [text_half, vision_half] = &report.files[..] else { panic!("{:?}", report.files) };
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/mlp336/hf");
    let other = dir.join("other.gguf");
    pumice(["quantize", text(&goldens), text(&other), "F16", "--split"]).succeeds();
    let both = |m: &Path, v: &Path| {
        pumice(["chat", "-m", text(m), "--mmproj", text(v), "-p", "Hi", "-n", "2", "-c", "256"])
    };
    both(text_half, vision_half).succeeds();
    both(&other, vision_half).fails_with(&[text(&other), text(vision_half)]);
    // A text model where the vision half should be.
    both(text_half, &other).fails_with(&[text(&other)]);
}

#[test]
fn pictures_that_are_none() {
    let dir = folder("no-pictures");
    let model = tiny_file(&dir);
    let show = |path: &Path, words: &[&str]| {
        let outcome =
            pumice(["chat", "-m", text(&model), "--image", text(path), "-p", "Hi", "-n", "2", "-c", "256"]);
        let mut all = vec![text(path)];
        all.extend_from_slice(words);
        outcome.fails_with(&all);
    };
    show(&dir.join("absent.png"), &[]);
    let words = dir.join("words.png");
    fs::write(&words, "These are words.").expect("a file for the test");
    show(&words, &["JPEG, PNG"]);
    let whole = fs::read(picture()).expect("the picture");
    let cut = dir.join("cut.png");
    fs::write(&cut, &whole[..whole.len() / 2]).expect("a file for the test");
    show(&cut, &["broken"]);
    // A PNG header that announces 100000 × 100000 pixels; its checksum is right.
    let mut huge = whole[..33].to_vec();
    huge[16..24].copy_from_slice(&[0, 1, 0x86, 0xA0, 0, 1, 0x86, 0xA0]);
    let crc = crc32(&huge[12..29]);
    huge[29..33].copy_from_slice(&crc.to_be_bytes());
    huge.extend_from_slice(&whole[33..]);
    let path = dir.join("huge.png");
    fs::write(&path, huge).expect("a file for the test");
    show(&path, &["100000", "limit"]);
}

/// PNG's checksum (ISO 3309), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xEDB8_8320 } else { c >> 1 })
    })
}

#[test]
fn questions_that_cannot_be_answered() {
    let dir = folder("questions");
    let model = tiny_file(&dir);
    let model = text(&model);
    pumice(["chat", "-m", model, "-p", "  "]).fails_with(&["empty"]);
    let long = "word ".repeat(25_000);
    pumice(["chat", "-m", model, "-p", &long]).fails_with(&["tokens", "-c"]);
    pumice(["chat", "-m", model, "-p", "Hi", "-c", "2000000000"]).fails_with(&["GB", "-c"]);
    pumice(["chat", "-m", model, "-p", "Hi", "--temp", "-1"]).is_refused_with(&["temperature"]);
    pumice(["chat", "-m", model, "-p", "Hi", "--top-p", "7"]).is_refused_with(&["top-p"]);
    pumice(["chat", "-m", model, "-p", "Hi", "--template", "nonsense"]).fails_with(&["nonsense", "llava_v1"]);
    pumice(["chat", "-m", model, "-p", "Hi", "-ctk", "q9"]).is_refused_with(&["q9", "q8_0"]);
    pumice(["chat", "-m", model, "-p", "Hi", "--isa", "mmx"]).is_refused_with(&["mmx", "scalar"]);
    let blind = pumice([
        "chat",
        "-m",
        model,
        "--no-mmproj",
        "-p",
        "Hi",
        "-n",
        "1",
        "-c",
        "256",
        "--image",
        text(&picture()),
    ]);
    blind.fails_with(&["vision"]);
}

#[test]
fn checkpoints_with_something_missing() {
    let dir = folder("checkpoints");
    let out = dir.join("out.gguf");
    let quantize = |source: &Path, words: &[&str]| {
        let outcome = pumice(["quantize", text(source), text(&out), "Q8_0"]);
        outcome.fails_with(words);
        assert!(!out.exists());
    };
    quantize(&dir.join("absent"), &["absent"]);
    let empty = dir.join("empty");
    fs::create_dir(&empty).expect("a folder for the test");
    quantize(&empty, &["empty"]);

    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let copy = |from: &str, to: &str| {
        let to = dir.join(to);
        fs::create_dir_all(&to).expect("a folder for the test");
        for entry in fs::read_dir(golden.join(from)).expect("a golden folder") {
            let entry = entry.expect("an entry");
            fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
        }
        to
    };
    let shard = copy("mlp336/authors", "shard");
    let gone = "pytorch_model-00002-of-00002.bin";
    fs::remove_file(shard.join(gone)).expect("a shard to remove");
    quantize(&shard, &[gone]);

    // The authors' folder holds no vision tower: the message names the flag.
    quantize(&golden.join("mlp336/authors"), &["--vision-tower"]);

    // A pickle that asks for a function. Same length, so the archive stays whole but for the checksum, which a stored
    // entry's reader must not need in order to refuse.
    let evil = copy("mlp336/bundled", "evil");
    let file = evil.join("pytorch_model.bin");
    let mut bytes = fs::read(&file).expect("a pickle");
    let (from, to) = (b"_rebuild_tensor_v2", b"_rebuild_tensor_vX");
    let at = bytes.windows(from.len()).position(|w| w == from).expect("the tensor builder's name");
    bytes[at..at + to.len()].copy_from_slice(to);
    fs::write(&file, bytes).expect("a file for the test");
    quantize(&evil, &["pytorch_model.bin", "_rebuild_tensor_vX"]);
}

#[test]
fn outputs_are_whole_or_absent() {
    let dir = folder("outputs");
    let model = tiny_file(&dir);
    let out = dir.join("out.gguf");
    fs::write(&out, "precious").expect("a file for the test");
    let again = ["quantize", text(&model), text(&out), "Q8_0"];
    pumice(again).fails_with(&[text(&out), "--force"]);
    assert_eq!(fs::read(&out).expect("the file"), b"precious");
    pumice(again.iter().chain(&["--force"])).succeeds();
    assert!(fs::read(&out).expect("the file").starts_with(b"GGUF"));
    pumice(["quantize", text(&model), text(&model), "Q8_0", "--force"]).fails_with(&[text(&model)]);
    pumice(["quantize", text(&model), text(&dir.join("x.gguf")), "Q9_Z"])
        .is_refused_with(&["Q9_Z", "Q4_K_M"]);
    pumice(["quantize", text(&model), "/nonexistent-folder/x.gguf", "Q8_0"])
        .fails_with(&["/nonexistent-folder"]);
    let left: Vec<_> =
        fs::read_dir(&dir).expect("the folder").map(|e| e.expect("an entry").file_name()).collect();
    assert_eq!(left.len(), 2, "only the model and the output: {left:?}");
}

/// A file system of 300 kB, where this process may mount one.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(path: std::path::PathBuf) -> Option<Self> {
        let out =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=300k", "tmpfs", text(&path)]).output();
        out.is_ok_and(|o| o.status.success()).then_some(Self(path))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

#[test]
fn a_full_disk_leaves_nothing() {
    let dir = folder("full-disk");
    let model = tiny_file(&dir);
    let small = dir.join("small");
    fs::create_dir(&small).expect("a folder for the test");
    let Some(disk) = SmallDisk::mount(small) else {
        println!("skipped: no file system can be mounted here");
        return;
    };
    let out = disk.0.join("out.gguf");
    pumice(["quantize", text(&model), text(&out), "F32"]).fails_with(&[text(&out)]);
    assert_eq!(fs::read_dir(&disk.0).expect("the folder").count(), 0, "nothing stays behind");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let dir = folder("sigpipe");
    let model = tiny_file(&dir);
    let mut child = Command::new(env!("CARGO_BIN_EXE_pumice"))
        .args(["chat", "-m", text(&model), "-p", "Hi", "-n", "400", "-c", "512", "--temp", "1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut stderr).expect("text");
    let status = child.wait().expect("an end");
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert_eq!(status.code(), Some(0), "{stderr}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_no_half_file() {
    let dir = folder("ctrl-c");
    let out = dir.join("out.gguf");
    let mut child = Command::new(env!("CARGO_BIN_EXE_pumice"))
        .args(["quantize", "synthetic:llava-1.5-13b", text(&out), "Q4_K_M"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // The signal comes once something is written: nearly all of 8 GB remain, whatever the machine's speed.
    let written = || {
        let files = fs::read_dir(&dir).expect("the folder");
        files.flatten().any(|file| file.metadata().is_ok_and(|about| about.len() > 0))
    };
    while !written() && child.try_wait().expect("a child").is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    run(Command::new("kill").args(["-INT", &child.id().to_string()])).succeeds();
    let mut stderr = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut stderr).expect("text");
    let status = child.wait().expect("an end");
    assert_eq!(status.code(), Some(130), "{stderr}");
    assert!(!out.exists());
    assert_eq!(fs::read_dir(&dir).expect("the folder").count(), 0, "nothing stays behind");
}
