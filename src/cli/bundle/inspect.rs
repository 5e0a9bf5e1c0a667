//! `blip-serve bundle inspect`: reports the manifest of a bundle and compares its files with their checksums. ONNX Runtime
//! is not needed.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;

use crate::cli::{
    bundle::{report::Report, summary},
    command::CommandError,
    select,
};

/// Describe a bundle and verify its files.
#[derive(Debug, Args)]
pub(in crate::cli) struct Inspect {
    /// Folder of a bundle, or name of a model; defaults to the catalogue's default
    #[arg(value_name = "PATH_OR_MODEL")]
    bundle: Option<String>,

    /// Print one JSON object with the whole manifest
    #[arg(long)]
    json: bool,

    /// Catalogue of models
    #[arg(long, env = "BLIP_MODELS", default_value = "models.toml")]
    models: PathBuf,
}

impl Inspect {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let entry = select::model(&self.models, self.bundle.as_deref())?;
        let report = Report::load(&entry.path)?;
        let mut text = if self.json { serde_json::to_string_pretty(&report)? } else { summary::text(&report) };
        text.push('\n');
        io::stdout().write_all(text.as_bytes())?;
        Ok(if report.verified { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
