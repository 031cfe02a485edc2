//! `pumice perplexity`: its figures are PyTorch's, a file does not differ from itself, and bad input is told.
//!
//! `tests/golden/perplexity.py` computed the expected figures from the same checkpoints, texts and rows.

use std::{
    fs,
    path::{Path, PathBuf},
};

use pumice_kernels::{
    Bytes, DType,
    cpu::{Cpu, CpuOptions, Isa},
};
use pumice_models::{
    gguf::File,
    llama::{Input, Llama, LlamaOptions, Logits},
};
use pumice_quantize::{FileType, Layout, synthetic::synthetic};
use pumice_runtime::{
    perplexity::{Options, Report, Subject, measure, windows},
    vocab::Vocabulary,
};
use serde_json::Value;

use crate::{
    golden::{Golden, folder as goldens, quantized, source},
    program::{folder, picture, pumice, text, tiny_file},
};

/// What f32 may change in a mean of −ln p or of a divergence: logits are off by some 1e-5 each (`deviation` in the goldens).
const NEAR: f64 = 1e-4;

/// The checkpoint in `tests/golden/NAME/hf` as an F32 file in `dir`.
fn f32_file(name: &'static str, dir: &Path) -> PathBuf {
    let dir = dir.join(name);
    fs::create_dir_all(&dir).expect("a folder");
    quantized(&source("hf", &Golden::open(name)), &dir, FileType::F32, Layout::OneFile);
    dir.join("model.gguf")
}

/// Runs `pumice perplexity --json` and gives its figures.
fn figures<'a>(args: impl IntoIterator<Item = &'a str>) -> Value {
    let outcome = pumice(["perplexity", "--json"].into_iter().chain(args));
    outcome.succeeds();
    serde_json::from_str(&outcome.stdout).expect("JSON")
}

/// Every number of `expected` stands in `found`, nearly.
#[track_caller]
fn check(found: &Value, expected: &Value, path: &str) {
    match expected {
        Value::Object(fields) => {
            for (name, value) in fields {
                check(&found[name], value, &format!("{path}.{name}"));
            }
        }
        _ => {
            let (a, b) = (found.as_f64().expect(path), expected.as_f64().expect(path));
            assert!((a - b).abs() <= NEAR * b.abs().max(1.0), "{path} is {a} and not {b}");
        }
    }
}

fn expected(key: &str) -> Value {
    let json = fs::read(goldens().join("perplexity.json")).expect("a committed file");
    serde_json::from_slice::<Value>(&json).expect("JSON")[key].clone()
}

#[test]
fn windows_of_a_text_and_the_divergence_between_two_models_are_pytorchs() {
    let dir = folder("perplexity-text");
    let (gqa, mlp) = (f32_file("gqa", &dir), f32_file("mlp336", &dir));
    let words = goldens().join("perplexity.txt");
    for ctx in ["64", "75"] {
        let args = ["-m", text(&gqa), "-f", text(&words), "-c", ctx, "--cache-type", "f32"];
        let expected = expected(&format!("gqa_against_mlp336_{ctx}"));
        let both = figures(args.into_iter().chain(["--kl-divergence", text(&mlp)]));
        check(&both, &expected, ctx);
        let alone = figures(args);
        assert_eq!((&alone["nll"], &alone["kl"]), (&both["nll"], &Value::Null));
        let first = figures(args.into_iter().chain(["--chunks", "2"]));
        assert_eq!((first["chunks"].as_u64(), first["chunks_in_all"].as_u64()), (Some(2), Some(2)));
    }
}

#[test]
fn answers_of_conversations_about_pictures_are_pytorchs() {
    let dir = folder("perplexity-rows");
    let (model, rows, images) = (f32_file("gqa", &dir), goldens().join("perplexity_rows.json"), goldens());
    let args = ["-m", text(&model), "-f", text(&rows), "--images", text(&images), "--template", "v1"];
    let found = figures(args.into_iter().chain(["--cache-type", "f32"]));
    check(&found, &expected("gqa_conversations"), "conversations");
    assert_eq!(found["chunks"], 2);
    // The picture counts: without it, the answers about it are foreseen otherwise.
    let blind =
        fs::read_to_string(&rows).expect("rows").replace("<image>\\n", "").replace("\"image\"", "\"was\"");
    let blind_rows = dir.join("blind.json");
    fs::write(&blind_rows, blind).expect("rows");
    let args = ["-m", text(&model), "-f", text(&blind_rows), "--images", text(&images), "--template", "v1"];
    assert_ne!(figures(args)["nll"]["value"], found["nll"]["value"]);
}

