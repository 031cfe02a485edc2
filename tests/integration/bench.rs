//! `pumice bench` on a tiny model: its rows, their forms, runs saved and compared, and what it says of wrong requests.

use std::{
    fs,
    path::{Path, PathBuf},
};

use pumice_kernels::Bytes;
use pumice_models::gguf::File;
use pumice_quantize::{FileType, Layout, Options, Recipe, run, synthetic};
use serde_json::Value;

use crate::program::{Outcome, folder, pumice, text, tiny_file};

/// Few and small tests, so that a slow machine is through in a second.
const SMALL: [[&str; 2]; 4] = [["-p", "24"], ["-n", "3"], ["-r", "2"], ["-t", "1"]];

/// Small tests without cold loads; `more` may name other sizes.
fn bench(model: &Path, more: &[&str]) -> Outcome {
    let small = SMALL.iter().filter(|[flag, _]| !more.contains(flag)).flatten();
    let all = ["bench", "-m", text(model), "--no-cold"].into_iter().chain(small.copied());
    pumice(all.chain(more.iter().copied()))
}

/// A model without eyes.
fn blind(folder: &Path) -> PathBuf {
    let path = folder.join("blind.gguf");
    let source = synthetic::source("tiny").expect("the tiny model");
    let options = Options { layout: Layout::Pair, ..Options::new(Recipe::new(FileType::Q8_0)) };
    run(&source, &path, &options, &()).expect("a file for the test");
    path
}

fn rows(outcome: &Outcome) -> Vec<Value> {
    outcome.succeeds();
    serde_json::from_str(&outcome.stdout).expect("an array of rows")
}

fn row<'a>(rows: &'a [Value], test: &str) -> &'a Value {
    rows.iter().find(|row| row["test"] == test).unwrap_or_else(|| panic!("no {test} in {rows:?}"))
}

fn number(row: &Value, field: &str) -> f64 {
    row[field].as_f64().unwrap_or_else(|| panic!("{field} of {row}"))
}

#[test]
fn every_row_is_whole_and_its_figures_fit_each_other() {
    let model = tiny_file(&folder("bench-rows"));
    let rows = rows(&bench(&model, &["-o", "json", "--depth", "0,16", "--image", "2"]));
    let names: Vec<_> = rows.iter().map(|row| row["test"].as_str().expect("a name")).collect();
    let tests = ["pp24", "pp24 @ d16", "tg3", "tg3 @ d16"];
    let waits = ["load warm", "image", "photo x2", "second question", "second, no image", "memory"];
    assert_eq!(names, waits.iter().chain(&tests).copied().collect::<Vec<_>>());
    for row in &rows {
        for field in ["run_id", "build_commit", "build_version", "cpu_info", "os", "isa", "test_time"] {
            assert!(row[field].as_str().is_some_and(|s| !s.is_empty()), "{field} of {row}");
        }
        assert_eq!((&row["backends"], &row["n_threads"]), (&"CPU".into(), &1.into()));
        assert_eq!(row["model_type"], "llava 3M Q4_K_M random");
        assert_eq!(row["run_id"], rows[0]["run_id"]);
        let samples = row["samples_ns"].as_array().expect("samples");
        let expected = match row["test"].as_str() {
            Some("memory") => 0,
            Some("image") => 4,
            _ => 2,
        };
        assert_eq!(samples.len(), expected, "{row}");
        let sum: f64 = samples.iter().filter_map(Value::as_f64).sum();
        assert!((number(row, "avg_ns") * expected as f64 - sum).abs() <= expected as f64, "{row}");
    }
    for (test, tokens) in [("pp24", 24.0), ("tg3 @ d16", 3.0)] {
        let row = row(&rows, test);
        let rates = row["samples_ts"].as_array().expect("rates");
        for (rate, ns) in rates.iter().zip(row["samples_ns"].as_array().expect("samples")) {
            let (rate, ns) = (rate.as_f64().expect("a rate"), ns.as_f64().expect("a time"));
            assert!((rate * ns / 1e9 / tokens - 1.0).abs() < 1e-6, "{row}");
        }
    }
    assert_eq!(number(row(&rows, "tg3 @ d16"), "n_depth"), 16.0);
}

