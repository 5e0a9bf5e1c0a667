//! Captions that need not be computed again: those of earlier requests, and those that another request is waiting for.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use quick_cache::{Weighter, sync::Cache};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::{caption::Caption, engine::Digest, error::CaptionError, observability::ModelRecorder};
use generation::{GenerationConfig, TokenId};

/// Captions by image, prompt and parameters. It belongs to one loaded bundle, and ends with it.
#[derive(Debug)]
pub(crate) struct CaptionCache {
    captions: Option<Cache<Digest, Arc<[Caption]>, Bytes>>,
    flights: Option<Mutex<Flights>>,
    recorder: Arc<ModelRecorder>,
}

/// What is being computed, for those who want the same.
type Flights = HashMap<Digest, watch::Receiver<Option<Arc<[Caption]>>>>;

#[derive(Clone, Debug)]
struct Bytes;

impl Weighter<Digest, Arc<[Caption]>> for Bytes {
    fn weight(&self, _: &Digest, captions: &Arc<[Caption]>) -> u64 {
        let bytes = |caption: &Caption| size_of_val(caption) + caption.text.len() + size_of_val(&caption.token_ids[..]);
        (ENTRY_BYTES + captions.iter().map(bytes).sum::<usize>()) as u64
    }
}

/// What the cache itself needs for an entry, about.
const ENTRY_BYTES: usize = 128;
/// What an entry usually takes, about: the cache makes room for as many.
const USUAL_BYTES: u64 = 512;

/// What decides the captions of an image, as one number.
pub(crate) fn key(image: &Digest, prompt: &[TokenId], config: &GenerationConfig) -> Digest {
    let mut hash = Sha256::new_with_prefix(image);
    hash.update((prompt.len() as u64).to_le_bytes());
    for id in prompt {
        hash.update(id.to_le_bytes());
    }
    // Debug writes every field, and floats so that they can be read back exactly.
    hash.update(format!("{config:?}"));
    hash.finalize().into()
}

impl CaptionCache {
    /// At most `capacity` bytes of captions, 0 for none; with `single_flight`, equal requests at the same time are one.
    pub(crate) fn new(capacity: u64, single_flight: bool, recorder: Arc<ModelRecorder>) -> Self {
        let entries = (capacity / USUAL_BYTES).max(1) as usize;
        Self {
            captions: (capacity > 0).then(|| Cache::with_weighter(entries, capacity, Bytes)),
            flights: single_flight.then(Mutex::default),
            recorder,
        }
    }

    /// Whether a key would ever be looked for.
    pub(crate) fn is_used(&self) -> bool {
        self.captions.is_some() || self.flights.is_some()
    }

    /// The captions of a key from where they are, or else from `work`. With `shared`, those of an equal request that is
    /// being worked on are waited for; if that request fails or is given up, this one does the work.
    pub(crate) async fn get_or<W>(&self, key: Digest, shared: bool, work: W) -> Result<Arc<[Caption]>, CaptionError>
    where
        W: Future<Output = Result<Arc<[Caption]>, CaptionError>>,
    {
        let start = Instant::now();
        let flight = loop {
            if let Some(captions) = self.captions.as_ref().and_then(|captions| captions.get(&key)) {
                self.recorder.record_caption_lookup(true, start.elapsed());
                return Ok(captions);
            }
            match self.flights.as_ref().filter(|_| shared).map(|flights| Flight::join(flights, key)) {
                None => break None,
                Some(Ok(flight)) => break Some(flight),
                Some(Err(mut other)) => {
                    // An error: the other request is gone.
                    let landed = other.wait_for(Option::is_some).await.ok().and_then(|captions| captions.clone());
                    if let Some(captions) = landed {
                        self.recorder.record_caption_lookup(true, start.elapsed());
                        return Ok(captions);
                    }
                }
            }
        };
        self.recorder.record_caption_lookup(false, start.elapsed());
        let captions = work.await?;
        if let Some(cache) = &self.captions {
            cache.insert(key, captions.clone());
        }
        if let Some(flight) = flight {
            flight.sender.send_replace(Some(captions.clone()));
        }
        Ok(captions)
    }
}

