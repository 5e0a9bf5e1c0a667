//! The log on standard error, and the set-up of traces. Standard output is for the commands' results.
//!
//! A request is one span of the log, at error level so that no filter removes it: its fields are on every line inside it.
//! `traces` attaches the request's trace to that span.

use std::io::{self, IsTerminal, Write};

use thiserror::Error;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{ParseError, filter_fn},
    fmt,
    layer::{Identity, SubscriberExt},
    util::SubscriberInitExt,
};

use crate::{
    config::{LogConfig, LogFormat, TraceConfig},
    observability::{collector::Collector, traces},
};

/// What is logged without `--log`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Warnings: for commands whose output is the result.
    Quiet,
    /// The life cycle of the service, and a line for each request.
    Info,
}

/// Why logs or traces cannot be set up.
#[derive(Debug, Error)]
pub enum ObservabilityError {
    /// The filter is malformed.
    #[error("--log: {0}")]
    Filter(#[from] ParseError),
    /// The connection to the collector cannot be prepared.
    #[error("traces cannot be sent: {0}")]
    Collector(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Sets up the log of the process; a second call does nothing.
///
/// # Errors
/// The filter is malformed.
pub fn init(config: &LogConfig, verbosity: Verbosity) -> Result<(), ObservabilityError> {
    // An error means a second call, which only tests make.
    Registry::default().with(log_layer(config, verbosity)?).try_init().ok();
    Ok(())
}

/// Sets up the log of the service, and its traces if a collector is configured.
///
/// # Errors
/// The filter is malformed, or the collector's address or certificates cannot be used.
pub fn init_service(config: &LogConfig, traces: &TraceConfig) -> Result<Collector, ObservabilityError> {
    let log = log_layer(config, Verbosity::Info)?;
    let collector = Collector::connect(traces).map_err(ObservabilityError::Collector)?;
    // A request is traced whatever the log's filter removes.
    let spans = Identity::new().with_filter(filter_fn(traces::is_request)).boxed();
    let spans = collector.tracer().map(|tracer| {
        traces::start(tracer);
        spans
    });
    let layers: Vec<_> = [log].into_iter().chain(spans).collect();
    Registry::default().with(layers).try_init().ok();
    Ok(collector)
}

/// Writes a line on standard error for the user of a command. A failure is ignored, since it cannot be reported.
pub(crate) fn print_status(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn log_layer(config: &LogConfig, verbosity: Verbosity) -> Result<Box<dyn Layer<Registry> + Send + Sync>, ParseError> {
    // Lines of ONNX Runtime come through `ort`; below warning they report its graph passes and that the library is newer
    // than the loader expects, which the parity tests cover.
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
