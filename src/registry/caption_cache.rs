//! Captions that need not be computed: those of earlier requests, and those that another request is computing.
//!
//! The cache belongs to one loaded bundle and is dropped with it, so a key does not name the bundle.

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

/// Captions by image, prompt and parameters.
#[derive(Debug)]
pub(crate) struct CaptionCache {
    captions: Option<Cache<Digest, Arc<[Caption]>, ByteWeighter>>,
    in_flight: Option<Mutex<Requests>>,
    recorder: Arc<ModelRecorder>,
}

/// Requests whose captions are being computed, with the channel on which they will be published.
type Requests = HashMap<Digest, watch::Receiver<Option<Arc<[Caption]>>>>;

/// Weighs an entry by its memory in bytes.
#[derive(Clone, Debug)]
struct ByteWeighter;

impl Weighter<Digest, Arc<[Caption]>> for ByteWeighter {
    fn weight(&self, _: &Digest, captions: &Arc<[Caption]>) -> u64 {
        let bytes = |caption: &Caption| size_of_val(caption) + caption.text.len() + size_of_val(&caption.token_ids[..]);
        (ENTRY_BYTES + captions.iter().map(bytes).sum::<usize>()) as u64
    }
}

/// Approximate memory that the cache itself needs for an entry, in bytes.
const ENTRY_BYTES: usize = 128;
/// Approximate memory of a usual entry, in bytes. It decides for how many entries the cache reserves slots.
const USUAL_BYTES: u64 = 512;

