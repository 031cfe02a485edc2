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
