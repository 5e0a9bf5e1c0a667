//! Where the time of a job goes, for the trace of its request: stages follow each other without a gap.

use std::time::Instant;

use tracing::Span;

use crate::observability::record_stage;
use generation::Sequence;

/// A run of the encoder.
pub(super) const ENCODE: &str = "encode";
/// All steps of the decoder, and the run of the prompt.
pub(super) const DECODE_STEPS: &str = "decode_steps";

pub(super) struct Stages {
    /// The request's.
    pub(super) span: Span,
    /// Runs of the decoder after the prompt's.
    pub(super) steps: usize,
    name: &'static str,
    since: Instant,
    rows: usize,
    prompt_len: usize,
}

impl Stages {
    /// The job waits from `called` on.
    pub(super) fn new(span: Span, called: Instant, (rows, prompt_len): (usize, usize)) -> Self {
        Self { span, steps: 0, name: "queue", since: called, rows, prompt_len }
    }

    /// What it was at is over, the next stage begins.
    pub(super) fn enter(&mut self, name: &'static str, now: Instant) {
        record_stage(&self.span, self.name, self.since..now, &[]);
        (self.name, self.since) = (name, now);
    }

    /// The last stage is over; without sequences it failed.
    pub(super) fn end(&self, sequences: &[Sequence]) {
        let tokens = sequences.iter().map(|sequence| sequence.token_ids.len().saturating_sub(self.prompt_len)).sum();
        let counts = [("rows", self.rows), ("steps", self.steps), ("tokens", tokens)];
        let counts = if self.name == DECODE_STEPS { &counts[..] } else { &[] };
        record_stage(&self.span, self.name, self.since..Instant::now(), counts);
    }
}
