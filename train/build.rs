//! Compiles the C++ shim against libtorch and lets binaries and tests find libtorch at run time without an environment variable.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// The PyTorch whose libtorch tch 0.24 binds; get-libtorch.sh fetches the same.
const NEEDED: &str = "2.11.0";

fn main() {
    println!("cargo:rerun-if-changed=src/shim.cpp");
    println!("cargo:rerun-if-changed=src/map.cpp");
    println!("cargo:rerun-if-changed=src/shim_ranks.cpp");
    let lib = PathBuf::from(env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys tells where libtorch is"));
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    check_version(&lib);
    let include = lib.parent().expect("libtorch has a lib folder").join("include");
    cc::Build::new()
        .cpp(true)
        .std("c++20")
        .flag("-w")
        .opt_level(2)
        .debug(false)
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .file("src/shim.cpp")
        .file("src/map.cpp")
        .file("src/shim_ranks.cpp")
        .compile("pumice_train_shim");
}

/// Fails the build with what to do, where the folder above `lib` says that it holds another PyTorch; a folder that does not say is believed.
fn check_version(lib: &Path) {
    println!("cargo:rustc-env=PUMICE_LIBTORCH_VERSION={NEEDED}");
    let path = lib.parent().expect("libtorch has a lib folder").join("version.py");
    println!("cargo:rerun-if-changed={}", path.display());
    let Ok(text) = fs::read_to_string(&path) else { return };
    let have =
        text.lines().find(|line| line.starts_with("__version__")).and_then(|line| line.split('\'').nth(1));
    if let Some(have) = have.filter(|have| have.split('+').next() != Some(NEEDED)) {
        println!(
            "cargo::error={} is PyTorch {have}; pumice-train needs {NEEDED}: run train/get-libtorch.sh, or with --python for the torch of python3",
            path.display()
        );
        std::process::exit(1);
    }
}