/// What rows must be by their definition, whatever the machine.
#[test]
fn rows_measure_what_they_say() {
    let model = tiny_file(&folder("bench-meaning"));
    let rows = rows(&bench(&model, &["-o", "json", "--depth", "0,64"]));
    let photo = row(&rows, "photo");
    assert!(
        number(photo, "n_prompt") > 16.0 + 20.0,
        "16 rows of the picture, template and question: {photo}"
    );
    let second = row(&rows, "second question");
    // The answer's one token may be an end, which stands in the template already.
    let (with, without) = (number(second, "n_prompt"), number(row(&rows, "second, no image"), "n_prompt"));
    assert!(
        (with - without).abs() <= 1.0 && with < 40.0,
        "the second question computes no picture: {second}"
    );
    // After the first question and its one token, all of them held.
    let held = number(second, "n_depth") - number(photo, "n_prompt");
    assert!((-1.0..=1.0).contains(&held), "{second} after {photo}");
    for (photo, image) in photo["samples_ns"]
        .as_array()
        .into_iter()
        .flatten()
        .zip(row(&rows, "image")["samples_ns"].as_array().into_iter().flatten())
    {
        assert!(photo.as_u64() > image.as_u64(), "a photograph's wait holds that of its picture");
    }
    // Mapped weights and more.
    let size = number(&rows[0], "model_size") + number(&rows[0], "mmproj_size");
    let file = fs::metadata(&model).expect("the file").len() as f64;
    assert!(size < file && size > 0.9 * file, "{size} of {file}");
    let memory = row(&rows, "memory");
    let (peak, limit) = (number(memory, "peak_memory"), number(memory, "memory_limit"));
    assert!(peak > size && peak < limit && limit > file + 300e6 && limit < file + 310e6, "{memory}");
    // Depth is more to look at, and a token reads the weights once: of 24 positions in one go more than of one.
    let work = |test: &str| (number(row(&rows, test), "flops"), number(row(&rows, test), "bytes"));
    assert!(work("tg3 @ d64").0 > work("tg3").0 && work("tg3 @ d64").1 > work("tg3").1);
    // (Not eight times as much: the last block's rows count only where their logits are wanted.)
    assert!(work("pp24").0 > 4.0 * work("tg3").0 && work("pp24").1 < 4.0 * work("tg3").1);
    let weights = number(&rows[0], "model_size");
    // All of the text model but the table of embeddings, of which a token reads one row.
    assert!(work("tg3").1 > 3.0 * 0.8 * weights && work("tg3").1 < 3.0 * 1.5 * weights, "{:?}", work("tg3"));
}

#[test]
fn tables_csv_and_lines_of_json() {
    let model = tiny_file(&folder("bench-forms"));
    let table = bench(&model, &[]);
    for words in ["llava 3M Q4_K_M random", "test", "t/s", "median", "pp24", "photo", " MB"] {
        assert!(table.succeeds().stdout.contains(words), "no {words:?} in: {}", table.stdout);
    }
    let md = bench(&model, &["-o", "md", "--image", "0", "--ops"]);
    let bars: Vec<_> = md.succeeds().stdout.lines().take_while(|l| !l.is_empty()).collect();
    assert_eq!(bars.len(), 2 + 4, "load, memory, pp, tg: {}", md.stdout);
    assert!(bars[0].contains("| commit ") && bars[0].contains("| threads |") && bars[1].contains("---:"));
    assert!(md.stdout.contains("matmul") && md.stdout.contains("GFLOP/s"), "{}", md.stdout);
    let csv = bench(&model, &["-o", "csv", "--image", "0", "-n", "0"]);
    let lines: Vec<_> = csv.succeeds().stdout.lines().collect();
    assert_eq!(lines.len(), 1 + 3, "load, memory, pp: {}", csv.stdout);
    for name in ["model_type", "n_prompt", "n_gen", "n_threads", "avg_ts", "stddev_ts", "build_commit"] {
        assert!(lines[0].split(',').any(|column| column == name), "llama-bench's {name} in {}", lines[0]);
    }
    let lines = bench(&model, &["-o", "jsonl", "--image", "0", "-p", "0"]);
    let each: Vec<Value> =
        lines.succeeds().stdout.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    assert_eq!(each.len(), 3);
    assert_eq!(row(&each, "tg3")["type_k"], "f16");
}

