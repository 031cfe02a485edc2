//! The rules of the house that a program can check: dependency edges, file sizes, where `unsafe` stands.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Which crates of ours each crate may depend on (ARCHITECTURE.md, "Folders").
const EDGES: [(&str, &[&str]); 5] = [
    ("kernels", &[]),
    ("models", &["pumice-kernels"]),
    ("runtime", &["pumice-kernels", "pumice-models"]),
    ("quantize", &["pumice-kernels", "pumice-models"]),
    ("train", &["pumice-kernels", "pumice-models", "pumice-runtime", "pumice-quantize"]),
];

/// Where `unsafe` may stand: instruction sets (products, their probes, and vectors with the loops around them), the thread pool, three calls of
/// wgpu's, the memory map, the example that measures products, the benches' calls into ggml, the calls into libtorch. A name that ends in `/` stands for all in that folder.
const UNSAFE: [&str; 17] = [
    "kernels/src/cpu/x86.rs",
    "kernels/src/cpu/x86/",
    "kernels/src/cpu/neon.rs",
    "kernels/src/cpu/neon/",
    "kernels/src/cpu/simd.rs",
    "kernels/src/cpu/simd/",
    "kernels/src/cpu/pool.rs",
    "kernels/src/cpu/pool/",
    "kernels/src/gpu/device.rs",
    "kernels/src/gpu/pipeline_cache.rs",
    "kernels/src/gpu/shader.rs",
    "kernels/examples/matmul.rs",
    "benches/speed/peer/",
    "models/src/map.rs",
    "train/src/shim.rs",
    "train/src/shim/",
    "train/src/map.rs",
];

/// Lines of a source file at most (tests beside the code counted).
const LINES: usize = 800;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All `.rs` files of the workspace, relative to its root.
fn sources() -> Vec<PathBuf> {
    fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("a readable folder") {
            let path = entry.expect("a folder entry").path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                walk(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                out.push(path);
            }
        }
    }
    let mut out = Vec::new();
    walk(&root(), &mut out);
    assert!(out.len() > 20, "only {} source files found: is the walk broken?", out.len());
    out.into_iter().map(|p| p.strip_prefix(root()).expect("below the root").to_path_buf()).collect()
}

fn text(path: &Path) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn crates_depend_only_downwards() {
    for (name, allowed) in EDGES {
        let manifest = text(Path::new(&format!("{name}/Cargo.toml")));
        let dependencies = manifest
            .split("[dependencies]")
            .nth(1)
            .unwrap_or_else(|| panic!("{name}/Cargo.toml has no [dependencies]"))
            .split("\n[")
            .next()
            .unwrap_or_default();
        for line in dependencies.lines().filter(|l| l.starts_with("pumice")) {
            let crate_name = line.split([' ', '=', '.']).next().unwrap_or_default();
            assert!(
                allowed.contains(&crate_name),
                "{name} depends on {crate_name}; it may depend on {allowed:?} only"
            );
        }
    }
}

#[test]
fn files_stay_readable() {
    for path in sources() {
        let lines = text(&path).lines().count();
        assert!(lines <= LINES, "{} has {lines} lines, {LINES} at most: divide it", path.display());
    }
}

#[test]
fn unsafe_stands_where_it_may() {
    let word = |line: &str| {
        let code = line.split("//").next().unwrap_or_default();
        code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == "unsafe")
    };
    for path in sources() {
        let name = path.to_string_lossy().replace('\\', "/");
        let is_test = name.contains("/tests/") || name.starts_with("tests/");
        let may = |place: &str| name == place || place.ends_with('/') && name.starts_with(place);
        if is_test || UNSAFE.iter().any(|place| may(place)) {
            continue;
        }
        for (number, line) in text(&path).lines().enumerate() {
            assert!(!word(line), "{name}:{}: unsafe belongs in {UNSAFE:?}", number + 1);
        }
    }
}

#[test]
fn every_file_says_what_it_holds() {
    for path in sources() {
        let first = text(&path).lines().next().unwrap_or_default().to_string();
        assert!(
            first.starts_with("//") || first.starts_with("#!"),
            "{} begins with {first:?}, not with a line that says what it holds",
            path.display()
        );
    }
}

#[test]
fn no_mod_rs_and_no_drawers() {
    for path in sources() {
        let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        assert!(
            !["mod", "utils", "util", "common", "helpers", "misc"].contains(&stem),
            "{}: name it after what it does",
            path.display()
        );
    }
}

/// The quantizer must not depend on the runtime, so it has its own list of the templates that a file may name.
#[test]
fn a_file_can_name_every_template_that_the_runtime_writes() {
    let written: Vec<_> = pumice_runtime::prompt::Format::names().collect();
    assert_eq!(pumice_quantize::TEMPLATES.as_slice(), written);
}
