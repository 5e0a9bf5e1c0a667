//! One thread with the sessions of a model, and the way to it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};
use tracing::Span;

use crate::engine::{
    EngineLimits, Entry, ImageCache, Job, NOT_SERVING, Outcome, Reply, encoder_abort::Encoding, stages::Stages,
    watch::RunWatch, worker::Worker,
};
use crate::{blip::BlipModel, error::CaptionError, observability::ModelRecorder};

/// Jobs on their way to the thread, which takes them out between two runs of a graph. Those behind them wait in their
/// senders, in order; admission bounds all.
const CHANNEL_CAPACITY: usize = 16;

/// A bounded sender; the thread ends when it is dropped.
#[derive(Debug)]
pub(super) struct Instance {
    sender: mpsc::Sender<Entry>,
    /// What the encoder is busy with.
    encoding: Encoding,
    /// Since when a run is going on.
    run: RunWatch,
    /// Rows of the jobs that wait or decode.
    rows: AtomicUsize,
}

/// Takes a job's rows from its instance when it is over, however it ends.
struct Occupied<'a> {
    instance: &'a Instance,
    rows: usize,
}

impl Instance {
    pub(super) fn spawn(
        (name, index): (&str, usize),
        model: BlipModel,
        limits: EngineLimits,
        recorder: Arc<ModelRecorder>,
        images: Arc<ImageCache>,
    ) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel(CHANNEL_CAPACITY);
        let encoding = Encoding::default();
        let run = RunWatch::default();
        let worker = Worker::new((index, model), limits, receiver, recorder, (images, encoding.clone(), run.clone()));
        // A panic ends the thread and with it the channel: the server sees that the engine is gone.
        thread::Builder::new().name(format!("engine-{name}-{index}")).spawn(move || worker.run())?;
        Ok(Self { sender, encoding, run, rows: AtomicUsize::new(0) })
    }

    pub(super) async fn run(&self, job: Job) -> Result<Outcome, CaptionError> {
        let Job { image, prompt, search, audience } = job;
        let _occupied = Occupied::new(self, search.rows());
        let (sender, receiver) = oneshot::channel();
        let id = self.encoding.next_id();
        let called = Instant::now();
        let stages = Stages::new(Span::current(), called, (search.rows(), prompt.len()));
        let reply = Reply { id, sender, audience, called, admitted: None, stages };
        // Waiting here is bounded: whoever calls was admitted, and drops this future when its time is over.
        let sent = self.sender.send(Entry { image, prompt, search, reply }).await;
        sent.map_err(|_| CaptionError::Unavailable(NOT_SERVING))?;
        let _leaving = self.encoding.abort_on_drop(id);
        receiver.await.unwrap_or(Err(CaptionError::Unavailable(NOT_SERVING)))
    }

    pub(super) fn rows(&self) -> usize {
        self.rows.load(Ordering::Relaxed)
    }

    pub(super) fn busy_for(&self) -> Duration {
        self.run.elapsed()
    }

    pub(super) fn is_running(&self) -> bool {
        !self.sender.is_closed()
    }
}

impl<'a> Occupied<'a> {
    fn new(instance: &'a Instance, rows: usize) -> Self {
        instance.rows.fetch_add(rows, Ordering::Relaxed);
        Self { instance, rows }
    }
}

impl Drop for Occupied<'_> {
    fn drop(&mut self) {
        self.instance.rows.fetch_sub(self.rows, Ordering::Relaxed);
    }
}
