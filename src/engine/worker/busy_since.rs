//! How long the engine's thread has been executing one action, seen from other threads.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// When the thread began the current admission or step; `None` while it waits for jobs.
#[derive(Clone, Debug, Default)]
pub(in crate::engine) struct BusySince(Arc<Mutex<Option<Instant>>>);

impl BusySince {
    pub(super) fn start(&self) {
        self.set(Some(Instant::now()));
    }

    pub(super) fn stop(&self) {
        self.set(None);
    }

    pub(in crate::engine) fn elapsed(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn set(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}
