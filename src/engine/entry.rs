//! One image on its way through the engine's thread, and the request that waits for its sequences.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use crate::{engine::Digest, error::CaptionError, observability::record_stage};
use generation::{Search, Sequence, TokenId};
use image_processor::PixelValues;

/// One image to caption, with every parameter checked.
#[derive(Debug)]
pub struct Job<I> {
    /// The image, encoded or not.
    pub image: JobImage<I>,
    /// At least the start token.
    pub prompt: Vec<TokenId>,
    /// Chooses the tokens.
    pub search: Search,
    /// The request that waits for the sequences.
    pub request: RequestHandle,
}

/// The image of a job.
#[derive(Debug)]
pub enum JobImage<I> {
    /// An image that must be encoded.
    Pixels {
        /// The input of the encoder.
        pixel_values: PixelValues,
        /// The key under which the image cache keeps the encoded image; `None` keeps it out of the cache.
        digest: Option<Digest>,
    },
    /// An image that an earlier job encoded.
    Encoded(Arc<I>),
}

/// The request that waits for an answer, and its deadline.
#[derive(Debug, Default)]
pub struct RequestHandle {
    /// When the client stops waiting for the answer.
    pub deadline: Option<Instant>,
    /// Cancelled when the client disconnects.
    pub cancelled: CancellationToken,
    /// Receives the ids decided so far, prompt included, after each step of a search whose ids are final at once.
    pub progress: Option<watch::Sender<Vec<TokenId>>>,
    /// The client in whose turn the job is admitted.
    pub caller: Caller,
    /// The instance that must run the job; `None` takes the least loaded one.
    pub instance: Option<usize>,
}

/// Identifies the client of a request: callers take turns.
pub type Caller = u64;

/// The result of a job.
#[derive(Debug)]
pub struct Outcome {
    /// The sequences, best first if they come from beams.
    pub sequences: Vec<Sequence>,
    /// Time from the call to the first run of a graph.
    pub queue: Duration,
    /// Time from the first run of a graph to the last token.
    pub infer: Duration,
}

/// A job inside the engine's thread.
pub(super) struct Entry<I> {
    pub(super) image: JobImage<I>,
    pub(super) prompt: Vec<TokenId>,
    pub(super) search: Search,
    pub(super) responder: Responder,
}

/// Sends the result of a job, and checks whether its client still waits for it.
pub(super) struct Responder {
    /// Identifies the job among those whose images are being encoded.
    pub(super) id: u64,
    sender: oneshot::Sender<Result<Outcome, CaptionError>>,
    pub(super) request: RequestHandle,
    called: Instant,
    /// When the first graph ran.
    pub(super) admitted: Option<Instant>,
    pub(super) stages: Stages,
}

impl<I> Entry<I> {
    /// Returns the entry of a job that is sent to the thread at `called`, and where its result arrives.
    pub(super) fn new(
        id: u64,
        job: Job<I>,
        called: Instant,
    ) -> (Self, oneshot::Receiver<Result<Outcome, CaptionError>>) {
        let Job { image, prompt, search, request } = job;
        let (sender, receiver) = oneshot::channel();
        let stages = Stages::new(Span::current(), called, search.rows(), prompt.len());
        let responder = Responder { id, sender, request, called, admitted: None, stages };
        (Self { image, prompt, search, responder }, receiver)
    }
}

impl Responder {
    /// Returns the error of a job whose client disconnected or whose deadline passed.
    pub(super) fn abandoned(&self, now: Instant) -> Option<CaptionError> {
        if self.request.cancelled.is_cancelled() || self.sender.is_closed() {
            Some(CaptionError::Cancelled)
        } else if self.request.deadline.is_some_and(|deadline| now >= deadline) {
            Some(CaptionError::DeadlineExceeded)
        } else {
            None
        }
    }

    /// Publishes the ids decided so far to the reader of a streamed caption.
    pub(super) fn publish_progress(&self, search: &Search) {
        if let (Some(progress), Some(decided)) = (&self.request.progress, search.stable_prefix()) {
            progress.send_modify(|ids| ids.extend_from_slice(&decided[ids.len()..]));
        }
    }

    /// Sends the sequences.
    pub(super) fn finish(self, sequences: Vec<Sequence>, now: Instant) {
        let admitted = self.admitted.unwrap_or(self.called);
        let (queue, infer) = (admitted - self.called, now - admitted);
        self.stages.end(&sequences, now);
        self.send(Ok(Outcome { sequences, queue, infer }));
    }

    /// Sends an error instead.
    pub(super) fn fail(self, error: CaptionError, now: Instant) {
        self.stages.end(&[], now);
        self.send(Err(error));
    }

    fn send(self, result: Result<Outcome, CaptionError>) {
        // The receiver is dropped when the client disconnects.
        let _ = self.sender.send(result);
    }
}

/// The stages of a job in the trace of its request: they follow each other without a gap.
pub(super) struct Stages {
    /// The request's span. Log lines of the engine's thread belong to it.
    pub(super) span: Span,
    /// Decoder steps after the run of the prompt.
    pub(super) steps: usize,
    name: &'static str,
    since: Instant,
    rows: usize,
    prompt_len: usize,
}

impl Stages {
    /// A run of the encoder.
    pub(super) const ENCODE: &str = "encode";
    /// The run of the prompt and all steps of the decoder.
    pub(super) const DECODE_STEPS: &str = "decode_steps";

    /// Starts with the time in the queue.
    fn new(span: Span, called: Instant, rows: usize, prompt_len: usize) -> Self {
        Self { span, steps: 0, name: "queue", since: called, rows, prompt_len }
    }

    /// Ends the current stage and starts the next one.
    pub(super) fn enter(&mut self, name: &'static str, now: Instant) {
        record_stage(&self.span, self.name, self.since..now, &[]);
        (self.name, self.since) = (name, now);
    }

    /// Ends the last stage. A job without sequences has failed.
    fn end(&self, sequences: &[Sequence], now: Instant) {
        let tokens = sequences.iter().map(|sequence| sequence.token_ids.len().saturating_sub(self.prompt_len)).sum();
        let counts = [("rows", self.rows), ("steps", self.steps), ("tokens", tokens)];
        let counts = if self.name == Self::DECODE_STEPS { &counts[..] } else { &[] };
        record_stage(&self.span, self.name, self.since..now, counts);
    }
}
