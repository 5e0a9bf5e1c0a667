//! The program; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    blip_serve::cli::run(std::env::args_os())
}
