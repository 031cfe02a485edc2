//! The program on a graphics processor, and where there is none: which device is taken, what is refused, and that the words are the CPU's.
//!
//! Where the machine has no adapter, what needs one says so and is skipped; Mesa's lavapipe, software, will do.

use std::process::Command;

use serde_json::Value;

use crate::program::{Outcome, folder, pumice, run, text, tiny_file};

/// What `pumice devices --json` tells.
fn listed() -> Value {
    let told = pumice(["devices", "--json"]);
    serde_json::from_str(&told.succeeds().stdout).expect("JSON on stdout")
}

/// Whether there is an adapter; where not, says that `what` is skipped.
fn has_adapter(what: &str) -> bool {
    let found = listed()["devices"].as_array().is_some_and(|all| !all.is_empty());
    if !found {
        eprintln!("skipped, no adapter: {what}");
    }
    found
}

/// Runs `pumice` where the Vulkan loader finds no driver. Other interfaces it does not keep away.
fn without_adapters(args: &[&str]) -> Outcome {
    let nothing = folder("devices-none").join("no-driver.json");
    run(Command::new(env!("CARGO_BIN_EXE_pumice"))
        .args(args)
        .env("VK_DRIVER_FILES", &nothing)
        .env("VK_ICD_FILENAMES", &nothing))
}

#[test]
fn devices_are_listed_for_people_and_for_programs() {
    let json = listed();
    let auto = json["auto"].as_str().expect("what auto takes");
    let cpu = json["cpu"].as_str().expect("the CPU");
    let people = pumice(["devices"]).succeeds().stdout.clone();
    assert!(people.contains(&format!("--device auto takes {auto}")), "{people}");
    assert!(cpu.contains("thread") && people.contains("cpu "), "{people}");
    for (number, device) in json["devices"].as_array().expect("a list").iter().enumerate() {
        assert_eq!(device["device"], format!("gpu:{number}"));
        let name = device["name"].as_str().expect("a name");
        assert!(people.contains(name), "no {name} in: {people}");
        assert!(device["binding_bytes"].as_u64().is_some_and(|bytes| bytes >= 1 << 20), "{device}");
        let software = device["kind"] == "software";
        assert!(!(software && device["auto"] == true), "auto never takes software: {device}");
    }
}

#[test]
fn wrong_names_and_numbers_are_refused_with_what_there_is() {
    let model = tiny_file(&folder("devices-wrong"));
    let ask = |more: &[&str]| pumice(["chat", "-m", text(&model), "-p", "Hi"].iter().chain(more));
    ask(&["--device", "cuda"]).is_refused_with(&["cuda", "gpu:N", "pumice devices"]);
    ask(&["--vision-device", "gpu:x"]).is_refused_with(&["gpu:x", "gpu:N"]);
    ask(&["--device", "gpu:99"]).is_refused_with(&["--device gpu:99", "this machine has"]);
    ask(&["--vision-device", "gpu:99"]).is_refused_with(&["--vision-device gpu:99", "this machine has"]);
    ask(&["-ngl", "many"]).is_refused_with(&["many"]);
    ask(&["--check", "--device", "cpu"]).is_refused_with(&["--check", "--device gpu"]);
}

#[test]
#[cfg(target_os = "linux")]
fn without_an_adapter_auto_is_the_cpu_and_gpu_is_refused() {
    let model = tiny_file(&folder("devices-absent"));
    let ask = |device: &str| {
        let plain = ["chat", "-m", text(&model), "-p", "Well?", "-n", "4", "--temp", "0", "--device", device];
        without_adapters(&plain)
    };
    let (auto, cpu) = (ask("auto"), ask("cpu"));
    assert_eq!(auto.succeeds().stdout, cpu.succeeds().stdout);
    assert!(!auto.stderr.contains("device:"), "auto says nothing of it: {}", auto.stderr);
    ask("gpu").is_refused_with(&["--device gpu", "no GPU", "--device cpu"]);
    ask("gpu:0").is_refused_with(&["--device gpu:0", "no GPU"]);
    let told = without_adapters(&["devices"]);
    assert!(told.succeeds().stdout.contains("--device auto takes cpu"), "{}", told.stdout);
    assert!(told.stderr.contains("no GPU"), "{}", told.stderr);
}

/// The words of `pumice chat` with `model` and `more` on the CPU and with `device` too, and what the latter says on stderr.
fn both(model: &[&str], more: &[&str], device: &[&str]) -> (String, String, String) {
    let ask = |device: &[&str]| {
        let plain = ["chat", "-n", "12", "--temp", "0", "-t", "1"];
        pumice(plain.iter().chain(model).chain(more).chain(device))
    };
    let (cpu, gpu) = (ask(&["--device", "cpu"]), ask(device));
    cpu.succeeds();
    gpu.succeeds();
    (cpu.stdout, gpu.stdout, gpu.stderr)
}

#[test]
fn the_demo_model_says_the_same_on_a_gpu() {
    if !has_adapter("the demo model on a GPU") {
        return;
    }
    let question = ["-p", "Where is the bear, seen from the guitar?"];
    let devices: [&[&str]; 4] = [
        &["--device", "gpu"],
        &["--device", "gpu", "-ngl", "2"],
        &["--device", "gpu", "-ngl", "1", "--vision-device", "cpu"],
        &["--device", "cpu", "--vision-device", "gpu"],
    ];
    for device in devices {
        let (cpu, gpu, told) = both(&[], &question, device);
        assert_eq!(gpu, cpu, "{device:?}: {told}");
        assert!(told.contains("device: "), "{device:?}: {told}");
        let layers = device.iter().position(|word| *word == "-ngl").map(|at| device[at + 1]);
        if let Some(layers) = layers {
            assert!(told.contains(&format!(", {layers} of ")), "{told}");
        }
    }
}

#[test]
fn a_synthetic_model_says_the_same_on_a_gpu() {
    if !has_adapter("random weights on a GPU") {
        return;
    }
    // Weights that are not rounded, and a cache that is not: random weights turn rounding into other words.
    let picture = crate::program::picture();
    let more = ["-ctk", "f32", "--image", text(&picture), "-p", "What is this?"];
    for sampling in [&["--temp", "0"][..], &["--temp", "0.5", "--top-k", "8", "-s", "3"]] {
        let more: Vec<_> = more.iter().chain(sampling).copied().collect();
        let ask = |device: &str| {
            let plain = ["chat", "--synthetic", "tiny:f32", "-n", "8", "-t", "1", "--device", device];
            pumice(plain.iter().chain(&more))
        };
        assert_eq!(ask("gpu").succeeds().stdout, ask("cpu").succeeds().stdout, "{sampling:?}");
    }
}

#[test]
fn a_gpu_is_checked_beside_the_cpu() {
    if !has_adapter("a GPU beside the CPU") {
        return;
    }
    for grain in ["--check", "--check=passes"] {
        let plain = ["chat", "-p", "What is there?", "-n", "4", "-t", "1", "--device", "gpu", grain];
        let run = pumice(plain);
        assert!(run.succeeds().stderr.contains("no op differs"), "{}", run.stderr);
    }
}
