//! What a model has done since the start of the server, counted where it happens.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use crate::{caption::Timings, observability::prometheus::ModelMetrics};

/// Counts of one model; shared by everyone who does a part of its work.
#[derive(Debug, Default)]
pub struct Statistics {
    counts: Mutex<Counts>,
    /// Jobs that wait and rows that decode, by instance of the engine.
    loads: Mutex<BTreeMap<usize, (usize, usize)>>,
    metrics: OnceLock<ModelMetrics>,
}

/// What was counted.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Requests answered with captions, from the captioner's first look at them to the last caption.
    pub success: Total,
    /// Requests that failed, were cancelled or came too late.
    pub fail: Total,
    /// Of successful requests: waiting for the engine.
    pub queue: Total,
    /// Of successful requests: fetching, decoding and resizing.
    pub compute_input: Total,
    /// Of successful requests: from the first run of a graph to the last token.
    pub compute_infer: Total,
    /// Of successful requests: from token ids to text.
    pub compute_output: Total,
    /// Images captioned.
    pub images: u64,
    /// When the last of them was.
    pub last_inference: Option<SystemTime>,
    /// Images that the encoder ran for.
    pub encoder_runs: Total,
    /// Decoder runs (prompts and steps) by the number of rows they had.
    pub decoder_runs: BTreeMap<usize, DecoderRuns>,
    /// Captions that were kept from an earlier request, or shared with one that ran at the same time.
    pub cache_hit: Total,
    /// Captions that were looked for and not found.
    pub cache_miss: Total,
    /// Encoded images that were kept from an earlier request.
    pub image_cache_hit: Total,
}

/// One run of the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderRun {
    /// Rows that it had.
    pub rows: usize,
    /// Arranging what goes in.
    pub input: Duration,
    /// Inside ONNX Runtime.
    pub infer: Duration,
    /// Choosing tokens.
    pub output: Duration,
}

/// Runs of the decoder with the same number of rows; the count of each is the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecoderRuns {
    /// Arranging what goes in.
    pub input: Total,
    /// Inside ONNX Runtime.
    pub infer: Total,
    /// Choosing tokens.
    pub output: Total,
}

/// How often, and how long in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// How often.
    pub count: u64,
    /// How long in all.
    pub time: Duration,
}

/// A request that is being worked on. Dropped before [`Recording::succeed`], it counts as failed.
#[derive(Debug)]
pub struct Recording {
    statistics: Arc<Statistics>,
    started: Instant,
    succeeded: bool,
}

impl Statistics {
    /// A snapshot.
    pub fn counts(&self) -> Counts {
        self.lock().clone()
    }

    /// Counts one run of the decoder.
    pub fn record_decoder_run(&self, run: DecoderRun) {
        if let Some(metrics) = self.metrics() {
            metrics.decoder_step.observe((run.input + run.infer + run.output).as_secs_f64());
            metrics.step_rows.observe(run.rows as f64);
        }
        let mut counts = self.lock();
        let runs = counts.decoder_runs.entry(run.rows).or_default();
        runs.input.add(run.input);
        runs.infer.add(run.infer);
        runs.output.add(run.output);
    }

    /// Counts one run of the encoder.
    pub fn record_encoder_run(&self, time: Duration) {
        self.observe(|metrics| &metrics.encoder, time);
        self.lock().encoder_runs.add(time);
    }

    /// Counts a look for captions that are kept.
    pub fn record_cache_lookup(&self, hit: bool, time: Duration) {
        if let Some((hits, misses)) = self.metrics().map(|metrics| &metrics.caption_cache) {
            if hit { hits.inc() } else { misses.inc() }
        }
        let mut counts = self.lock();
        if hit { counts.cache_hit.add(time) } else { counts.cache_miss.add(time) }
    }

    /// Counts a look for an encoded image that is kept.
    pub fn record_image_lookup(&self, hit: bool, time: Duration) {
        if let Some((hits, misses)) = self.metrics().map(|metrics| &metrics.image_cache) {
            if hit { hits.inc() } else { misses.inc() }
        }
        if hit {
            self.lock().image_cache_hit.add(time);
        }
    }

