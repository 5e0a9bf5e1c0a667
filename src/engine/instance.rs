//! One thread that owns a backend, and the channel to it.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use crate::engine::{
    Backend, Job, Outcome,
    encoder_abort::EncoderAbort,
    entry::Entry,
    worker::{BusySince, EngineConfig, Worker},
};
use crate::error::CaptionError;

pub(super) const NOT_SERVING: &str = "the model is not serving";

/// Jobs in the channel, which the thread empties between two runs of the model. Further senders wait in `send`, in
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

/// Counts a job's rows until it is dropped, however the job ends.
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
        // A panic ends the thread and with it the channel: the server detects that the engine has stopped.
        thread::Builder::new().name(format!("engine-{name}-{index}")).spawn(move || worker.run())?;
        Ok(Self { sender, encoder_abort, busy_since, rows: AtomicUsize::new(0) })
    }

    pub(super) async fn run(&self, job: Job<B::EncodedImage>) -> Result<Outcome, CaptionError> {
        let _rows = RowsGuard::new(&self.rows, job.search.rows());
        let id = self.encoder_abort.next_id();
        let (entry, receiver) = Entry::new(id, job, Instant::now());
        // This wait is bounded: the caller was admitted, and drops this future at its deadline.
        let sent = self.sender.send(entry).await;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::{
        Engine,
        scripted::{self, Call, Failure, Script, ScriptedBackend, caption},
    };

    /// An engine with this many instances, and the script of each.
    fn engine(instances: usize) -> (Arc<Engine<ScriptedBackend>>, Vec<Script>) {
        let (backends, scripts): (Vec<_>, Vec<_>) = (0..instances).map(|_| ScriptedBackend::new()).unzip();
        (Arc::new(Engine::spawn("test", backends, &scripted::config()).unwrap()), scripts)
    }

    /// Sends a job whose image must be encoded, and waits until this instance encodes it.
    async fn encoding(
        engine: &Arc<Engine<ScriptedBackend>>,
        number: u32,
        script: &Script,
    ) -> tokio::task::JoinHandle<Result<Outcome, CaptionError>> {
        let engine = engine.clone();
        let task = tokio::spawn(async move { engine.run(scripted::pixels_job(number)).await });
        // Let the task send its job: the test has one thread.
        tokio::task::yield_now().await;
        script.wait_for(&Call::Encode(vec![number]));
        task
    }

    #[tokio::test]
    async fn a_job_is_answered_with_its_caption() {
        let (engine, _) = engine(1);
        let outcome = engine.run(scripted::pixels_job(4)).await.unwrap();
        assert_eq!(outcome.sequences[0].token_ids[1..], caption(4));
    }

    #[tokio::test]
    async fn a_job_goes_to_the_instance_with_the_fewest_rows() {
        let (engine, scripts) = engine(2);
        scripts.iter().for_each(Script::hold_encoder);
        let first = encoding(&engine, 2, &scripts[0]).await;
        let second = encoding(&engine, 3, &scripts[1]).await;
        scripts.iter().for_each(Script::release_encoder);
        first.await.unwrap().unwrap();
        second.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_job_can_be_sent_to_one_instance_if_it_exists() {
        let (engine, scripts) = engine(2);
        let to_instance = |instance| {
            let mut job = scripted::pixels_job(2);
            job.request.instance = Some(instance);
            engine.run(job)
        };
        to_instance(1).await.unwrap();
        assert_eq!((scripts[0].calls().len(), scripts[1].calls().len()), (0, 3));
        assert!(matches!(to_instance(2).await, Err(CaptionError::Unavailable(_))));
    }

    #[tokio::test]
    async fn the_encoder_is_aborted_when_its_client_disconnects() {
        let (engine, scripts) = engine(1);
        scripts[0].hold_encoder();
        let task = encoding(&engine, 9, &scripts[0]).await;
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert_eq!(engine.instances[0].rows(), 0);
        // The encoder reaches the next image only if the held run was aborted.
        let next = encoding(&engine, 2, &scripts[0]).await;
        scripts[0].release_encoder();
        next.await.unwrap().unwrap();
        assert_eq!(scripts[0].steps_of(9), 0);
    }

    #[tokio::test]
    async fn rows_count_as_long_as_their_job_runs() {
        let (engine, scripts) = engine(1);
        scripts[0].hold_encoder();
        let task = encoding(&engine, 2, &scripts[0]).await;
        assert_eq!(engine.instances[0].rows(), 1);
        scripts[0].release_encoder();
        task.await.unwrap().unwrap();
        assert_eq!(engine.instances[0].rows(), 0);
    }

    #[tokio::test]
    async fn an_engine_whose_thread_panicked_is_not_running_and_serves_nothing() {
        let (engine, scripts) = engine(1);
        assert!(engine.is_running());
        scripts[0].fail(Failure::Panic);
        assert!(matches!(engine.run(scripted::job(2)).await, Err(CaptionError::Unavailable(_))));
        assert!(matches!(engine.run(scripted::job(2)).await, Err(CaptionError::Unavailable(_))));
        assert!(!engine.is_running());
    }

    #[tokio::test]
    async fn an_engine_is_busy_for_as_long_as_its_action_takes() {
        let (engine, scripts) = engine(1);
        let engine = &engine;
        assert_eq!(engine.busy_for(), Duration::ZERO);
        scripts[0].hold_encoder();
        let task = encoding(engine, 2, &scripts[0]).await;
        let becomes = |is_busy| async move {
            while (engine.busy_for() > Duration::ZERO) != is_busy {
                tokio::task::yield_now().await;
            }
        };
        let time_limit = Duration::from_secs(30);
        tokio::time::timeout(time_limit, becomes(true)).await.unwrap();
        scripts[0].release_encoder();
        task.await.unwrap().unwrap();
        tokio::time::timeout(time_limit, becomes(false)).await.unwrap();
    }
}
