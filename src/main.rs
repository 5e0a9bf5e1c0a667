//! The program; everything is in the library.

use std::{
    env,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

/// What libraries read when the process begins, and must not be changed later.
const ENVIRONMENT: [(&str, &str); 4] = [
    // ONNX Runtime sends telemetry to its makers, even where its API was told not to, unless this is set.
    ("ORT_DISABLE_TELEMETRY", "1"),
    // glibc learns from large buffers that are freed to keep the next ones, for each thread: tens of megabytes that are
    // never given back. These are the thresholds it begins with; set, they stay. Two heaps waste less than one a thread.
    ("MALLOC_ARENA_MAX", "2"),
    ("MALLOC_MMAP_THRESHOLD_", "131072"),
    ("MALLOC_TRIM_THRESHOLD_", "131072"),
];

fn main() -> ExitCode {
    if ENVIRONMENT.iter().any(|(name, _)| env::var_os(name).is_none()) {
        start_again();
    }
    blip_serve::cli::run(env::args_os())
}

/// Becomes the same program with what is missing of [`ENVIRONMENT`]. If that fails, the program goes on as it is.
fn start_again() {
    let mut arguments = env::args_os();
    let (Some(name), Ok(program)) = (arguments.next(), env::current_exe()) else { return };
    let missing = ENVIRONMENT.into_iter().filter(|(name, _)| env::var_os(name).is_none());
    let error = Command::new(program).arg0(name).args(arguments).envs(missing).exec();
    drop(error);
}
