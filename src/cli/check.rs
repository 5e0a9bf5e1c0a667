//! `blip-serve check`: verifies every model of the catalogue.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Args;

use crate::cli::{
    command::{CommandError, ModelArgs, single_threaded_runtime},
    select,
};
use crate::{
    observability::{self, Verbosity},
    registry::{ServedModel, Shared},
};

/// Verify checksums and graphs of all models against their manifests, and caption a self-test image with each.
#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    model_args: ModelArgs,
}

impl Check {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        observability::init(&self.model_args.log, Verbosity::Quiet)?;
        let catalogue = select::catalogue(&self.model_args.models)?;
        let shared = Shared::for_cli(self.model_args.runtime()?)?;
        writeln!(io::stdout(), "jpeg: {}", image_processor::JPEG_CODE)?;
        single_threaded_runtime()?.block_on(async {
            for entry in &catalogue.models {
                ServedModel::load(entry, &shared).await.map_err(|error| format!("{}: {error}", entry.name))?;
                writeln!(io::stdout(), "{}: ok", entry.name)?;
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}
