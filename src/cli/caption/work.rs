//! Captions several images concurrently, and writes the results.
//!
//! At most `jobs` images are in memory. Results are written in the order of the list unless `--unordered` is set. A signal
//! ends the run gracefully: the images in progress are finished and written.

use std::{ffi::OsString, pin::pin};

use futures_util::{StreamExt, stream};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::caption::{
    input::Input,
    names,
    output::Output,
    progress::{Progress, ResultCounts},
    source,
};
use crate::{
    caption::{Caption, CaptionRequest, Prompt},
    captioner::Captioner,
    cli::command::CommandError,
    error::CaptionError,
    observability,
};
use generation::GenerationParameters;

/// Exit codes after a signal: 128 + its number, as shells report it.
const EXIT_SIGINT: u8 = 130;
const EXIT_SIGTERM: u8 = 143;

/// Captions single images.
pub(super) struct Worker {
    pub(super) captioner: Captioner,
    pub(super) prompt: Option<String>,
    pub(super) parameters: GenerationParameters,
    pub(super) max_image_bytes: usize,
}

/// How the images are scheduled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    /// Number of concurrent images.
    pub(super) jobs: usize,
    /// Whether results are written as they are ready.
    pub(super) unordered: bool,
}

/// Writes the results and shows the progress.
pub(super) struct Report {
    pub(super) output: Output,
    pub(super) progress: Progress,
    pub(super) tally: ResultCounts,
}

struct InputResult {
    name: OsString,
    result: Result<Vec<Caption>, Failure>,
}

enum Failure {
    /// This image failed; others may succeed.
    Image(String),
    /// The model failed: no further image can be captioned.
    Model(String),
}

/// Captions all inputs; returns the exit code of a signal that ended the run.
pub(super) async fn run(
    worker: &Worker,
    inputs: Vec<Input>,
    schedule: Schedule,
    report: &mut Report,
) -> Result<Option<u8>, CommandError> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = CancellationToken::new();
    let begun = stream::iter(inputs).take_until(stop.cancelled()).map(|input| worker.caption(input));
    let results = match schedule {
        Schedule { jobs, unordered: false } => begun.buffered(jobs).left_stream(),
        Schedule { jobs, unordered: true } => begun.buffer_unordered(jobs).right_stream(),
    };
    let mut results = pin!(results);
    let mut code = None;
    loop {
        let signal = tokio::select! {
            done = results.next() => match done {
                Some(done) => {
                    report.take(done)?;
                    continue;
                }
                None => return Ok(code),
            },
            _ = interrupt.recv() => EXIT_SIGINT,
            _ = terminate.recv() => EXIT_SIGTERM,
        };
        // A second signal stops at once.
        if code.replace(signal).is_some() {
            return Ok(code);
        }
        stop.cancel();
        report
            .progress
            .suspend(|| observability::print_status("finishing the images in progress; another signal stops at once"));
    }
}

impl Worker {
    async fn caption(&self, input: Input) -> InputResult {
        let result = self.captions(&input).await;
        InputResult { name: input.name, result }
    }

    async fn captions(&self, input: &Input) -> Result<Vec<Caption>, Failure> {
        let image = source::read(input, self.max_image_bytes).await.map_err(Failure::Image)?;
        let request = CaptionRequest {
            model: None,
            version: None,
            image,
            prompt: self.prompt.clone().map(|text| Prompt { text, field: "prompt" }),
            parameters: self.parameters.clone(),
            deadline: None,
            cancelled: CancellationToken::new(),
            caller: 0,
        };
        let reply = match self.captioner.resolve(&request) {
            Ok(model) => self.captioner.caption(&model, request).await,
            Err(error) => Err(error),
        };
        match reply {
            Ok(reply) => Ok(reply.captions),
            Err(error @ CaptionError::Unavailable(_)) => Err(Failure::Model(source::explain(&error))),
            Err(error) => Err(Failure::Image(source::explain(&error))),
        }
    }
}

impl Report {
    fn take(&mut self, done: InputResult) -> Result<(), CommandError> {
        let Self { output, progress, tally } = self;
        let uses_terminal = output.is_terminal() || done.result.is_err();
        let write = || write(output, tally, done);
        let written = if uses_terminal { progress.suspend(write) } else { write() };
        written?;
        self.progress.advance(&self.tally);
        Ok(())
    }

    /// Prints the summary and returns the exit code; `code` is that of the signal that ended the run.
    pub(super) fn end(mut self, code: Option<u8>, quiet: bool) -> Result<u8, CommandError> {
        self.output.finish()?;
        let summary = self.progress.end(&self.tally);
        if let Some(code) = code {
            let hint = if self.output.is_resumable() { "; run the same command with --resume to continue" } else { "" };
            observability::print_status(&format!("interrupted: {summary}{hint}"));
            return Ok(code);
        }
        if !quiet && (self.progress.is_shown() || self.output.is_file()) {
            observability::print_status(&summary);
        }
        Ok(u8::from(self.tally.failed > 0))
    }
}

fn write(output: &mut Output, tally: &mut ResultCounts, done: InputResult) -> Result<(), CommandError> {
    match done.result {
        Ok(captions) => {
            output.captions(&done.name, &captions)?;
            tally.captioned += 1;
        }
        Err(Failure::Image(error)) => {
            tally.failed += 1;
            if !output.failure(&done.name, &error)? {
                observability::print_status(&format!("{}: {error}", names::text(&done.name)));
            }
        }
        Err(Failure::Model(error)) => return Err(error.into()),
    }
    Ok(())
}
