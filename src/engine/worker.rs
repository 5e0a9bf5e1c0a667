//! The loop of an engine's thread: admit, encode, prefill, step.
//!
//! First come, first served. New images are let in between two steps, and what their encoding took is given back to the
//! images already decoding before the next one is let in: neither side starves. When nothing decodes and a queue has
//! formed, a few images are encoded before the first step, so that they share it: never more than half of the queue, or
//! those in front would wait longer than sharing saves them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc::{self, error::TryRecvError};
use tracing::debug;

use super::{Entry, ImageCache, JobImage, Reply, batch::Batch, encoding::Encoding};
use crate::{
    blip::{BlipModel, EncodedImage, RunError},
    error::CaptionError,
    generation::Advance,
    statistics::{DecoderRun, Statistics},
};

/// Images encoded one after the other before the first step of any of them. A decoder step costs little more for four rows
/// than for one, and a fifth encoder run delays the first image more than sharing saves the fifth.
const MAX_BURST: usize = 4;

pub(super) struct Worker {
    model: BlipModel,
    max_rows: usize,
    receiver: mpsc::Receiver<Entry>,
    batch: Batch,
    /// The next to be let in, when its rows did not fit.
    waiting: Option<Entry>,
    /// Time spent encoding that decoding has not had yet.
    owed: Duration,
    /// Images still to be let in before the next step.
    burst: usize,
    statistics: Arc<Statistics>,
    images: Arc<ImageCache>,
    encoding: Encoding,
}

/// What comes next.
enum Turn {
    /// A job is let in.
    Admit(Box<Entry>),
    /// Those who are in decode.
    Step,
    /// Every handle is gone and every job is done.
    End,
}

impl Worker {
    pub(super) fn new(
        model: BlipModel,
        max_rows: usize,
        receiver: mpsc::Receiver<Entry>,
        statistics: Arc<Statistics>,
        (images, encoding): (Arc<ImageCache>, Encoding),
    ) -> Self {
        let (batch, owed) = (Batch::new(&model), Duration::ZERO);
        Self { model, max_rows, receiver, batch, waiting: None, owed, burst: 0, statistics, images, encoding }
    }

    /// Until every handle is dropped and every job is done.
    pub(super) fn run(mut self) {
        loop {
            let start = Instant::now();
            match self.next() {
                Turn::End => return,
                Turn::Admit(entry) => {
                    let start = Instant::now();
                    self.admit(*entry);
                    self.owed += start.elapsed();
                }
                Turn::Step => {
                    self.step();
                    self.owed = self.owed.saturating_sub(start.elapsed());
                }
            }
        }
    }

    /// Whether to let in a job before the next step. Blocks when idle.
    fn next(&mut self) -> Turn {
        let live_rows = self.batch.rows();
        if live_rows == 0 && self.burst == 0 {
            self.owed = Duration::ZERO;
            if self.waiting.is_none() {
                self.waiting = self.receiver.blocking_recv();
            }
            let Some(_) = self.waiting else { return Turn::End };
            self.burst = (1 + self.receiver.len()).div_ceil(2).min(MAX_BURST);
        } else if self.burst == 0 && self.owed == Duration::ZERO && live_rows > 0 {
            // Those who decode have had their share.
            self.burst = 1;
        }
        if self.burst == 0 {
            return Turn::Step;
        }
        let next = self.waiting.take().map_or_else(|| self.receiver.try_recv(), Ok);
        match next {
            Ok(entry) if live_rows == 0 || live_rows + entry.search.rows() <= self.max_rows => {
                self.burst -= 1;
                return Turn::Admit(Box::new(entry));
            }
            Ok(entry) => self.waiting = Some(entry),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
        }
        self.burst = 0;
        Turn::Step
    }

    /// Encodes an image, runs its prompt and puts it into the batch; or answers at once, if that is all.
    fn admit(&mut self, entry: Entry) {
        let Entry { image, prompt, mut search, mut reply } = entry;
        let _span = reply.span.clone().entered();
        if let Some(error) = reply.unwanted() {
            return reply.fail(error);
        }
        reply.admitted = Some(Instant::now());
        let image = match self.encode(image, &reply) {
            Ok(image) => image,
            Err(error) => {
                let error = reply.unwanted().unwrap_or_else(|| CaptionError::internal(error));
                return reply.fail(error);
            }
        };
        if let Some(error) = reply.unwanted() {
            return reply.fail(error);
        }
        if let [start] = prompt[..] {
            return self.batch.join_at_start(&self.model, image, (start, search), reply);
        }
        let first = self.model.prefill(&image, &prompt).and_then(|prefill| {
            let (infer, start) = (self.model.take_run_time(), Instant::now());
            let advance = search.advance(prefill.logits.as_slice()?);
            self.statistics.record_decoder_run(DecoderRun::of_prompt(infer, start.elapsed()));
            Ok::<_, RunError>((prefill, advance))
        });
        match first {
            Err(error) => reply.fail(CaptionError::internal(error)),
            Ok((_, Advance::Done(sequences))) => {
                reply.tell(&search);
                reply.finish(sequences);
            }
            // All rows come from the one prompt: there is nothing to reorder.
            Ok((prefill, Advance::Continue { token_ids, .. })) => {
                self.batch.join(&self.model, (image, prefill), (token_ids, search), reply);
            }
        }
    }

    fn encode(&mut self, image: JobImage, reply: &Reply) -> Result<Arc<EncodedImage>, RunError> {
        let (pixel_values, digest) = match image {
            JobImage::Encoded(image) => return Ok(image),
            JobImage::Pixels { pixel_values, digest } => (pixel_values, digest),
        };
        let image = self.encoding.run(reply.id, |abort| self.model.encode(&pixel_values, abort))?;
        let elapsed = self.model.take_run_time();
        self.statistics.record_encoder_run(elapsed);
        debug!(elapsed_ms = elapsed.as_secs_f64() * 1e3, "image encoded");
        if let Some(digest) = digest {
            self.images.insert(digest, &image);
        }
        Ok(image)
    }

    fn step(&mut self) {
        self.batch.drop_unwanted();
        if self.batch.is_empty() {
            return;
        }
        if let Some(run) = self.batch.step(&mut self.model) {
            self.statistics.record_decoder_run(run);
        }
    }
}
