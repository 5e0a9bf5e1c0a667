//! The loop of an engine's thread: who is let in, and when the next step is.
//!
//! First come, first served. New images are let in between two steps, and what their encoding took is given back to the
//! images already decoding before the next one is let in: neither side starves. When nothing decodes and a queue has
//! formed, a few images are encoded before the first step, so that they share it: as many as [`Pace`] says, or those in
//! front would wait longer than sharing saves them.

mod admission;

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use crate::engine::{
    EngineLimits, Entry, ImageCache, batch::Batch, encoder_abort::Encoding, latency::Pace, queue::Waiting,
    watch::RunWatch,
};
use crate::{
    blip::BlipModel,
    observability::{InstanceLoad, ModelRecorder},
};

/// How often is looked whether company has come.
const COMPANY_POLL: Duration = Duration::from_micros(200);

pub(super) struct Worker {
    /// Of the model's instance.
    index: usize,
    model: BlipModel,
    limits: EngineLimits,
    receiver: mpsc::Receiver<Entry>,
    batch: Batch,
    /// Not let in yet.
    waiting: Waiting,
    /// Time spent encoding that decoding has not had yet.
    owed: Duration,
    /// Images still to be let in before the next step.
    burst: usize,
    pace: Pace,
    recorder: Arc<ModelRecorder>,
    images: Arc<ImageCache>,
    encoding: Encoding,
    run: RunWatch,
}

/// What comes next.
enum Turn {
    /// Jobs are let in.
    Admit(Vec<Entry>),
    /// Those who are in decode.
    Step,
    /// Every handle is gone and every job is done.
    End,
}

impl Worker {
    pub(super) fn new(
        (index, model): (usize, BlipModel),
        limits: EngineLimits,
        receiver: mpsc::Receiver<Entry>,
        recorder: Arc<ModelRecorder>,
        (images, encoding, run): (Arc<ImageCache>, Encoding, RunWatch),
    ) -> Self {
        let (batch, owed, waiting) = (Batch::new(&model), Duration::ZERO, Waiting::default());
        Self {
            index,
            model,
            limits,
            receiver,
            batch,
            waiting,
            owed,
            burst: 0,
            pace: Pace::default(),
            recorder,
            images,
            encoding,
            run,
        }
    }

    /// Until every handle is dropped and every job is done.
    pub(super) fn run(mut self) {
        loop {
            let start = Instant::now();
            let turn = self.next();
            self.recorder.record_load(self.index, InstanceLoad { queued: self.waiting.len(), rows: self.batch.rows() });
            self.run.begin();
            match turn {
                Turn::End => return,
                Turn::Admit(entries) => {
                    let start = Instant::now();
                    self.admit(entries);
                    self.owed += start.elapsed();
                }
                Turn::Step => {
                    self.step();
                    self.owed = self.owed.saturating_sub(start.elapsed());
                }
            }
            self.run.end();
        }
    }

    /// Whether to let in jobs before the next step. Blocks when idle.
    fn next(&mut self) -> Turn {
        self.collect();
        self.waiting.drop_unwanted();
        let live_rows = self.batch.rows();
        if live_rows == 0 && self.burst == 0 {
            self.owed = Duration::ZERO;
            if self.waiting.len() == 0 {
                self.recorder.record_load(self.index, InstanceLoad::default());
                match self.receiver.blocking_recv() {
                    Some(entry) => self.waiting.push(entry),
                    None => return Turn::End,
                }
            }
            self.wait_for_company();
            self.burst = self.pace.burst(self.waiting.len()).max(self.limits.max_batch_size);
        } else if self.burst == 0 && self.owed == Duration::ZERO && live_rows > 0 {
            // Those who decode have had their share.
            self.burst = self.limits.max_batch_size;
        }
        let (mut entries, mut rows) = (Vec::new(), live_rows);
        while entries.len() < self.limits.max_batch_size.min(self.burst) {
            match self.waiting.peek().map(|entry| entry.search.rows()) {
                Some(more) if rows == 0 || rows + more <= self.limits.max_rows => {
                    rows += more;
                    entries.extend(self.waiting.pop());
                }
                _ => break,
            }
        }
        if entries.is_empty() {
            self.burst = 0;
            return Turn::Step;
        }
        self.burst -= entries.len();
        Turn::Admit(entries)
    }

    /// Takes in what has been sent, without waiting.
    fn collect(&mut self) {
        while let Ok(entry) = self.receiver.try_recv() {
            self.waiting.push(entry);
        }
    }

    /// Gives a run of the encoder that takes several images the time to find them.
    fn wait_for_company(&mut self) {
        let start = Instant::now();
        self.collect();
        while self.waiting.len() < self.limits.max_batch_size && start.elapsed() < self.limits.max_batch_delay {
            thread::sleep(COMPANY_POLL);
            self.collect();
        }
    }

    fn step(&mut self) {
        self.batch.drop_unwanted();
        if self.batch.is_empty() {
            return;
        }
        if let Some((run, finished)) = self.batch.step(&mut self.model) {
            // Counted first: who has an answer can read what it took.
            self.recorder.record_decoder_run(run);
            self.pace.stepped(run.rows, run.input + run.infer + run.output);
            for (reply, sequences) in finished {
                self.pace.finished(reply.stages.steps);
                reply.finish(sequences);
            }
        }
    }
}
