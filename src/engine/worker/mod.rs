//! The loop of the engine's thread: it asks the scheduler for the next action and executes it.

mod admission;
mod busy_since;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

pub(super) use busy_since::BusySince;
use tokio::sync::mpsc::{self, error::TryRecvError};

use crate::engine::{
    Backend, ImageCache,
    batch::Batch,
    encoder_abort::EncoderAbort,
    entry::Entry,
    queue::FairQueue,
    scheduler::{Action, EngineLimits, Scheduler, State},
};
use crate::observability::{InstanceLoad, ModelRecorder};

/// How often an idle engine that fills its first batch looks for more jobs.
const FILL_POLL: Duration = Duration::from_micros(200);

/// Everything that the thread of an instance owns.
pub(super) struct Worker<B: Backend> {
    /// The number of the instance.
    index: usize,
    backend: B,
    receiver: mpsc::Receiver<Entry<B::EncodedImage>>,
    /// Jobs that are not admitted yet.
    queue: FairQueue<B::EncodedImage>,
    /// Images that decode.
    batch: Batch,
    state: State,
    recorder: Arc<ModelRecorder>,
    images: Arc<ImageCache<B::EncodedImage>>,
    pub(super) encoder_abort: EncoderAbort<B::Abort>,
    pub(super) busy_since: BusySince,
}

/// What the instances of a model share.
#[derive(Debug)]
pub struct EngineConfig<I> {
    /// How much an instance does at once.
    pub limits: EngineLimits,
    /// Records the runs of the model.
    pub recorder: Arc<ModelRecorder>,
    /// Where encoded images are kept for other prompts.
    pub images: Arc<ImageCache<I>>,
}

impl<B: Backend> Worker<B> {
    pub(super) fn new(
        index: usize,
        backend: B,
        config: EngineConfig<B::EncodedImage>,
        receiver: mpsc::Receiver<Entry<B::EncodedImage>>,
    ) -> Self {
        Self {
            index,
            state: State::new(config.limits, backend.now()),
            backend,
            receiver,
            queue: FairQueue::new(),
            batch: Batch::default(),
            recorder: config.recorder,
            images: config.images,
            encoder_abort: EncoderAbort::new(),
            busy_since: BusySince::default(),
        }
    }

    /// Runs until every sender is dropped and every job is done.
    pub(super) fn run(mut self) {
        loop {
            let action = self.next_action();
            if action == Action::Stop {
                return;
            }
            self.execute(action);
        }
    }

    /// Brings the state up to date, without waiting, and asks the scheduler.
    fn next_action(&mut self) -> Action {
        self.state.now = self.backend.now();
        self.receive();
        self.queue.drop_abandoned(self.state.now);
        self.batch.drop_abandoned(&mut self.backend);
        self.state.waiting = self.queue.len();
        self.state.next_rows = self.queue.next_rows(self.state.limits.max_batch_size);
        self.state.live_rows = self.batch.rows();
        Scheduler::next(&self.state)
    }

    fn execute(&mut self, action: Action) {
        match action {
            Action::Admit { entries, .. } => {
                let entries = (0..entries).filter_map(|_| self.queue.pop()).collect();
                self.record_load();
                self.busy_since.start();
                self.admit(entries);
            }
            Action::Step => {
                self.record_load();
                self.busy_since.start();
                self.step();
            }
            Action::Fill { until } => self.backend.sleep(FILL_POLL.min(until - self.state.now)),
            Action::Block => {
                self.record_load();
                if let Some(entry) = self.receiver.blocking_recv() {
                    self.queue.push(entry);
                }
            }
            Action::Stop => {}
        }
        self.busy_since.stop();
        self.state.record(action, self.backend.now() - self.state.now);
    }

    /// Moves the jobs that were sent into the queue.
    fn receive(&mut self) {
        loop {
            match self.receiver.try_recv() {
                Ok(entry) => self.queue.push(entry),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.state.senders_gone = true;
                    return;
                }
            }
        }
    }

    fn step(&mut self) {
        let Some(step) = self.batch.step(&mut self.backend) else { return };
        // Counted before the answers are sent: a client that has its answer finds its work in the statistics.
        self.recorder.record_decoder_run(step.run);
        let latency = &mut self.state.latency;
        latency.record_step(step.run.rows, step.run.input + step.run.infer + step.run.output);
        for finished in step.finished {
            latency.record_image(finished.responder.stages.steps);
            finished.responder.finish(finished.sequences, self.backend.now());
        }
    }

    fn record_load(&self) {
        let load = InstanceLoad { queued: self.queue.len(), rows: self.batch.rows() };
        self.recorder.record_load(self.index, load);
    }
}

impl<I> Clone for EngineConfig<I> {
    fn clone(&self) -> Self {
        Self { limits: self.limits, recorder: self.recorder.clone(), images: self.images.clone() }
    }
}
