//! The program `pumice-train`: arguments in, calls to the library, progress and tables out.
//!
//! Exit codes: 0 done, 1 an error (its message is on stderr), 2 a wrong command line or setting, 130 stopped by Ctrl-C after saving.

mod commands;

use std::process::ExitCode;

fn main() -> ExitCode {
    commands::main()
}
