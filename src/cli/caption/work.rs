//! Images through the captioner, several at a time, and the results to where they belong.
//!
//! At most `jobs` images are in memory. Results come in the order of the list, whichever is ready first, unless that
//! does not matter. A signal ends the run between two images: what has begun is finished and written.

use std::{ffi::OsString, pin::pin};

use futures_util::{StreamExt, stream};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::caption::{
    inputs::Input,
    names,
    output::Output,
    progress::{Progress, Tally},
    source,
};
use crate::{
    caption::{Caption, CaptionRequest, Prompt},
    captioner::Captioner,
    cli::CommandError,
    error::CaptionError,
    observability,
};
use generation::GenerationParameters;

/// 128 + the number of the signal, as shells tell it.
const INTERRUPTED: u8 = 130;
const TERMINATED: u8 = 143;

/// Captions one image.
pub(super) struct Worker {
    pub(super) captioner: Captioner,
    pub(super) prompt: Option<String>,
    pub(super) parameters: GenerationParameters,
    pub(super) max_image_bytes: usize,
}

/// How the images are taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    /// Images at the same time.
    pub(super) jobs: usize,
    /// Results as they come.
    pub(super) unordered: bool,
}

/// Takes the results.
pub(super) struct Report {
    pub(super) output: Output,
    pub(super) progress: Progress,
    pub(super) tally: Tally,
}

struct Done {
    name: OsString,
    result: Result<Vec<Caption>, Failure>,
}

enum Failure {
    /// This image; the next may do better.
    Image(String),
    /// The model: no image will get a caption any more.
    Model(String),
}

/// Captions all inputs; the exit code of the signal that came before the end.
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
            _ = interrupt.recv() => INTERRUPTED,
            _ = terminate.recv() => TERMINATED,
        };
        // Who asks twice does not want to wait.
        if code.replace(signal).is_some() {
            return Ok(code);
        }
        stop.cancel();
        report
            .progress
            .aside(|| observability::print_status("finishing the images that have begun; once more stops at once"));
    }
}

impl Worker {
    async fn caption(&self, input: Input) -> Done {
        let result = self.captions(&input).await;
        Done { name: input.name, result }
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
    fn take(&mut self, done: Done) -> Result<(), CommandError> {
        let Self { output, progress, tally } = self;
        let is_seen = output.is_terminal() || done.result.is_err();
        let write = || write(output, tally, done);
        let written = if is_seen { progress.aside(write) } else { write() };
        written?;
        self.progress.advance(&self.tally);
        Ok(())
    }

    /// The last words, and what the process ends with; `code` of the signal that ended the run.
    pub(super) fn end(mut self, code: Option<u8>, quiet: bool) -> Result<u8, CommandError> {
        self.output.finish()?;
        let (sentence, was_shown) = self.progress.end(&self.tally);
        if let Some(code) = code {
            let hint = if self.output.is_resumable() { "; the same command with --resume does the rest" } else { "" };
            observability::print_status(&format!("interrupted: {sentence}{hint}"));
            return Ok(code);
        }
        if !quiet && (was_shown || self.output.is_file()) {
            observability::print_status(&sentence);
        }
        Ok(u8::from(self.tally.failed > 0))
    }
}

fn write(output: &mut Output, tally: &mut Tally, done: Done) -> Result<(), CommandError> {
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
