//! Why a setting cannot be used.

use std::path::PathBuf;

use thiserror::Error;

/// A setting that cannot be used; the text names it.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A file that a setting names cannot be read.
    #[error("{setting}: cannot read {path}: {source}")]
    Unreadable {
        /// The flag.
        setting: &'static str,
        /// The path as it was given.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A value that is not valid.
    #[error("{setting}: {reason}")]
    Invalid {
        /// The flag.
        setting: &'static str,
        /// What is wrong.
        reason: String,
    },
}