#[test]
fn a_file_does_not_differ_from_itself_and_a_coarser_one_does() {
    let dir = folder("perplexity-itself");
    let model = f32_file("gqa", &dir);
    let q4 = dir.join("q4.gguf");
    pumice(["quantize", text(&goldens().join("gqa/hf")), text(&q4), "Q4_0"]).succeeds();
    let (images, rows) = (goldens(), goldens().join("perplexity_rows.json"));
    let against = |file: &Path| {
        let args = ["-m", text(file), "-f", text(&rows), "--images", text(&images)];
        figures(args.into_iter().chain(["--template", "v1", "--kl-divergence", text(&model)]))
    };
    let same = against(&model);
    for (figure, value) in [("kl", 0.0), ("same_top", 1.0), ("delta_p", 0.0), ("perplexity_ratio", 1.0)] {
        assert_eq!(same[figure]["value"].as_f64(), Some(value), "{figure}");
    }
    assert_eq!(same["kl_spread"]["max"].as_f64(), Some(0.0));
    let coarse = against(&q4);
    assert!(coarse["kl"]["value"].as_f64().is_some_and(|kl| kl > 1e-3 && kl < 1.0), "{coarse}");
    assert!(coarse["same_top"]["value"].as_f64().is_some_and(|share| share < 1.0), "{coarse}");
}

#[test]
fn instruction_sets_and_cache_types_are_judged_as_well() {
    let dir = folder("perplexity-isa");
    let (model, words) = (f32_file("gqa", &dir), goldens().join("perplexity.txt"));
    let args = ["-m", text(&model), "-f", text(&words), "-c", "64", "--kl-divergence", text(&model)];
    let found = figures(args.into_iter().chain(["--cache-type", "f32", "--reference-isa", "scalar"]));
    assert!(found["kl"]["value"].as_f64().is_some_and(|kl| kl < 1e-8), "{found}");
    let found = figures(args.into_iter().chain(["--cache-type", "q8_0", "--reference-cache-type", "f32"]));
    assert!(found["kl"]["value"].as_f64().is_some_and(|kl| kl > 1e-8 && kl < 1e-2), "{found}");
}

/// A window whose second half takes two pieces of logits, against one token at a time and plain f64.
#[test]
fn pieces_of_a_long_window_are_the_steps_one_by_one() {
    const CTX: usize = 1100;
    let bytes = Bytes::new(synthetic("tiny", FileType::F32).expect("a model"));
    let file = File::from_bytes("tiny", bytes).expect("a model");
    let cpu = || Cpu::new(CpuOptions { threads: 1, isa: Some(Isa::best()) });
    let options = Options { ctx: CTX, cache_type: DType::F32, memory: None };
    let mut subject = Subject::open(&file, None, Box::new(cpu()), &options).expect("a model");
    let words = fs::read_to_string(goldens().join("perplexity.txt")).expect("a text").repeat(4);
    let mut passages = windows(subject.vocabulary(), &words, CTX).expect("windows");
    passages.truncate(2);
    let mut calls = 0;
    let measured = measure(&mut subject, None, &passages, &mut |progress| {
        calls += 1;
        // Stopped as soon as the first passage is whole.
        progress.passages == 0
    })
    .expect("a measurement");
    assert!(calls > 4);
    assert_eq!((measured.passages, measured.positions.len()), (1, CTX - 1 - CTX / 2));

    let b = &mut cpu();
    let load = LlamaOptions { ctx: CTX, cache_type: DType::F32, ..LlamaOptions::default() };
    let mut llama = Llama::load(&file, b, &load).expect("a model");
    let vocabulary = Vocabulary::from_gguf(&file).expect("a vocabulary");
    let mut ids = vec![vocabulary.bos().expect("a beginning")];
    ids.extend(vocabulary.encode(words.strip_suffix('\n').expect("lines"), false));
    let mut nll = Vec::new();
    let mut logits = vec![0.0f32; llama.config().vocab];
    for at in 0..CTX - 1 {
        llama
            .forward(b, &[Input::Tokens(&ids[at..=at])], at, Logits::Last, &mut |_, _| true)
            .expect("a step");
        if at >= CTX / 2 {
            llama.logits(b, &mut logits).unwrap();
            let words = &logits[..vocabulary.len().min(logits.len())];
            let sum: f64 = words.iter().map(|l| f64::from(*l).exp()).sum();
            nll.push(sum.ln() - f64::from(logits[ids[at + 1] as usize]));
        }
    }
    for (found, expected) in measured.positions.iter().zip(&nll) {
        assert!((found.nll - expected).abs() < 1e-4, "{} and not {expected}", found.nll);
    }
    let report = Report::of(&measured.positions).expect("positions");
    let mean = nll.iter().sum::<f64>() / nll.len() as f64;
    assert!((report.perplexity.value / mean.exp() - 1.0).abs() < 1e-4);
}

