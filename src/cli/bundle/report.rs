//! What a bundle contains, and the state of its files.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::Value;

use crate::{
    blip::{BundleError, Manifest},
    cli::command::CommandError,
};

/// What `inspect` reports.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Folder of the bundle.
    pub(super) bundle: PathBuf,
    /// Whether every file matches its checksum.
    pub(super) verified: bool,
    /// Total size of the files in bytes, as exported.
    pub(super) bytes: u64,
    /// The files, by name.
    pub(super) files: Vec<FileReport>,
    /// The manifest as the exporter wrote it.
    pub(super) manifest: Value,
}

/// One file of the bundle.
#[derive(Debug, Serialize)]
pub(super) struct FileReport {
    pub(super) name: String,
    /// Size in bytes, as exported.
    pub(super) bytes: u64,
    pub(super) state: State,
}

/// The state of a file compared with the export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// The checksum matches.
    Verified,
    /// The checksum does not match.
    Changed,
    Missing,
    Unreadable,
}

impl Report {
    pub(super) fn load(bundle: &Path) -> Result<Self, CommandError> {
        let manifest = Manifest::load(bundle)?;
        // Parsed as plain JSON, too: the report includes the fields that the service does not need.
        let text = fs::read_to_string(bundle.join("manifest.json"))?;
        let whole: Value = serde_json::from_str(&text)?;
        let size = |name: &str| whole["files"][name]["bytes"].as_u64().unwrap_or(0);
        let files: Vec<_> = manifest
            .compare_files(bundle)
            .map(|(name, result)| FileReport {
                name: name.into(),
                bytes: size(name),
                state: State::from_result(&result),
            })
            .collect();
        Ok(Self {
            bundle: bundle.to_owned(),
            verified: files.iter().all(|file| file.state == State::Verified),
            bytes: files.iter().map(|file| file.bytes).sum(),
            files,
            manifest: whole,
        })
    }
}

impl State {
    fn from_result(result: &Result<(), BundleError>) -> Self {
        match result {
            Ok(()) => Self::Verified,
            Err(BundleError::Checksum { .. }) => Self::Changed,
            Err(BundleError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => Self::Missing,
            Err(_) => Self::Unreadable,
        }
    }

    /// The state as text for the summary; upper case marks a problem.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Changed => "CHANGED",
            Self::Missing => "MISSING",
            Self::Unreadable => "UNREADABLE",
        }
    }
}
