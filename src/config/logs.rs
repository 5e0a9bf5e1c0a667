//! Settings of the log.

use clap::{Args, ValueEnum};

/// What is logged, and how.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Observability")]
pub struct LogConfig {
    /// Log level (error, warn, info, debug, trace), or a filter such as blip_serve=debug,hyper=info
    #[arg(long, env = "BLIP_LOG", value_name = "FILTER")]
    pub log: Option<String>,

    /// Format of the log
    #[arg(long, env = "BLIP_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// The format of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text for people
    Text,
    /// One JSON object per line
    Json,
}