#[test]
fn without_a_model_the_demo_model_is_measured_and_a_person_sees_a_table() {
    let words = goldens().join("perplexity.txt");
    let outcome = pumice(["perplexity", "-f", text(&words), "-c", "128", "--chunks", "1"]);
    outcome.succeeds();
    assert!(outcome.stderr.contains("demo model"), "{}", outcome.stderr);
    assert!(outcome.stdout.starts_with("perplexity "), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("63 tokens in 1 windows of 128"), "{}", outcome.stdout);
}

#[test]
fn bad_input_is_told() {
    let dir = folder("perplexity-bad");
    let model = tiny_file(&dir);
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        fs::write(&path, bytes).expect("a file");
        path
    };
    let ask = |file: &Path, more: &[&str]| {
        let args = ["perplexity", "-m", text(&model), "-f", text(file)];
        pumice(args.iter().chain(more))
    };
    ask(&file("short.txt", b"a cat"), &[]).fails_with(&["short.txt", "tokens", "512", "-c N"]);
    ask(&file("latin.txt", b"caf\xE9"), &[]).fails_with(&["latin.txt", "UTF-8", "byte 3"]);
    ask(&dir.join("absent.txt"), &[]).fails_with(&["absent.txt"]);
    let words = goldens().join("perplexity.txt");
    for wrong in [["--chunks", "0"], ["-c", "0"], ["--cache-type", "q4_0"], ["--isa", "mmx"]] {
        ask(&words, &wrong).is_refused_with(&wrong);
    }
    ask(&words, &["-c", "64", "--kl-divergence", text(&f32_file("gqa", &dir))])
        .fails_with(&["cannot be compared", "tokens"]);
    ask(&words, &["-c", "64", "--kl-divergence", "absent.gguf"]).fails_with(&["absent.gguf"]);

    let images = picture();
    let images = ["--images", text(images.parent().expect("a folder"))];
    ask(&words, &images).fails_with(&["perplexity.txt", "row 0", "conversations"]);
    let talk = |image: &str| {
        let turns = r#"[{"from":"human","value":"<image>\nWhat?"},{"from":"gpt","value":"A circle."}]"#;
        format!(r#"[{{"id":"x","image":"{image}","conversations":{turns}}}]"#)
    };
    let missing = file("missing.json", talk("absent.png").as_bytes());
    ask(&missing, &images).fails_with(&["missing.json row 0 (id \"x\")", "absent.png"]);
    let good = file("good.json", talk("shapes.png").as_bytes());
    ask(&good, &images).succeeds();
    ask(&good, &[images[0], images[1], "-c", "16"]).fails_with(&["good.json", "16 tokens", "-c N"]);
    let broken = file("broken.json", talk("not.png").as_bytes());
    file("not.png", b"no picture");
    ask(&broken, &["--images", text(&dir)]).fails_with(&["not.png"]);
    let noted = ask(&good, &["-c", "8"]);
    noted.succeeds();
    assert!(noted.stderr.contains("--images FOLDER"), "{}", noted.stderr);
    let warned = ask(
        &file("long.txt", "a cat and a dog ".repeat(20_000).as_bytes()),
        &["-c", "100000", "--chunks", "0"],
    );
    assert!(warned.stderr.contains("trained on"), "{}", warned.stderr);
}