    /// Counts a computed caption.
    pub fn record_caption(&self, generated_tokens: usize) {
        if let Some(metrics) = self.metrics() {
            metrics.captions.inc();
            metrics.generated_tokens.inc_by(generated_tokens as u64);
            metrics.caption_tokens.observe(generated_tokens as f64);
        }
    }

    /// How much an instance of the engine has to do: jobs that wait, rows that decode.
    pub fn record_load(&self, instance: usize, waiting: usize, rows: usize) {
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        loads.insert(instance, (waiting, rows));
        if let Some(metrics) = self.metrics() {
            metrics.queue_depth.set(loads.values().map(|(waiting, _)| *waiting as i64).sum());
            metrics.decoder_rows.set(loads.values().map(|(_, rows)| *rows as i64).sum());
        }
    }

    /// Counts the time of a stage.
    pub fn observe(&self, stage: impl FnOnce(&ModelMetrics) -> &prometheus::Histogram, time: Duration) {
        if let Some(metrics) = self.metrics() {
            stage(metrics).observe(time.as_secs_f64());
        }
    }

    /// Forgets what was counted, and counts in `metrics` too from now on.
    pub fn open(&self, metrics: ModelMetrics) {
        *self.lock() = Counts::default();
        // A model is opened once.
        self.metrics.set(metrics).ok();
    }

    fn metrics(&self) -> Option<&ModelMetrics> {
        self.metrics.get()
    }

    /// Begins to count a request.
    pub fn begin(self: &Arc<Self>) -> Recording {
        Recording { statistics: self.clone(), started: Instant::now(), succeeded: false }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Numbers are never half-written: a panic elsewhere does not make them wrong.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recording {
    /// Counts the request as answered; `images` are the timings of each of its images.
    pub fn succeed(mut self, images: &[Timings]) {
        self.succeeded = true;
        // The images of a request are worked on together: the slowest is what the client waited for.
        let slowest = |stage: fn(&Timings) -> Duration| images.iter().map(stage).max().unwrap_or_default();
        let mut counts = self.statistics.lock();
        counts.success.add(self.started.elapsed());
        counts.queue.add(slowest(|timings| timings.queue));
        counts.compute_input.add(slowest(|timings| timings.compute_input));
        counts.compute_infer.add(slowest(|timings| timings.compute_infer));
        counts.compute_output.add(slowest(|timings| timings.compute_output));
        counts.images += images.len() as u64;
        counts.last_inference = Some(SystemTime::now());
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if !self.succeeded {
            self.statistics.lock().fail.add(self.started.elapsed());
        }
    }
}

impl Total {
    fn add(&mut self, time: Duration) {
        self.count += 1;
        self.time += time;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_once_whatever_becomes_of_it() {
        let statistics = Arc::new(Statistics::default());
        let timings = |ms| Timings { queue: Duration::from_millis(ms), ..Timings::default() };
        statistics.begin().succeed(&[timings(1), timings(3), timings(2)]);
        drop(statistics.begin());
        let counts = statistics.counts();
        assert_eq!((counts.success.count, counts.fail.count, counts.images), (1, 1, 3));
        assert_eq!(counts.queue, Total { count: 1, time: Duration::from_millis(3) });
        assert!(counts.last_inference.is_some());
    }

    #[test]
    fn decoder_runs_are_counted_by_their_rows() {
        let statistics = Statistics::default();
        for rows in [1, 4, 4] {
            let time = Duration::from_millis(1);
            statistics.record_decoder_run(DecoderRun { rows, input: time, infer: time, output: time });
        }
        let runs: Vec<_> =
            statistics.counts().decoder_runs.into_iter().map(|(rows, runs)| (rows, runs.infer.count)).collect();
        assert_eq!(runs, [(1, 1), (4, 2)]);
    }
}
