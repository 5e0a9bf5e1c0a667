//! The recorder of one model: every event of its work is recorded here, once.
//!
//! It feeds two views: the process's Prometheus metrics, which survive a reload of the model, and Triton's statistics,
//! which start at zero for each loaded model. Only the recorder writes to them for a model.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use crate::{
    caption::Timings,
    observability::{
        prometheus::{CacheLookups, ModelMetrics, Stage},
        triton_statistics::{DecoderRun, TritonStatistics},
    },
};

/// Records what one model does; shared by all code that does a part of its work.
#[derive(Debug, Default)]
pub struct ModelRecorder {
    statistics: Mutex<TritonStatistics>,
    metrics: OnceLock<ModelMetrics>,
    /// Load of each instance of the engine, by its index.
    loads: Mutex<BTreeMap<usize, InstanceLoad>>,
}

/// How much one instance of the engine has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InstanceLoad {
    /// Jobs in its queue.
    pub queued: usize,
    /// Rows that it decodes.
    pub rows: usize,
}

/// A request in progress. Dropped before [`RequestTimer::succeed`], it is recorded as failed.
#[derive(Debug)]
pub struct RequestTimer {
    recorder: Arc<ModelRecorder>,
    started: Instant,
    succeeded: bool,
}

impl ModelRecorder {
    /// Discards what the self-test recorded and publishes what follows in `metrics`, too. Only the first call has an
    /// effect on `metrics`.
    pub fn publish(&self, metrics: ModelMetrics) {
        *self.lock() = TritonStatistics::default();
        self.metrics.set(metrics).ok();
    }

    /// A snapshot of Triton's view.
    pub fn statistics(&self) -> TritonStatistics {
        self.lock().clone()
    }

    /// Starts the clock of a request.
    pub fn begin_request(self: &Arc<Self>) -> RequestTimer {
        RequestTimer { recorder: self.clone(), started: Instant::now(), succeeded: false }
    }

    /// Records the duration of a stage of one image.
    pub fn record_stage(&self, stage: Stage, time: Duration) {
        if let Some(metrics) = self.metrics.get() {
            metrics.stage(stage).observe(time.as_secs_f64());
        }
    }

    /// Records that the encoder ran for one image.
    pub fn record_encoder_run(&self, time: Duration) {
        self.record_stage(Stage::Encoder, time);
        self.lock().encoder_runs.add(time);
    }

    /// Records one run of the decoder: a step or a prompt.
    pub fn record_decoder_run(&self, run: DecoderRun) {
        self.record_stage(Stage::DecoderStep, run.input + run.infer + run.output);
        if let Some(metrics) = self.metrics.get() {
            metrics.step_rows.observe(run.rows as f64);
        }
        self.lock().add_decoder_run(run);
    }

    /// Records a look-up in the cache of captions.
    pub fn record_caption_lookup(&self, is_hit: bool, time: Duration) {
        self.count_lookup(|metrics| &metrics.caption_cache, is_hit);
        let mut statistics = self.lock();
        if is_hit { statistics.cache_hit.add(time) } else { statistics.cache_miss.add(time) }
    }

    /// Records a look-up in the cache of encoded images, of which Triton has no statistics.
    pub fn record_image_lookup(&self, is_hit: bool) {
        self.count_lookup(|metrics| &metrics.image_cache, is_hit);
    }

    /// Records a computed caption.
    pub fn record_caption(&self, generated_tokens: usize) {
        if let Some(metrics) = self.metrics.get() {
            metrics.captions.inc();
            metrics.generated_tokens.inc_by(generated_tokens as u64);
            metrics.caption_tokens.observe(generated_tokens as f64);
        }
    }

    /// Records the load of one instance of the engine; the metrics show the sum of all.
    pub fn record_load(&self, instance: usize, load: InstanceLoad) {
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        loads.insert(instance, load);
        if let Some(metrics) = self.metrics.get() {
            metrics.queue_depth.set(loads.values().map(|load| load.queued as i64).sum());
            metrics.decoder_rows.set(loads.values().map(|load| load.rows as i64).sum());
        }
    }

    fn count_lookup(&self, cache: fn(&ModelMetrics) -> &CacheLookups, is_hit: bool) {
        if let Some(CacheLookups { hits, misses }) = self.metrics.get().map(cache) {
            if is_hit { hits.inc() } else { misses.inc() }
        }
    }

