//! The program `pumice-train`: arguments in, calls to the library, progress and tables out.

fn main() {}
