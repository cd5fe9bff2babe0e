//! Reads the command line and runs it: the only file that may exit the process.

use std::process::ExitCode;

fn main() -> ExitCode {
    wattribute::cli::main()
}
