//! `blip-serve bundle inspect`: source, sizes, rules, defaults and figures of a bundle; its files against their checksums.
//!
//! Reads the manifest and hashes the files; ONNX Runtime is not needed.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use crate::cli::bundle::summary;
use crate::{
    blip::{BundleError, Manifest},
    cli::{CommandError, select},
};

/// Say what a bundle is, and whether its files are those that were exported.
#[derive(Debug, Args)]
pub(in crate::cli) struct Inspect {
    /// A bundle's folder, or a model's name; the catalogue's default if not given
    #[arg(value_name = "PATH_OR_MODEL")]
    bundle: Option<String>,

    /// One JSON object, with the whole manifest
    #[arg(long)]
    json: bool,

    /// The catalogue of models
    #[arg(long, env = "BLIP_MODELS", default_value = "models.toml")]
    models: PathBuf,
}

/// What there is to say.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Where it is.
    pub(super) bundle: PathBuf,
    /// Whether every file is as exported.
    pub(super) verified: bool,
    /// Of all files, as exported.
    pub(super) bytes: u64,
    /// By name.
    pub(super) files: Vec<FileReport>,
    /// As the exporter wrote it.
    pub(super) manifest: Value,
}

/// One file.
#[derive(Debug, Serialize)]
pub(super) struct FileReport {
    pub(super) name: String,
    /// As exported.
    pub(super) bytes: u64,
    pub(super) state: State,
}

/// What became of a file since the export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// Nothing.
    Verified,
    /// Its checksum is another.
    Changed,
    Missing,
    Unreadable,
}

impl Inspect {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let entry = select::model(&self.models, self.bundle.as_deref())?;
        let report = Report::of(&entry.path)?;
        let mut text = if self.json { serde_json::to_string_pretty(&report)? } else { summary::text(&report) };
        text.push('\n');
        io::stdout().write_all(text.as_bytes())?;
        Ok(if report.verified { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl Report {
    fn of(bundle: &Path) -> Result<Self, CommandError> {
        let manifest = Manifest::load(bundle)?;
        // Once more, whole: what the service does not need is said, too.
        let text = fs::read_to_string(bundle.join("manifest.json"))?;
        let whole: Value = serde_json::from_str(&text)?;
        let size = |name: &str| whole["files"][name]["bytes"].as_u64().unwrap_or(0);
        let files: Vec<_> = manifest
            .compare_files(bundle)
            .map(|(name, result)| FileReport { name: name.into(), bytes: size(name), state: State::of(&result) })
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
    fn of(result: &Result<(), BundleError>) -> Self {
        match result {
            Ok(()) => Self::Verified,
            Err(BundleError::Checksum { .. }) => Self::Changed,
            Err(BundleError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => Self::Missing,
            Err(_) => Self::Unreadable,
        }
    }

    /// For people: what is wrong must be seen.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Changed => "CHANGED",
            Self::Missing => "MISSING",
            Self::Unreadable => "UNREADABLE",
        }
    }
}