/// Work that others may wait for. Dropped without captions, it lets one of them do it.
struct Flight<'a> {
    flights: &'a Mutex<Flights>,
    key: Digest,
    sender: watch::Sender<Option<Arc<[Caption]>>>,
}

impl<'a> Flight<'a> {
    /// A new flight, or the one that is under way.
    fn join(flights: &'a Mutex<Flights>, key: Digest) -> Result<Self, watch::Receiver<Option<Arc<[Caption]>>>> {
        let mut under_way = lock(flights);
        if let Some(other) = under_way.get(&key) {
            return Err(other.clone());
        }
        let (sender, receiver) = watch::channel(None);
        under_way.insert(key, receiver);
        Ok(Self { flights, key, sender })
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        lock(self.flights).remove(&self.key);
    }
}

fn lock(flights: &Mutex<Flights>) -> MutexGuard<'_, Flights> {
    // The map is never half-changed.
    flights.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use generation::FinishReason;

    fn captions(text: &str) -> Arc<[Caption]> {
        let text = text.to_owned();
        [Caption { text, token_ids: vec![1, 2], score: 0.0, finish_reason: FinishReason::Eos }].into()
    }

    fn kept(capacity: u64, single_flight: bool) -> CaptionCache {
        CaptionCache::new(capacity, single_flight, Arc::default())
    }

    #[tokio::test]
    async fn equal_requests_at_the_same_time_are_computed_once() {
        let (kept, runs) = (kept(0, true), AtomicUsize::new(0));
        let work = || async {
            runs.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Ok(captions("a dog"))
        };
        let (a, b, other) = tokio::join!(
            kept.get_or([1; 32], true, work()),
            kept.get_or([1; 32], true, work()),
            kept.get_or([2; 32], true, work())
        );
        assert_eq!([a.unwrap(), b.unwrap(), other.unwrap()], [captions("a dog"), captions("a dog"), captions("a dog")]);
        assert_eq!(runs.load(Ordering::Relaxed), 2);
        let counts = kept.recorder.statistics();
        assert_eq!((counts.cache_hit.count, counts.cache_miss.count), (1, 2));
        // Nothing was kept.
        kept.get_or([1; 32], true, work()).await.unwrap();
        assert_eq!(runs.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn who_waits_for_a_request_that_fails_or_leaves_does_the_work() {
        let kept = kept(1 << 20, true);
        let failing = kept.get_or([1; 32], true, async {
            tokio::task::yield_now().await;
            Err(CaptionError::DeadlineExceeded)
        });
        let (failed, done) = tokio::join!(failing, kept.get_or([1; 32], true, async { Ok(captions("a cat")) }));
        assert!(matches!(failed, Err(CaptionError::DeadlineExceeded)));
        assert_eq!(done.unwrap(), captions("a cat"));

        let mut leaving = Box::pin(kept.get_or([2; 32], true, std::future::pending()));
        let mut waiting = Box::pin(kept.get_or([2; 32], true, async { Ok(captions("an owl")) }));
        assert!(futures_util::poll!(leaving.as_mut()).is_pending());
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        drop(leaving);
        assert_eq!(waiting.await.unwrap(), captions("an owl"));
    }

    #[tokio::test]
    async fn the_cache_stays_within_its_bytes() {
        let kept = kept(10_000, false);
        for number in 0..100_u8 {
            kept.get_or([number; 32], false, async { Ok(captions(&"a dog ".repeat(100))) }).await.unwrap();
        }
        let cache = kept.captions.as_ref().unwrap();
        assert!((1..20).contains(&cache.len()), "{}", cache.len());
        assert!(cache.weight() <= 10_000);
    }
}