#[test]
fn runs_are_saved_and_compared() {
    let dir = folder("bench-compare");
    let model = tiny_file(&dir);
    let saved = dir.join("runs.jsonl");
    let some = ["--save", text(&saved), "--image", "0", "-o", "json"];
    let first = rows(&bench(&model, &some));
    let second = rows(&bench(&model, &[&some[..], &["-t", "1,2"]].concat()));
    let lines = fs::read_to_string(&saved).expect("saved rows");
    let kept: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    assert_eq!(kept, [first, second].concat());
    let table = pumice(["bench", "--compare", text(&saved)]);
    for words in ["[1] ", "[2] ", "[3] ", "2 threads", "[3]/[1]", "pp24", "tg3", "memory"] {
        assert!(table.succeeds().stdout.contains(words), "no {words:?} in: {}", table.stdout);
    }
    assert!(table.stdout.lines().filter(|l| l.contains("pp24")).all(|l| l.matches('x').count() == 2));
    let both = pumice(["bench", "-o", "md", "--compare", text(&saved), text(&saved)]);
    both.succeeds();
    pumice(["bench", "--compare", text(&dir.join("absent.jsonl"))]).fails_with(&["absent.jsonl"]);
    pumice(["bench", "--compare", text(&model)]).fails_with(&["tiny.gguf"]);
}

#[test]
fn cold_loads_are_measured_or_left_out_with_a_reason() {
    let model = tiny_file(&folder("bench-cold"));
    let args = [
        "bench",
        "-m",
        text(&model),
        "-p",
        "0",
        "-n",
        "0",
        "-r",
        "2",
        "-t",
        "1",
        "--image",
        "0",
        "-o",
        "json",
    ];
    let outcome = pumice(args);
    let rows = rows(&outcome);
    let names: Vec<_> = rows.iter().filter_map(|row| row["test"].as_str()).collect();
    match outcome.stderr.contains("no cold load") {
        true => assert_eq!(names, ["load warm", "memory"]),
        false => assert_eq!(names, ["load cold", "load cold + 1 token", "load warm", "memory"]),
    }
}

#[test]
fn random_weights_are_kept_as_a_pair_that_names_its_shape() {
    let dir = folder("bench-synthetic");
    let model = blind(&dir);
    let kept = dir.join("kept.gguf");
    let small = ["-p", "8", "-n", "2", "-r", "1", "-t", "1", "--no-cold", "-o", "json"];
    let synthetic = |shape: &str, more: &[&str]| {
        pumice(["bench", "--synthetic", shape].into_iter().chain(small).chain(more.iter().copied()))
    };
    let made = synthetic("tiny:q8_0", &["--write", text(&kept)]);
    assert_eq!(rows(&made)[0]["model_type"], "llava 3M Q8_0 random");
    for words in ["random weights of tiny in Q8_0", "kept.gguf", "mmproj-kept.gguf", " MB"] {
        assert!(made.stderr.contains(words), "no {words:?} in: {}", made.stderr);
    }
    let open = |path: &Path| {
        File::from_bytes("kept", Bytes::new(fs::read(path).expect("a file"))).expect("a GGUF file")
    };
    let (words, eyes) = (open(&kept), open(&dir.join("mmproj-kept.gguf")));
    let vision = |file: &File| file.tensors().iter().filter(|t| t.name.starts_with("v.")).count();
    assert!(vision(&words) == 0 && vision(&eyes) > 0, "what llama.cpp loads");
    synthetic("tiny", &["--write", text(&kept)]).fails_with(&["kept.gguf", "-m"]);

    // Another file's shape: its names and sizes, other weights; and nothing stays.
    let like = synthetic(&format!("{}:q4_0", text(&model)), &[]);
    assert_eq!(rows(&like)[0]["model_type"], "llama 3M Q4_0 random");
    let place = like.stderr.split(" to ").nth(1).and_then(|s| s.split(" (").next()).expect("where it lies");
    assert!(place.ends_with(".gguf") && !Path::new(place).exists(), "{place}");
    synthetic("huge", &[]).is_refused_with(&["huge", "llava-1.5-7b"]);
    synthetic("tiny:q9", &[]).fails_with(&["q9", "Q4_K_M"]);
}

