//! `blip-serve bundle`: what an exported model is, without running it.

mod inspect;
mod summary;

use std::process::ExitCode;

use clap::Subcommand;

use crate::cli::CommandError;

/// What can be done with a bundle.
#[derive(Debug, Subcommand)]
pub(super) enum Bundle {
    /// Say what a bundle is, and whether its files are those that were exported
    #[command(after_long_help = INSPECT)]
    Inspect(inspect::Inspect),
}

const INSPECT: &str = "\
Examples:
  blip-serve bundle inspect models/blip-large
  blip-serve bundle inspect                                 # the default model of models.toml
  blip-serve bundle inspect --json blip-large | jq .manifest.verification

Exit codes: 0 all files are as exported; 1 one is not, or there is no bundle; 2 the command line is wrong.";

impl Bundle {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        match self {
            Self::Inspect(inspect) => inspect.run(),
        }
    }
}
