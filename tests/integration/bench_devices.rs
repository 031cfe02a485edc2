//! `pumice bench` on a graphics processor, or on Mesa's software one; skipped, with a message, where there is none.

use pumice_kernels::gpu::adapters;
use serde_json::Value;

use crate::program::{folder, pumice, text, tiny_file};

/// The first adapter's name; says so where there is none.
fn adapter() -> Option<String> {
    let name = adapters().into_iter().next().map(|info| info.name);
    if name.is_none() {
        eprintln!("skipped: this machine has no adapter that wgpu can use (Mesa's lavapipe is one)");
    }
    name
}

/// Few and small tests.
const SMALL: [&str; 10] = ["-p", "16", "-n", "4", "-r", "1", "-t", "1", "--no-cold", "-o"];

#[test]
fn the_demo_runs_on_a_gpu_beside_the_processor() {
    let Some(name) = adapter() else { return };
    let outcome = pumice(["bench", "--device", "cpu,gpu"].into_iter().chain(SMALL).chain(["json"]));
    let rows: Vec<Value> = serde_json::from_str(&outcome.succeeds().stdout).expect("an array of rows");
    let (cpu, gpu): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row["gpu_info"] == "");
    let tests = |rows: &[&Value]| rows.iter().map(|row| row["test"].clone()).collect::<Vec<_>>();
    assert_eq!(tests(&cpu), tests(&gpu));
    assert_eq!(cpu.len(), 8, "load, image, photo, two questions, memory, pp, tg");
    for row in &gpu {
        assert_eq!((&row["gpu_info"], &row["n_gpu_layers"]), (&name.as_str().into(), &row["n_layers"]));
        assert!(row["backends"] != "CPU" && row["n_layers"] == 4, "{row}");
        let whole = row["test"] != "memory" && row["test"] != "load warm";
        assert_eq!(row["limit_share"].is_number(), whole, "{row}");
        assert!(!whole || row["read_rate"].as_f64().is_some_and(|rate| rate > 1e7), "{row}");
    }
    // The same work, wherever it is done.
    for (cpu, gpu) in cpu.iter().zip(&gpu) {
        assert_eq!((&cpu["flops"], &cpu["bytes_read"]), (&gpu["flops"], &gpu["bytes_read"]));
    }
}

#[test]
fn layers_on_both_and_where_the_time_goes() {
    let Some(name) = adapter() else { return };
    let dir = folder("bench-devices");
    let (model, saved) = (tiny_file(&dir), dir.join("runs.jsonl"));
    let common = ["bench", "-m", text(&model), "--image", "0", "--device", "gpu"];
    let run = |more: &[&str]| {
        let outcome = pumice(common.into_iter().chain(SMALL).chain(["table"]).chain(more.iter().copied()));
        outcome.succeeds().stdout.clone()
    };
    // Layers on both: instruction sets and threads matter, and no limit is known.
    let both = run(&["-ngl", "3", "--save", text(&saved)]);
    assert!(both.contains(&format!("{name}, 3 of 4 layers, ")) && both.contains(", 1 thread"), "{both}");
    assert!(!both.contains("int8 GOP/s"), "{both}");
    let whole = run(&["-ngl", "99", "--ops", "--save", text(&saved)]);
    assert!(!whole.contains("of 4 layers"), "{whole}");
    let ops = whole.split("pp16, ").nth(1).expect("a table of ops");
    assert!(ops.contains(&name) && ops.contains("\nmatmul ") && ops.contains("\nattention "), "{whole}");
    assert!(whole.lines().any(|line| line.starts_with("limits ") && line.contains("f16 GFLOP/s")), "{whole}");

    let compared = pumice(["bench", "--compare", text(&saved)]);
    let first: Vec<_> = compared.succeeds().stdout.lines().take(2).collect();
    assert!(first[0].contains(&format!("{name}, 3 of 4 layers")), "{}", compared.stdout);
    assert!(first[1].contains(&format!("{name};")), "{}", compared.stdout);
}

#[test]
fn what_cannot_be_is_refused() {
    let kernels = pumice(["bench", "--kernels", "--device", "gpu:99"]);
    kernels.is_refused_with(&["gpu:99"]);
    if adapter().is_some() {
        pumice(["bench", "--kernels", "--device", "gpu"]).is_refused_with(&["--kernels", "--device"]);
    }
}
