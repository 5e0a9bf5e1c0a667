//! The command line: `serve` (the default), `caption`, `pixels`, `check`.

mod caption;
mod check;
mod generation;
mod pixels;
mod serve;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::{
    blip::{Runtime, RuntimeError},
    telemetry::{self, LogConfig},
};

type CommandError = Box<dyn std::error::Error>;

/// Image captions from BLIP over gRPC and REST, on ONNX Runtime
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Serve,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve REST and gRPC on one port (the default command)
    Serve(Box<serve::Serve>),
    /// Caption images: one line each, path, tab, caption
    Caption(Box<caption::CaptionImages>),
    /// Write what the model sees of an image: pixel_values, float32 [1, 3, H, W], as .npy
    Pixels(pixels::Pixels),
    /// Verify the bundles of all models and let each caption a self-test image
    Check(check::Check),
}

/// Where models and the library are: for every command that runs a model.
#[derive(Clone, Debug, Args)]
struct ModelArgs {
    /// The catalogue of models
    #[arg(long, env = "BLIP_MODELS", default_value = "models.toml")]
    models: PathBuf,

    /// The ONNX Runtime library; else ORT_DYLIB_PATH, ../lib beside the binary, the repository's own
    #[arg(long, env = "BLIP_ORT_LIBRARY")]
    ort_library: Option<PathBuf>,

    /// A folder that keeps optimised graphs, so that the next start is faster
    #[arg(long, env = "BLIP_GRAPH_CACHE")]
    graph_cache: Option<PathBuf>,

    #[command(flatten)]
    log: LogConfig,
}

impl ModelArgs {
    fn runtime(&self) -> Result<Runtime, RuntimeError> {
        Ok(Runtime::load(self.ort_library.as_deref())?.with_graph_cache(self.graph_cache.as_deref()))
    }
}

/// Runs the command of `arguments` and gives the process's exit code; every failure is one line on stderr.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let cli = Cli::parse_from(generation::with_explicit_values(arguments));
    let command = cli.command.unwrap_or_else(|| Command::Serve(Box::new(cli.serve)));
    let result = match command {
        Command::Serve(command) => command.run(),
        Command::Caption(command) => command.run(),
        Command::Pixels(command) => command.run(),
        Command::Check(command) => command.run(),
    };
    result.unwrap_or_else(|error| {
        telemetry::say(&format!("error: {error}"));
        ExitCode::FAILURE
    })
}

/// A runtime for commands that wait for one thing at a time.
fn small_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
