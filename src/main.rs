//! The program; everything is in the library.

use std::{
    env,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

/// ONNX Runtime sends telemetry to its makers, even where its API was told not to, unless this is set before it is loaded.
const NO_TELEMETRY: &str = "ORT_DISABLE_TELEMETRY";

fn main() -> ExitCode {
    if env::var_os(NO_TELEMETRY).is_none() {
        start_again();
    }
    blip_serve::cli::run(env::args_os())
}

/// Becomes the same program with one more variable in its environment, which a running one cannot change safely. If that
/// fails, the program goes on as it is.
fn start_again() {
    let mut arguments = env::args_os();
    let (Some(name), Ok(program)) = (arguments.next(), env::current_exe()) else { return };
    let error = Command::new(program).arg0(name).args(arguments).env(NO_TELEMETRY, "1").exec();
    drop(error);
}
