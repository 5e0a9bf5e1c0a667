//! `blip-serve bundle`: commands for exported models that do not run them.

mod inspect;
mod report;
mod summary;

use std::process::ExitCode;

use clap::Subcommand;

use crate::cli::command::CommandError;

/// The commands for a bundle.
#[derive(Debug, Subcommand)]
pub(super) enum Bundle {
    /// Describe a bundle and verify its files
    #[command(after_long_help = INSPECT)]
    Inspect(inspect::Inspect),
}

const INSPECT: &str = "\
Examples:
  blip-serve bundle inspect models/blip-large
  blip-serve bundle inspect                                 # the default model of models.toml
  blip-serve bundle inspect --json blip-large | jq .manifest.verification

Exit codes: 0 all files match their checksums; 1 a file does not, or there is no bundle; 2 invalid command line.";

impl Bundle {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        match self {
            Self::Inspect(inspect) => inspect.run(),
        }
    }
}
