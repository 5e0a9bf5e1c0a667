//! The command line: `serve` (the default), `caption`, `bundle`, `pixels`, `check`, `hash-key`, `health`, `completions`.

mod bundle;
mod caption;
mod check;
mod completions;
mod generation;
mod hash_key;
mod health;
mod help;
mod pixels;
mod select;
mod serve;
mod similar;

use std::{ffi::OsString, io, path::PathBuf, process::ExitCode};

use clap::{Args, FromArgMatches, Parser, Subcommand};

use crate::{
    blip::{Runtime, RuntimeError},
    observability::{self, LogConfig},
};

type CommandError = Box<dyn std::error::Error>;

/// 128 + SIGPIPE, as shells tell it: whoever read our output has gone.
const NOBODY_READS: u8 = 141;

/// Image captions from BLIP over gRPC and REST, on ONNX Runtime
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, after_long_help = help::OVERVIEW)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Serve,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve REST and gRPC on one port (the default command)
    #[command(after_long_help = help::SERVE)]
    Serve(Box<serve::Serve>),
    /// Caption images: one line each, path, tab, caption
    #[command(after_long_help = help::CAPTION)]
    Caption(Box<caption::CaptionImages>),
    /// Inspect an exported model
    #[command(subcommand)]
    Bundle(bundle::Bundle),
    /// Write what the model sees of an image: pixel_values, float32 [1, 3, H, W], as .npy
    #[command(after_long_help = help::PIXELS)]
    Pixels(pixels::Pixels),
    /// Verify the bundles of all models and let each caption a self-test image
    #[command(after_long_help = help::CHECK)]
    Check(check::Check),
    /// Make an API key, and the line of the keys' file that knows it without holding it
    HashKey(hash_key::HashKey),
    /// Ask a running service whether it is ready; exit status 0 if it is
    Health(health::Health),
    /// Print a shell's completions for this command line
    #[command(after_long_help = help::COMPLETIONS)]
    Completions(completions::Completions),
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

    /// NVIDIA's CUDA 13 and cuDNN 9 libraries: the folder `nvidia` of a site-packages that has their wheels; else the system's
    #[arg(long, env = "BLIP_CUDA_LIBRARIES")]
    cuda_libraries: Option<PathBuf>,

    /// A folder that keeps optimised graphs, so that the next start is faster
    #[arg(long, env = "BLIP_GRAPH_CACHE")]
    graph_cache: Option<PathBuf>,

    #[command(flatten, next_help_heading = "Log")]
    log: LogConfig,
}

impl ModelArgs {
    fn runtime(&self) -> Result<Runtime, RuntimeError> {
        let runtime = Runtime::load(self.ort_library.as_deref())?;
        if let Some(folder) = &self.cuda_libraries {
            runtime.preload_cuda(folder)?;
        }
        Ok(runtime.with_graph_cache(self.graph_cache.as_deref()))
    }
}

/// Runs the command of `arguments` and gives the process's exit code; every failure is one line on stderr.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let matches = help::command().get_matches_from(generation::with_explicit_values(arguments));
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let command = cli.command.unwrap_or_else(|| Command::Serve(Box::new(cli.serve)));
    let result = match command {
        Command::Serve(command) => command.run(),
        Command::Caption(command) => command.run(),
        Command::Bundle(command) => command.run(),
        Command::Pixels(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::HashKey(command) => command.run(),
        Command::Health(command) => command.run(),
        Command::Completions(command) => command.run(),
    };
    result.unwrap_or_else(|error| {
        if error.downcast_ref().is_some_and(|error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe) {
            return NOBODY_READS.into();
        }
        observability::say(&format!("error: {error}"));
        ExitCode::FAILURE
    })
}

/// A runtime for commands that wait for one thing at a time.
fn small_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
