//! The program `blip-serve`; everything else is in the library.

use std::{
    env,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

/// Variables that libraries read when the process starts; they cannot be set later.
const ENVIRONMENT: [(&str, &str); 4] = [
    // ONNX Runtime sends telemetry to Microsoft, even if its API disables it, unless this is set.
    ("ORT_DISABLE_TELEMETRY", "1"),
    // glibc raises its thresholds when large buffers are freed, and then keeps tens of megabytes per thread. Setting the
    // initial thresholds fixes them. Two arenas waste less memory than one per thread.
    ("MALLOC_ARENA_MAX", "2"),
    ("MALLOC_MMAP_THRESHOLD_", "131072"),
    ("MALLOC_TRIM_THRESHOLD_", "131072"),
];

fn main() -> ExitCode {
    if ENVIRONMENT.iter().any(|(name, _)| env::var_os(name).is_none()) {
        reexec_with_env();
    }
    blip_serve::cli::run(env::args_os())
}

/// Replaces the process by the same program with the missing variables of [`ENVIRONMENT`]. If that fails, the program
/// continues without them.
fn reexec_with_env() {
    let mut arguments = env::args_os();
    let (Some(name), Ok(program)) = (arguments.next(), env::current_exe()) else { return };
    let missing = ENVIRONMENT.into_iter().filter(|(name, _)| env::var_os(name).is_none());
    let error = Command::new(program).arg0(name).args(arguments).envs(missing).exec();
    drop(error);
}
