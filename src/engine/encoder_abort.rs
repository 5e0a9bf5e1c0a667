//! Around the encoder, the one long run of a graph: how it is ended when its client leaves, and what it made for later.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use quick_cache::sync::Cache;

use crate::blip::{Abort, EncodedImage, RunError};
use crate::engine::Digest;

/// Which jobs the encoder is running for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Encoding(Arc<State>);

#[derive(Debug, Default)]
struct State {
    ids: AtomicU64,
    running: Mutex<Option<(Vec<u64>, Abort)>>,
}

/// Ends the encoder's run for a job, if one is going on when this is dropped and nobody else waits for it.
pub(crate) struct AbortOnDrop {
    encoding: Encoding,
    id: u64,
}

impl Encoding {
    /// For a new job.
    pub(crate) fn next_id(&self) -> u64 {
        self.0.ids.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn abort_on_drop(&self, id: u64) -> AbortOnDrop {
        AbortOnDrop { encoding: self.clone(), id }
    }

    /// Calls the encoder for these jobs, with what can end its run from elsewhere.
    pub(crate) fn run<T>(
        &self,
        ids: Vec<u64>,
        encode: impl FnOnce(&Abort) -> Result<T, RunError>,
    ) -> Result<T, RunError> {
        let abort = Abort::new()?;
        *self.running() = Some((ids, abort.clone()));
        let result = encode(&abort);
        *self.running() = None;
        result
    }

    fn running(&self) -> MutexGuard<'_, Option<(Vec<u64>, Abort)>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if let Some((ids, abort)) = self.encoding.running().as_mut() {
            let waited_for = ids.len();
            ids.retain(|id| *id != self.id);
            if ids.is_empty() && waited_for > 0 {
                abort.abort();
            }
        }
    }
}

/// The last encoded images, for another prompt on one of them.
#[derive(Debug)]
pub struct ImageCache(Option<Cache<Digest, Arc<EncodedImage>>>);

impl ImageCache {
    /// As many as fit into `capacity` bytes, when one takes `image_bytes`; 0 keeps nothing.
    pub fn new(capacity: u64, image_bytes: u64) -> Self {
        let images = capacity.checked_div(image_bytes).unwrap_or(0) as usize;
        Self((images > 0).then(|| Cache::new(images)))
    }

    /// Whether it keeps anything.
    pub fn is_used(&self) -> bool {
        self.0.is_some()
    }

    /// The encoded image of a file.
    pub fn get(&self, digest: &Digest) -> Option<Arc<EncodedImage>> {
        self.0.as_ref()?.get(digest)
    }

    pub(crate) fn insert(&self, digest: Digest, image: &Arc<EncodedImage>) {
        if let Some(cache) = &self.0 {
            cache.insert(digest, image.clone());
        }
    }
}
