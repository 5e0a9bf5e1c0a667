//! One thread that owns a backend, and the channel to it.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};
use tracing::Span;

use crate::engine::{
    Backend, EngineConfig, Job, NOT_SERVING, Outcome,
    busy_since::BusySince,
    encoder_abort::EncoderAbort,
    entry::{Entry, Responder, Stages},
    worker::Worker,
};
use crate::error::CaptionError;

/// Jobs in the channel, which the thread empties between two runs of the model. Further jobs wait in their senders, in
/// order; admission control bounds all of them.
const CHANNEL_CAPACITY: usize = 16;

/// The handle of the thread, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Instance<B: Backend> {
    sender: mpsc::Sender<Entry<B::EncodedImage>>,
    encoder_abort: EncoderAbort<B::Abort>,
    busy_since: BusySince,
    /// Rows of the jobs that wait or decode.
    rows: AtomicUsize,
}

/// Counts a job's rows as long as it lives, however the job ends.
struct RowsGuard<'a> {
    total: &'a AtomicUsize,
    rows: usize,
}

impl<B: Backend> Instance<B> {
    pub(super) fn spawn(
        name: &str,
        index: usize,
        backend: B,
        config: EngineConfig<B::EncodedImage>,
    ) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel(CHANNEL_CAPACITY);
        let worker = Worker::new(index, backend, config, receiver);
        let (encoder_abort, busy_since) = (worker.encoder_abort.clone(), worker.busy_since.clone());
        // A panic ends the thread and with it the channel: the server sees that the engine has stopped.
        thread::Builder::new().name(format!("engine-{name}-{index}")).spawn(move || worker.run())?;
        Ok(Self { sender, encoder_abort, busy_since, rows: AtomicUsize::new(0) })
    }

    pub(super) async fn run(&self, job: Job<B::EncodedImage>) -> Result<Outcome, CaptionError> {
        let Job { image, prompt, search, request } = job;
        let _rows = RowsGuard::new(&self.rows, search.rows());
        let (sender, receiver) = oneshot::channel();
        let id = self.encoder_abort.next_id();
        let called = Instant::now();
        let stages = Stages::new(Span::current(), called, search.rows(), prompt.len());
        let responder = Responder { id, sender, request, called, admitted: None, stages };
        // This wait is bounded: the caller was admitted, and drops this future at its deadline.
        let sent = self.sender.send(Entry { image, prompt, search, responder }).await;
        sent.map_err(|_| CaptionError::Unavailable(NOT_SERVING))?;
        let _abort = self.encoder_abort.abort_on_drop(id);
        receiver.await.unwrap_or(Err(CaptionError::Unavailable(NOT_SERVING)))
    }

    pub(super) fn rows(&self) -> usize {
        self.rows.load(Ordering::Relaxed)
    }

    pub(super) fn busy_for(&self) -> Duration {
        self.busy_since.elapsed()
    }

    pub(super) fn is_running(&self) -> bool {
        !self.sender.is_closed()
    }
}

impl<'a> RowsGuard<'a> {
    fn new(total: &'a AtomicUsize, rows: usize) -> Self {
        total.fetch_add(rows, Ordering::Relaxed);
        Self { total, rows }
    }
}

impl Drop for RowsGuard<'_> {
    fn drop(&mut self) {
        self.total.fetch_sub(self.rows, Ordering::Relaxed);
    }
}
