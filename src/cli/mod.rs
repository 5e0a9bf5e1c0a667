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
    config::LogConfig,
    observability,
};

type CommandError = Box<dyn std::error::Error>;

/// Exit code when the reader of standard output is gone: 128 + SIGPIPE, as shells report it.
const EXIT_SIGPIPE: u8 = 141;

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
    /// Caption images: prints a line for each caption, with the path, a tab and the caption
    #[command(after_long_help = help::CAPTION)]
    Caption(Box<caption::CaptionImages>),
    /// Inspect an exported model
    #[command(subcommand)]
    Bundle(bundle::Bundle),
    /// Write the model's input for an image: pixel_values, float32 [1, 3, H, W], as .npy
    #[command(after_long_help = help::PIXELS)]
    Pixels(pixels::Pixels),
    /// Verify the bundles of all models and caption a self-test image with each
    #[command(after_long_help = help::CHECK)]
    Check(check::Check),
    /// Generate an API key, and the line for the key file, which contains only its digest
    HashKey(hash_key::HashKey),
    /// Check whether a running service is ready; exit code 0 if it is
    Health(health::Health),
    /// Print a shell completion script
    #[command(after_long_help = help::COMPLETIONS)]
    Completions(completions::Completions),
}

/// The settings of every command that runs a model.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Models")]
struct ModelArgs {
    /// Catalogue of models
    #[arg(long, env = "BLIP_MODELS", value_name = "FILE", default_value = "models.toml")]
    models: PathBuf,

    /// ONNX Runtime library; defaults to ORT_DYLIB_PATH, then to ../lib beside the binary, then to that of the repository
    #[arg(long, env = "BLIP_ORT_LIBRARY", value_name = "FILE")]
    ort_library: Option<PathBuf>,

    /// Folder of NVIDIA's CUDA 13 and cuDNN 9 libraries: `nvidia` in the site-packages with their wheels; defaults to
    /// the libraries of the system
    #[arg(long, env = "BLIP_CUDA_LIBRARIES", value_name = "FOLDER")]
    cuda_libraries: Option<PathBuf>,

    /// Folder for optimised graphs, which make the next start faster
    #[arg(long, env = "BLIP_GRAPH_CACHE", value_name = "FOLDER")]
    graph_cache: Option<PathBuf>,

    #[command(flatten)]
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

/// Runs the command of `arguments` and returns the exit code of the process. A failure is one line on standard error.
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
            return EXIT_SIGPIPE.into();
        }
        observability::print_status(&format!("error: {error}"));
        ExitCode::FAILURE
    })
}

/// A single-threaded runtime, for commands without a server.
fn single_threaded_runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
