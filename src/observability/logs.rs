//! What the process tells of itself: the log on stderr, and traces for OpenTelemetry. Standard output belongs to the
//! commands' results.
//!
//! A request is one span of the log, at error level so that it is there whenever a line is: its fields stand on every line
//! inside it. `traces` keeps the request's trace with that span.

use std::io::{self, IsTerminal, Write};

use clap::{Args, ValueEnum};
use thiserror::Error;

use super::{
    collector::{Collector, TraceConfig},
    traces,
};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{ParseError, filter_fn},
    fmt,
    layer::{Identity, SubscriberExt},
    util::SubscriberInitExt,
};

/// Where and how much is logged.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Log")]
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
    /// The life of the service, and a line for each request.
    Info,
}

/// Why nothing can be told.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The filter is malformed.
    #[error("--log: {0}")]
    Filter(#[from] ParseError),
    /// What sends traces cannot be made.
    #[error("traces cannot be sent: {0}")]
    Collector(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Sets up the log of the process; a second call does nothing.
///
/// # Errors
/// The filter is malformed.
pub fn init(config: &LogConfig, verbosity: Verbosity) -> Result<(), TelemetryError> {
    // Only tests call this twice.
    Registry::default().with(lines(config, verbosity)?).try_init().ok();
    Ok(())
}

/// Sets up the log of the service, and its traces if they have somewhere to go.
///
/// # Errors
/// The filter is malformed, or the collector's address or certificates cannot be used.
pub fn init_service(config: &LogConfig, traces: &TraceConfig) -> Result<Collector, TelemetryError> {
    let lines = lines(config, Verbosity::Info)?;
    let collector = Collector::connect(traces).map_err(TelemetryError::Collector)?;
    // A request is traced whatever the log leaves out.
    let spans = Identity::new().with_filter(filter_fn(traces::is_request)).boxed();
    let spans = collector.tracer().map(|tracer| {
        traces::start(tracer);
        spans
    });
    let layers: Vec<_> = [lines].into_iter().chain(spans).collect();
    Registry::default().with(layers).try_init().ok();
    Ok(collector)
}

/// One line on stderr, for a command's user. Nothing can be done if even that fails.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn lines(config: &LogConfig, verbosity: Verbosity) -> Result<Box<dyn Layer<Registry> + Send + Sync>, ParseError> {
    // ONNX Runtime's own lines come through `ort`; below warning they are about its graph passes, and its loader's doubts
    // about a library newer than itself, with which parity is proven.
    let default = match verbosity {
        Verbosity::Quiet => "warn",
        Verbosity::Info => "info,ort=warn",
    };
    let filter = EnvFilter::builder().parse(config.log.as_deref().unwrap_or(default))?;
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    Ok(match config.log_format {
        LogFormat::Text => lines.with_filter(filter).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    })
}
