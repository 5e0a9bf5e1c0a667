//! The loop of an engine's thread: admit, encode, prefill, step.
//!
//! First come, first served. New images are let in between two steps, and what their encoding took is given back to the
//! images already decoding before the next one is let in: neither side starves, and with a slow encoder the images end
//! one after the other instead of all at the end.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc::{self, error::TryRecvError};
use tracing::debug;

use super::{Entry, batch::Batch};
use crate::{
    blip::{BatchKey, BlipModel, RunError},
    error::CaptionError,
    generation::Advance,
    statistics::Statistics,
};

pub(super) struct Worker {
    model: BlipModel,
    max_rows: usize,
    receiver: mpsc::Receiver<Entry>,
    batches: Vec<Batch>,
    /// The next to be let in, when its rows did not fit.
    waiting: Option<Entry>,
    /// Time spent encoding that decoding has not had yet.
    owed: Duration,
    statistics: Arc<Statistics>,
}

/// What comes before the next step.
enum Turn {
    /// A job is let in.
    Admit(Box<Entry>),
    /// Nothing: others decode.
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
    ) -> Self {
        Self { model, max_rows, receiver, batches: Vec::new(), waiting: None, owed: Duration::ZERO, statistics }
    }

    /// Until every handle is dropped and every job is done.
    pub(super) fn run(mut self) {
        loop {
            match self.next() {
                Turn::End => return,
                Turn::Admit(entry) => {
                    let start = Instant::now();
                    self.admit(*entry);
                    self.owed += start.elapsed();
                }
                Turn::Step => {}
            }
            let start = Instant::now();
            self.step();
            self.owed = self.owed.saturating_sub(start.elapsed());
        }
    }

    /// Whether to let in a job before the next step. Blocks when idle.
    fn next(&mut self) -> Turn {
        let live_rows: usize = self.batches.iter().map(Batch::rows).sum();
        let idle = live_rows == 0;
        if idle {
            self.owed = Duration::ZERO;
        } else if self.owed > Duration::ZERO || live_rows >= self.max_rows {
            return Turn::Step;
        }
        let entry = match self.waiting.take() {
            Some(entry) => entry,
            None if idle => match self.receiver.blocking_recv() {
                Some(entry) => entry,
                None => return Turn::End,
            },
            None => match self.receiver.try_recv() {
                Ok(entry) => entry,
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return Turn::Step,
            },
        };
        if !idle && live_rows + entry.search.rows() > self.max_rows {
            self.waiting = Some(entry);
            return Turn::Step;
        }
        Turn::Admit(Box::new(entry))
    }

    /// Encodes an image, runs its prompt and puts it into a batch; or answers at once, if that is all.
    fn admit(&mut self, entry: Entry) {
        let Entry { pixel_values, prompt, mut search, mut reply } = entry;
        let _span = reply.span.clone().entered();
        if let Some(error) = reply.unwanted() {
            return reply.fail(error);
        }
        let start = *reply.admitted.insert(Instant::now());
        let image = match self.model.encode(&pixel_values) {
            Ok(image) => image,
            Err(error) => return reply.fail(CaptionError::internal(error)),
        };
        debug!(elapsed_ms = start.elapsed().as_secs_f64() * 1e3, "image encoded");
        if let Some(error) = reply.unwanted() {
            return reply.fail(error);
        }
        let start = Instant::now();
        let first = self.model.prefill(&image, &prompt).and_then(|prefill| {
            let advance = search.advance(prefill.logits.as_slice()?);
            Ok::<_, RunError>((prefill, advance))
        });
        self.statistics.record_decoder_run(1, start.elapsed());
        match first {
            Err(error) => reply.fail(CaptionError::internal(error)),
            Ok((_, Advance::Done(sequences))) => {
                reply.tell(&search);
                reply.finish(sequences);
            }
            // All rows come from the one prompt: there is nothing to reorder.
            Ok((prefill, Advance::Continue { token_ids, .. })) => {
                let key = BatchKey::new(search.rows(), prefill.prompt_len);
                let batch = batch_for(&mut self.batches, &self.model, key, self.max_rows);
                batch.join(&self.model, (&image, &prefill), (search, &token_ids), reply);
            }
        }
    }

    fn step(&mut self) {
        for batch in &mut self.batches {
            batch.drop_unwanted();
            if !batch.is_empty() {
                let (rows, start) = (batch.rows(), Instant::now());
                batch.step(&mut self.model);
                self.statistics.record_decoder_run(rows, start.elapsed());
            }
        }
        while let Some(index) = self.batches.iter().position(|batch| batch.outgrown().is_some()) {
            let mut grown = self.batches.swap_remove(index);
            while let Some((image, key)) = grown.outgrown() {
                let target = batch_for(&mut self.batches, &self.model, key, self.max_rows);
                grown.move_to(image, target);
            }
            self.batches.push(grown);
        }
        // An idle server keeps no caches.
        self.batches.retain(|batch| !batch.is_empty());
    }
}

/// The batch of this key with room for one more image; a new one if there is none.
fn batch_for<'b>(batches: &'b mut Vec<Batch>, model: &BlipModel, key: BatchKey, max_rows: usize) -> &'b mut Batch {
    let has_room = |batch: &Batch| batch.key == key && batch.rows() + key.rows <= max_rows;
    let index = batches.iter().position(has_room).unwrap_or(batches.len());
    if index == batches.len() {
        batches.push(Batch::new(model, key));
    }
    &mut batches[index]
}
