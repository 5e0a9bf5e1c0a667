//! The encoder's run is long and cannot be split: it is aborted when the last client that waits for it disconnects.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use crate::engine::AbortHandle;

/// The jobs that the encoder's current run is for, and what aborts it.
#[derive(Clone, Debug)]
pub(super) struct EncoderAbort<A>(Arc<State<A>>);

#[derive(Debug)]
struct State<A> {
    next_id: AtomicU64,
    run: Mutex<Option<EncoderRun<A>>>,
}

#[derive(Debug)]
struct EncoderRun<A> {
    /// The jobs that still wait for it.
    job_ids: Vec<u64>,
    abort: A,
}

/// Withdraws a job when it is dropped. If no other job waits for the encoder's current run, the run is aborted.
pub(super) struct AbortOnDrop<A: AbortHandle> {
    encoder: EncoderAbort<A>,
    job_id: u64,
}

impl<A: AbortHandle> EncoderAbort<A> {
    pub(super) fn new() -> Self {
        Self(Arc::new(State { next_id: AtomicU64::new(0), run: Mutex::new(None) }))
    }

    /// Returns the id of a new job.
    pub(super) fn next_id(&self) -> u64 {
        self.0.next_id.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn abort_on_drop(&self, job_id: u64) -> AbortOnDrop<A> {
        AbortOnDrop { encoder: self.clone(), job_id }
    }

    /// Calls `encode` for these jobs. Until it returns, the run is aborted when the last of their clients disconnects.
    pub(super) fn run<T>(&self, job_ids: Vec<u64>, abort: &A, encode: impl FnOnce(&A) -> T) -> T {
        *self.current() = Some(EncoderRun { job_ids, abort: abort.clone() });
        let result = encode(abort);
        *self.current() = None;
        result
    }

    fn current(&self) -> MutexGuard<'_, Option<EncoderRun<A>>> {
        self.0.run.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<A: AbortHandle> Drop for AbortOnDrop<A> {
    fn drop(&mut self) {
        if let Some(run) = self.encoder.current().as_mut() {
            let waiting = run.job_ids.len();
            run.job_ids.retain(|id| *id != self.job_id);
            if run.job_ids.is_empty() && waiting > 0 {
                run.abort.abort();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{
        Backend,
        scripted::{ScriptedAbort, ScriptedBackend},
    };

    /// An encoder and the abort handle of its next run.
    fn encoder() -> (EncoderAbort<ScriptedAbort>, ScriptedAbort) {
        (EncoderAbort::new(), ScriptedBackend::new().0.abort_handle().unwrap())
    }

    #[test]
    fn a_run_is_aborted_when_the_last_client_disconnects() {
        let (encoder, abort) = encoder();
        let clients = [1, 2].map(|id| encoder.abort_on_drop(id));
        let was_aborted = encoder.run(vec![1, 2], &abort, |abort| {
            let [first, last] = clients;
            drop(first);
            let after_the_first = abort.is_aborted();
            drop(last);
            (after_the_first, abort.is_aborted())
        });
        assert_eq!(was_aborted, (false, true));
    }

    #[test]
    fn a_client_of_another_job_does_not_abort_a_run() {
        let (encoder, abort) = encoder();
        let other = encoder.abort_on_drop(2);
        assert!(!encoder.run(vec![1], &abort, |abort| {
            drop(other);
            abort.is_aborted()
        }));
    }

    #[test]
    fn a_client_that_disconnects_after_the_run_aborts_nothing() {
        let (encoder, abort) = encoder();
        let client = encoder.abort_on_drop(1);
        encoder.run(vec![1], &abort, |_| ());
        drop(client);
        assert!(!abort.is_aborted());
    }

    #[test]
    fn jobs_have_different_ids() {
        let (encoder, _) = encoder();
        assert_ne!(encoder.next_id(), encoder.clone().next_id());
    }
}