    fn lock(&self) -> MutexGuard<'_, TritonStatistics> {
        // Numbers are never half-written: a panic elsewhere does not make them wrong.
        self.statistics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RequestTimer {
    /// Records the request as answered; `images` are the timings of each of its images.
    pub fn succeed(mut self, images: &[Timings]) {
        self.succeeded = true;
        self.recorder.lock().add_success(self.started.elapsed(), images, SystemTime::now());
    }
}

impl Drop for RequestTimer {
    fn drop(&mut self) {
        if !self.succeeded {
            self.recorder.lock().fail.add(self.started.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observability::prometheus::Metrics;

    /// A recorder that publishes, and what it publishes to.
    fn published() -> (ModelRecorder, Metrics) {
        let (recorder, metrics) = (ModelRecorder::default(), Metrics::new().unwrap());
        recorder.publish(metrics.model("m"));
        (recorder, metrics)
    }

    fn has_line(metrics: &Metrics, line: &str) -> bool {
        metrics.render().lines().any(|rendered| rendered == line)
    }

    #[test]
    fn a_request_is_recorded_once_whether_it_succeeds_or_fails() {
        let recorder = Arc::new(ModelRecorder::default());
        recorder.begin_request().succeed(&[Timings::default()]);
        drop(recorder.begin_request());
        let statistics = recorder.statistics();
        assert_eq!((statistics.success.count, statistics.fail.count, statistics.images), (1, 1, 1));
    }

    #[test]
    fn both_views_show_the_same_events() {
        let (recorder, metrics) = published();
        let time = Duration::from_millis(1);
        for rows in [1, 4, 4] {
            recorder.record_decoder_run(DecoderRun { rows, input: time, infer: time, output: time });
        }
        recorder.record_encoder_run(time);
        recorder.record_caption_lookup(true, time);
        recorder.record_caption_lookup(false, time);
        recorder.record_caption_lookup(false, time);
        let statistics = recorder.statistics();
        let runs: Vec<_> = statistics.decoder_runs.iter().map(|(rows, runs)| (*rows, runs.infer.count)).collect();
        assert_eq!(runs, [(1, 1), (4, 2)]);
        assert_eq!(statistics.encoder_runs.count, 1);
        assert_eq!((statistics.cache_hit.count, statistics.cache_miss.count), (1, 2));
        for line in [
            "blip_stage_duration_seconds_count{model=\"m\",stage=\"decoder_step\"} 3",
            "blip_stage_duration_seconds_count{model=\"m\",stage=\"encoder\"} 1",
            "blip_decoder_step_rows_sum{model=\"m\"} 9",
            "blip_cache_lookups_total{cache=\"caption\",model=\"m\",result=\"hit\"} 1",
            "blip_cache_lookups_total{cache=\"caption\",model=\"m\",result=\"miss\"} 2",
        ] {
            assert!(has_line(&metrics, line), "{line}\n{}", metrics.render());
        }
    }

    #[test]
    fn the_load_is_the_sum_of_the_instances() {
        let (recorder, metrics) = published();
        recorder.record_load(0, InstanceLoad { queued: 2, rows: 3 });
        recorder.record_load(1, InstanceLoad { queued: 1, rows: 4 });
        recorder.record_load(0, InstanceLoad { queued: 0, rows: 5 });
        assert!(has_line(&metrics, "blip_queue_depth{model=\"m\"} 1"));
        assert!(has_line(&metrics, "blip_decoder_rows{model=\"m\"} 9"));
    }

    #[test]
    fn the_self_test_is_in_neither_view() {
        let (recorder, metrics) = (ModelRecorder::default(), Metrics::new().unwrap());
        recorder.record_encoder_run(Duration::from_millis(1));
        recorder.record_caption(7);
        recorder.publish(metrics.model("m"));
        assert_eq!(recorder.statistics(), TritonStatistics::default());
        assert!(has_line(&metrics, "blip_captions_total{model=\"m\"} 0"));
        assert!(has_line(&metrics, "blip_stage_duration_seconds_count{model=\"m\",stage=\"encoder\"} 0"));
    }
}
