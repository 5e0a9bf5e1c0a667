//! `blip-serve caption`: captions images without a server.
//!
//! [`inputs`] lists the images, [`output`] removes those that are already done, [`work`] captions the others.

mod format;
mod input;
mod inputs;
mod names;
mod output;
mod progress;
mod records;
mod resume;
mod source;
mod walk;
mod work;

use std::{num::NonZero, process::ExitCode, thread::available_parallelism};

use clap::Args;

use crate::cli::{
    command::{CommandError, ModelArgs, single_threaded_runtime},
    select,
};
use crate::{
    blip::Manifest,
    captioner::Captioner,
    config::ImageConfig,
    observability::{self, Verbosity},
    registry::{Registry, Shared},
};
use generation::GenerationParameters;
use inputs::InputArgs;
use output::{Output, OutputArgs};
use progress::{Progress, ResultCounts, When};
use work::{Report, Schedule, Worker};

/// Caption images: prints a line for each caption, with the path, a tab and the caption.
#[derive(Debug, Args)]
pub(super) struct CaptionImages {
    #[command(flatten, next_help_heading = "Input")]
    inputs: InputArgs,
    #[command(flatten, next_help_heading = "Output")]
    output: OutputArgs,

    /// Write results as they are ready, not in the order of the input
    #[arg(long, help_heading = "Output")]
    unordered: bool,

    /// When to show progress on standard error
    #[arg(long, value_name = "WHEN", default_value = "auto", help_heading = "Output")]
    progress: When,

    /// Show neither progress nor a summary, only errors
    #[arg(short, long, conflicts_with = "progress", help_heading = "Output")]
    quiet: bool,

    /// Name of a model, or folder of a bundle; defaults to the catalogue's default
    #[arg(long, help_heading = "Models")]
    model: Option<String>,

    /// Number of images at the same time; defaults to two per core, limited by the model's max_rows
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Models")]
    jobs: Option<u16>,

    /// Text that the caption continues
    #[arg(long, value_name = "TEXT", help_heading = "Generation")]
    prompt: Option<String>,

    #[command(flatten)]
    generation: GenerationParameters,
    #[command(flatten)]
    image: ImageConfig,
    #[command(flatten)]
    model_args: ModelArgs,
}

impl CaptionImages {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        observability::init(&self.model_args.log, Verbosity::Quiet)?;
        let runtime = single_threaded_runtime()?;
        let result = runtime.block_on(self.caption_all());
        // After a second signal, an unfinished read of standard input must not keep the process alive.
        runtime.shutdown_background();
        Ok(result?.into())
    }

    async fn caption_all(self) -> Result<u8, CommandError> {
        // Mistakes in the command line are found before the model is loaded, which may take long.
        let entry = select::model(&self.model_args.models, self.model.as_deref())?;
        let mut inputs = self.inputs.list()?;
        let listed = inputs.len();
        let resolved = self.generation.or(&entry.generation).or(&Manifest::load(&entry.path)?.generation);
        let sequences = resolved.num_return_sequences.unwrap_or(1) as usize;
        let output = self.output.open(&mut inputs, sequences)?;
        let total = inputs.len();
        let tally = ResultCounts { total: total as u64, skipped: (listed - total) as u64, ..ResultCounts::default() };
        if inputs.is_empty() {
            return self.report(output, tally).end(None, self.quiet);
        }
        let registry = Registry::load_one(&entry, Shared::for_cli(self.model_args.runtime()?)?).await?;
        let captioner = Captioner::new(registry, &self.image).map_err(|error| error.to_string())?;
        let jobs = self.jobs.map_or_else(|| default_jobs(entry.max_rows), usize::from);
        let schedule = Schedule { jobs, unordered: self.unordered };
        let mut report = self.report(output, tally);
        let worker = Worker {
            captioner,
            prompt: self.prompt,
            parameters: self.generation,
            max_image_bytes: self.image.max_image_bytes,
        };
        let code = work::run(&worker, inputs, schedule, &mut report).await?;
        report.end(code, self.quiet)
    }

    fn report(&self, output: Output, tally: ResultCounts) -> Report {
        let when = if self.quiet { When::Never } else { self.progress };
        let progress = Progress::begin(when, output.is_terminal(), tally.total);
        Report { output, progress, tally }
    }
}

/// Two images per core: while one of each pair is in the engine, the other is read and decoded.
fn default_jobs(max_rows: usize) -> usize {
    let cores = available_parallelism().map_or(1, NonZero::get);
    (2 * cores).min(max_rows).max(1)
}
