//! Logs: structured, on stderr. Standard output belongs to the commands' results.

use std::io::{self, IsTerminal, Write};

use clap::{Args, ValueEnum};
use tracing_subscriber::{EnvFilter, filter::ParseError};

/// Where and how much is logged.
#[derive(Clone, Debug, Args)]
pub struct LogConfig {
    /// What is logged: error, warn, info, debug, trace, or a filter such as blip_serve=debug,hyper=info
    #[arg(long, env = "BLIP_LOG", value_name = "FILTER")]
    pub log: Option<String>,

    /// How it is written
    #[arg(long, env = "BLIP_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged when nothing is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Warnings: for commands whose output is the result.
    Quiet,
    /// The life of the service.
    Info,
}

/// Sets up the log of the process; a second call does nothing.
///
/// # Errors
/// The filter is malformed.
pub fn init(config: &LogConfig, verbosity: Verbosity) -> Result<(), ParseError> {
    // ONNX Runtime's own lines come through `ort`; below warning they are about its graph passes. Its loader says which
    // library and version it found.
    let default = match verbosity {
        Verbosity::Quiet => "warn",
        Verbosity::Info => "info,ort=warn,ort::load_dynamic=info",
    };
    let filter = EnvFilter::builder().parse(config.log.as_deref().unwrap_or(default))?;
    let colours = io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colours);
    let result = match config.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    // Only tests call this twice.
    drop(result);
    Ok(())
}

/// One line on stderr, for a command's user. Nothing can be done if even that fails.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