#[test]
fn a_model_without_eyes_is_measured_without_pictures() {
    let model = blind(&folder("bench-blind"));
    let outcome = bench(&model, &["-o", "json"]);
    assert!(outcome.stderr.contains("no vision part"), "{}", outcome.stderr);
    let rows = rows(&outcome);
    let names: Vec<_> = rows.iter().filter_map(|row| row["test"].as_str()).collect();
    assert_eq!(names, ["load warm", "memory", "pp24", "tg3"]);
    assert_eq!(rows[0]["model_type"], "llama 3M Q8_0 random");
    bench(&model, &["--image", "1"]).fails_with(&["blind.gguf", "no vision part", "--mmproj"]);
    let half = model.with_file_name("mmproj-blind.gguf");
    let seeing = self::rows(&bench(&model, &["-o", "json", "--mmproj", text(&half)]));
    assert_eq!(row(&seeing, "photo")["n_image"], 1);
}

#[test]
fn wrong_requests_are_told() {
    let model = tiny_file(&folder("bench-wrong"));
    for (more, words) in [
        (["-r", "0"], ["0", "--repetitions"]),
        (["-o", "sql"], ["sql", "jsonl"]),
        (["-p", "12,x"], ["12,x", "no whole number"]),
        (["-t", "1,,2"], ["1,,2", "no whole number"]),
        (["-t", "99999"], ["99999", "threads"]),
        (["-n", "99999999"], ["tg99999999", "positions"]),
        (["--image", "65"], ["65", "--image"]),
        (["--device", "cpu,npu"], ["npu", "gpu:N"]),
        (["--device", "gpu:99"], ["gpu:99", "--device"]),
        (["--isa", "mmx"], ["mmx", "scalar"]),
        (["--cache-type", "q4_0"], ["q4_0", "q8_0"]),
        (["--write", "x.gguf"], ["--model", "--write"]),
    ] {
        pumice(["bench", "-m", text(&model)].into_iter().chain(more)).is_refused_with(&words);
    }
    bench(Path::new("absent.gguf"), &[]).fails_with(&["absent.gguf"]);
    let nowhere = folder("bench-nowhere").join("no/runs.jsonl");
    bench(&model, &["--save", text(&nowhere)]).fails_with(&["runs.jsonl"]);
}

#[cfg(unix)]
#[test]
fn a_run_that_is_stopped_tells_what_it_has() {
    use std::{
        process::{Command, Stdio},
        thread,
        time::Duration,
    };
    let model = tiny_file(&folder("bench-stopped"));
    let child = Command::new(env!("CARGO_BIN_EXE_pumice"))
        .args([
            "bench",
            "-m",
            text(&model),
            "-r",
            "10000",
            "-p",
            "8",
            "-n",
            "2",
            "-t",
            "1",
            "--image",
            "0",
            "-o",
            "json",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    thread::sleep(Duration::from_secs(2));
    let told = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(told.success());
    let out = child.wait_with_output().expect("an end");
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("stopped"), "{stderr}");
    let rows: Vec<Value> = serde_json::from_slice(&out.stdout).expect("an array of rows");
    for row in rows.iter().filter(|row| row["test"] != "memory") {
        let samples = row["samples_ns"].as_array().map_or(0, Vec::len);
        assert!((1..10_000).contains(&samples), "{row}");
    }
}
