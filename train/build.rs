//! Compiles the C++ shim against libtorch and lets binaries and tests find libtorch at run time without an environment variable.

use std::{env, path::PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=src/shim.cpp");
    println!("cargo:rerun-if-changed=src/map.cpp");
    println!("cargo:rerun-if-changed=src/shim_ranks.cpp");
    let lib = PathBuf::from(env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys tells where libtorch is"));
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
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