/// Computes the key of a request: a digest of everything that decides its captions.
pub(crate) fn cache_key(image: &Digest, prompt: &[TokenId], config: &GenerationConfig) -> Digest {
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
    /// Makes a cache of at most `capacity` bytes; 0 disables it. With `single_flight`, equal requests at the same time are
    /// computed once.
    pub(crate) fn new(capacity: u64, single_flight: bool, recorder: Arc<ModelRecorder>) -> Self {
        let entries = (capacity / USUAL_BYTES).max(1) as usize;
        Self {
            captions: (capacity > 0).then(|| Cache::with_weighter(entries, capacity, ByteWeighter)),
            in_flight: single_flight.then(Mutex::default),
            recorder,
        }
    }

    /// Whether keys are looked up at all.
    pub(crate) fn is_enabled(&self) -> bool {
        self.captions.is_some() || self.in_flight.is_some()
    }

    /// Returns the captions of a key from the cache, or else from `work`. With `single_flight`, it waits for an equal
    /// request that is in flight; if that request fails or is cancelled, this one does the work.
    pub(crate) async fn get_or<W>(
        &self,
        key: Digest,
        single_flight: bool,
        work: W,
    ) -> Result<Arc<[Caption]>, CaptionError>
    where
        W: Future<Output = Result<Arc<[Caption]>, CaptionError>>,
    {
        let start = Instant::now();
        let in_flight = loop {
            if let Some(captions) = self.captions.as_ref().and_then(|captions| captions.get(&key)) {
                self.recorder.record_caption_lookup(true, start.elapsed());
                return Ok(captions);
            }
            match self.in_flight.as_ref().filter(|_| single_flight).map(|requests| InFlight::start(requests, key)) {
                None => break None,
                Some(Ok(in_flight)) => break Some(in_flight),
                Some(Err(mut other)) => {
                    // An error means that the other request failed or was cancelled.
                    let published = other.wait_for(Option::is_some).await.ok().and_then(|captions| captions.clone());
                    if let Some(captions) = published {
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
        if let Some(in_flight) = in_flight {
            in_flight.sender.send_replace(Some(captions.clone()));
        }
        Ok(captions)
    }
}

/// A request that others may wait for. Dropped without captions, it lets one of them do the work.
struct InFlight<'a> {
    requests: &'a Mutex<Requests>,
    key: Digest,
    sender: watch::Sender<Option<Arc<[Caption]>>>,
}

impl<'a> InFlight<'a> {
    /// Registers a request, or returns the channel of the equal request that is in flight.
    fn start(requests: &'a Mutex<Requests>, key: Digest) -> Result<Self, watch::Receiver<Option<Arc<[Caption]>>>> {
        let mut in_flight = lock(requests);
        if let Some(other) = in_flight.get(&key) {
            return Err(other.clone());
        }
        let (sender, receiver) = watch::channel(None);
        in_flight.insert(key, receiver);
        Ok(Self { requests, key, sender })
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        lock(self.requests).remove(&self.key);
    }
}

fn lock(requests: &Mutex<Requests>) -> MutexGuard<'_, Requests> {
    // The map is never half-changed.
    requests.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use super::*;
    use generation::{EarlyStopping, FinishReason, GenerationLimits, GenerationParameters};

    fn captions(text: &str) -> Arc<[Caption]> {
        let text = text.to_owned();
        [Caption { text, token_ids: vec![1, 2], score: 0.0, finish_reason: FinishReason::Eos }].into()
    }

    fn cache(capacity: u64, single_flight: bool) -> CaptionCache {
        CaptionCache::new(capacity, single_flight, Arc::default())
    }

    fn config(parameters: &GenerationParameters) -> GenerationConfig {
        GenerationConfig::new(parameters, &GenerationLimits::default()).unwrap()
    }

    /// Parameters that all have a value, so that each can be changed by itself.
    fn sampled() -> GenerationParameters {
        GenerationParameters {
            max_new_tokens: Some(20),
            max_length: None,
            min_new_tokens: Some(2),
            min_length: Some(3),
            num_beams: Some(3),
            num_return_sequences: Some(1),
            length_penalty: Some(1.0),
            early_stopping: Some(EarlyStopping::False),
            repetition_penalty: Some(1.5),
            no_repeat_ngram_size: Some(2),
            bad_words: Some(vec!["dog".into()]),
            do_sample: Some(false),
            temperature: Some(0.5),
            top_k: Some(40),
            top_p: Some(0.5),
            seed: Some(7),
        }
    }

    #[test]
    fn the_key_covers_image_prompt_and_every_parameter() {
        type Change = fn(&mut GenerationParameters);
        // A new parameter does not compile here until it is changed below.
        let GenerationParameters {
            max_new_tokens: _,
            max_length: _,
            min_new_tokens: _,
            min_length: _,
            num_beams: _,
            num_return_sequences: _,
            length_penalty: _,
            early_stopping: _,
            repetition_penalty: _,
            no_repeat_ngram_size: _,
            bad_words: _,
            do_sample: _,
            temperature: _,
            top_k: _,
            top_p: _,
            seed: _,
        } = sampled();
        let changes: [Change; 13] = [
            |_| {},
            |new| new.max_new_tokens = Some(21),
            |new| (new.max_new_tokens, new.max_length) = (None, Some(20)),
            |new| new.min_new_tokens = Some(4),
            |new| new.min_length = Some(4),
            |new| new.num_beams = Some(4),
            |new| new.num_return_sequences = Some(2),
            |new| new.length_penalty = Some(1.25),
            |new| new.early_stopping = Some(EarlyStopping::True),
            |new| new.repetition_penalty = Some(1.25),
            |new| new.no_repeat_ngram_size = Some(3),
            |new| new.bad_words = Some(vec!["dog".into(), "cat".into()]),
            |new| (new.num_beams, new.do_sample) = (Some(1), Some(true)),
        ];
        let of_sampling: [Change; 4] = [
            |new| new.temperature = Some(0.25),
            |new| new.top_k = Some(41),
            |new| new.top_p = Some(0.25),
            |new| new.seed = Some(8),
        ];
        let key = |changes: &[Change]| {
            let mut parameters = sampled();
            for change in changes {
                change(&mut parameters);
            }
            cache_key(&[1; 32], &[5, 6], &config(&parameters))
        };
        let mut keys: Vec<_> = changes.iter().map(|change| key(&[*change])).collect();
        keys.extend(of_sampling.iter().map(|change| key(&[changes[12], *change])));
        let unchanged = config(&sampled());
        keys.push(cache_key(&[2; 32], &[5, 6], &unchanged));
        keys.push(cache_key(&[1; 32], &[5], &unchanged));
        keys.push(cache_key(&[1; 32], &[6, 5], &unchanged));
        keys.push(cache_key(&[1; 32], &[5, 6, 0], &unchanged));
        assert_eq!(keys.iter().collect::<HashSet<_>>().len(), keys.len());
        assert_eq!(keys[0], key(&[]), "equal requests have equal keys");
    }

    #[tokio::test]
    async fn equal_requests_at_the_same_time_are_computed_once() {
        let (cache, runs) = (cache(0, true), AtomicUsize::new(0));
        let work = || async {
            runs.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Ok(captions("a dog"))
        };
        let (a, b, other) = tokio::join!(
            cache.get_or([1; 32], true, work()),
            cache.get_or([1; 32], true, work()),
            cache.get_or([2; 32], true, work())
        );
        assert_eq!([a.unwrap(), b.unwrap(), other.unwrap()], [captions("a dog"), captions("a dog"), captions("a dog")]);
        assert_eq!(runs.load(Ordering::Relaxed), 2);
        let counts = cache.recorder.statistics();
        assert_eq!((counts.cache_hit.count, counts.cache_miss.count), (1, 2));
        // A cache of 0 bytes holds nothing.
        cache.get_or([1; 32], true, work()).await.unwrap();
        assert_eq!(runs.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn requests_without_single_flight_are_computed_separately() {
        let (cache, runs) = (cache(0, true), AtomicUsize::new(0));
        let work = || async {
            runs.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Ok(captions("a dog"))
        };
        let (a, b) = tokio::join!(cache.get_or([1; 32], false, work()), cache.get_or([1; 32], false, work()));
        assert_eq!((a.unwrap(), b.unwrap()), (captions("a dog"), captions("a dog")));
        assert_eq!(runs.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_repeated_request_is_answered_from_the_cache() {
        let cache = cache(1 << 20, false);
        cache.get_or([1; 32], false, async { Ok(captions("a dog")) }).await.unwrap();
        let repeated = cache.get_or([1; 32], false, async { Ok(captions("a cat")) }).await.unwrap();
        assert_eq!(repeated, captions("a dog"));
        let failed = cache.get_or([2; 32], false, async { Err(CaptionError::DeadlineExceeded) }).await;
        assert!(failed.is_err());
        let other = cache.get_or([2; 32], false, async { Ok(captions("a cat")) }).await.unwrap();
        assert_eq!(other, captions("a cat"), "a failure is not cached");
        let counts = cache.recorder.statistics();
        assert_eq!((counts.cache_hit.count, counts.cache_miss.count), (1, 3));
    }

    #[tokio::test]
    async fn a_request_that_waits_for_one_that_fails_or_is_cancelled_does_the_work() {
        let cache = cache(1 << 20, true);
        let failing = cache.get_or([1; 32], true, async {
            tokio::task::yield_now().await;
            Err(CaptionError::DeadlineExceeded)
        });
        let (failed, done) = tokio::join!(failing, cache.get_or([1; 32], true, async { Ok(captions("a cat")) }));
        assert!(matches!(failed, Err(CaptionError::DeadlineExceeded)));
        assert_eq!(done.unwrap(), captions("a cat"));

        let mut cancelled = Box::pin(cache.get_or([2; 32], true, std::future::pending()));
        let mut waiting = Box::pin(cache.get_or([2; 32], true, async { Ok(captions("an owl")) }));
        let mut last = Box::pin(cache.get_or([2; 32], true, async { Ok(captions("a fox")) }));
        assert!(futures_util::poll!(cancelled.as_mut()).is_pending());
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        assert!(futures_util::poll!(last.as_mut()).is_pending());
        drop(cancelled);
        assert_eq!(waiting.await.unwrap(), captions("an owl"));
        // Only one of those that waited does the work.
        assert_eq!(last.await.unwrap(), captions("an owl"));
    }

    #[tokio::test]
    async fn the_cache_stays_within_its_bytes() {
        let cache = cache(10_000, false);
        for number in 0..100_u8 {
            cache.get_or([number; 32], false, async { Ok(captions(&"a dog ".repeat(100))) }).await.unwrap();
        }
        let captions = cache.captions.as_ref().unwrap();
        assert!((1..20).contains(&captions.len()), "{}", captions.len());
        assert!(captions.weight() <= 10_000);
    }
}
