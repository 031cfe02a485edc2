//! `pumice bench` beside the machine's limits: each row's share, products by instruction set, the plot.

use std::fs;

use pumice_kernels::Isa;
use serde_json::Value;

use crate::program::{folder, pumice, text, tiny_file};

#[test]
fn products_are_measured_on_the_instruction_set_that_is_asked_for() {
    let best = Isa::best().name();
    let shapes = ["--shapes", "64x256x1,40x512x5"];
    let run = pumice(
        ["bench", "--kernels", "q4_k,F16", "--isa", &format!("{best},scalar"), "-t", "1", "-o", "json"]
            .iter()
            .chain(&shapes),
    );
    let cells: Vec<Value> = serde_json::from_str(&run.succeeds().stdout).expect("JSON");
    assert_eq!(cells.len(), if best == "scalar" { 4 } else { 8 }, "{}", run.stdout);
    for cell in &cells {
        let number = |name: &str| cell[name].as_f64().unwrap_or_else(|| panic!("{name} of {cell}"));
        let (m, k, n) = (number("m"), number("k"), number("n"));
        let seconds = number("best_ns") / 1e9;
        assert!((number("ops") * seconds / (2.0 * m * k * n) - 1.0).abs() < 1e-6, "{cell}");
        // 4.5 and 16 bits a weight.
        let bits = if cell["type"] == "Q4_K" { 4.5 } else { 16.0 };
        assert!((number("bytes") * seconds / (m * k * bits / 8.0) - 1.0).abs() < 1e-6, "{cell}");
        assert!(number("limit_share") > 0.0 && cell["taken"] == (cell["isa"] == best), "{cell}");
        assert_eq!(number("rows"), m, "so little is measured whole");
    }
}

#[test]
fn a_type_that_is_none_is_told_with_those_that_are() {
    pumice(["bench", "--kernels", "q4_k_m"]).is_refused_with(&["q4_k_m", "Q4_K", "IQ4_XS"]);
    pumice(["bench", "--kernels", "all", "--shapes", "64x100x1"]).is_refused_with(&["64x100x1", "256"]);
    pumice(["bench", "--plot", "runs.png"]).is_refused_with(&["runs.png", "runs.svg"]);
}

#[test]
fn rows_know_their_limits_and_runs_can_be_drawn() {
    let dir = folder("bench-limits");
    let (model, saved, plot) = (tiny_file(&dir), dir.join("runs.jsonl"), dir.join("runs.svg"));
    let run = pumice([
        "bench",
        "-m",
        text(&model),
        "-p",
        "16",
        "-n",
        "4",
        "-r",
        "1",
        "-t",
        "1",
        "--no-cold",
        "--save",
        text(&saved),
    ]);
    let table = &run.succeeds().stdout;
    assert!(table.contains("of limit") && table.contains("read GB/s"), "{table}");
    let rows: Vec<Value> = fs::read_to_string(&saved)
        .expect("saved rows")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    for row in &rows {
        let limited = !row["test"].as_str().is_some_and(|t| t.starts_with("load") || t == "memory");
        let (limit, time) = (row["limit_ns"].as_f64(), row["median_ns"].as_f64());
        assert_eq!(limit.is_some(), limited, "{row}");
        if let (Some(limit), Some(time), Some(share)) = (limit, time, row["limit_share"].as_f64()) {
            assert!(limit > 0.0 && (share * time / limit - 1.0).abs() < 0.01, "{row}");
            assert!(row["int8_rate"].as_f64() > Some(0.0) && row["read_rate"].as_f64() > Some(0.0), "{row}");
        }
    }
    pumice(["bench", "--compare", text(&saved), "--plot", text(&plot)]).succeeds();
    let svg = fs::read_to_string(&plot).expect("the plot");
    for words in ["pp16", "tg4", "image", "1 thread", "Roofline", "tokens per second"] {
        assert!(svg.contains(words), "no {words:?} in {svg}");
    }
}
