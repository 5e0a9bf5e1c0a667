//! The Prometheus metrics of the process: every name of `docs/metrics.md` is registered here.
//!
//! Each server has a separate registry, which is passed to all code that records; nothing is global.

use std::time::Duration;

use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, core::Collector,
};

/// Buckets for requests and stages, in seconds: from a cached caption to a large model under load.
const SECONDS: [f64; 15] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];
const ROWS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];
const TOKENS: [f64; 8] = [5.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0, 500.0];
/// Outcomes of a reload.
const OK: &str = "ok";
const FAILED: &str = "failed";

/// All metrics of a process; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    image_url_refusals: IntCounterVec,
    reloads: IntCounterVec,
    /// Requests in flight.
    pub in_flight: IntGauge,
    /// The limit of requests in flight.
    pub capacity: IntGauge,
    /// Bytes of the bodies of all requests in flight.
    pub in_flight_bytes: IntGauge,
    /// The limit of these bytes.
    pub in_flight_bytes_limit: IntGauge,
    /// Open connections.
    pub connections: IntGauge,
    /// Accepted connections since the start.
    pub accepted: IntCounter,
    /// 1 if the service is ready.
    pub ready: IntGauge,
    stage_seconds: HistogramVec,
    cache_lookups: IntCounterVec,
    generated_tokens: IntCounterVec,
    captions: IntCounterVec,
    step_rows: HistogramVec,
    caption_tokens: HistogramVec,
    queue_depth: IntGaugeVec,
    decoder_rows: IntGaugeVec,
    load_seconds: GaugeVec,
    model_info: IntGaugeVec,
    build_info: IntGaugeVec,
}

/// The labels of an answered request.
#[derive(Clone, Copy, Debug)]
pub struct RequestLabels<'a> {
    /// `rest` or `grpc`.
    pub surface: &'a str,
    /// Name of the model; empty if the request reached none.
    pub model: &'a str,
    /// Label of the API key; empty without one.
    pub key: &'a str,
    /// Coarse class of the result, e.g. `ok` or `overloaded`.
    pub outcome: &'a str,
    /// Detail of the outcome.
    pub reason: &'a str,
}

/// The metrics of one model, which its recorder writes.
#[derive(Clone, Debug)]
pub struct ModelMetrics {
    stages: [Histogram; Stage::ALL.len()],
    pub(super) step_rows: Histogram,
    pub(super) caption_tokens: Histogram,
    pub(super) generated_tokens: IntCounter,
    pub(super) captions: IntCounter,
    pub(super) caption_cache: CacheLookups,
    pub(super) image_cache: CacheLookups,
    pub(super) queue_depth: IntGauge,
    pub(super) decoder_rows: IntGauge,
}

/// Look-ups in one cache.
#[derive(Clone, Debug)]
pub(super) struct CacheLookups {
    pub(super) hits: IntCounter,
    pub(super) misses: IntCounter,
}

/// A stage of an image's way through the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Fetching the image.
    Fetch,
    /// From the image file to pixels.
    Decode,
    /// From pixels to `pixel_values`.
    Preprocess,
    /// In the engine's queue.
    Queue,
    /// An image in the encoder.
    Encoder,
    /// One run of the decoder: a step or a prompt.
    DecoderStep,
    /// From token ids to text.
    Detokenise,
}

/// The labels of `blip_model_info`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo<'a> {
    /// Version, as in the catalogue.
    pub version: &'a str,
    /// Precision of the graphs.
    pub precision: &'a str,
    /// The model that was exported.
    pub source: &'a str,
    /// First 12 hexadecimal digits of a SHA-256 over the names and checksums of the bundle's files.
    pub bundle: &'a str,
    /// Where the sessions run.
    pub execution_provider: &'a str,
}

impl Stage {
    const ALL: [Self; 7] =
        [Self::Fetch, Self::Decode, Self::Preprocess, Self::Queue, Self::Encoder, Self::DecoderStep, Self::Detokenise];

    fn as_str(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Decode => "decode",
            Self::Preprocess => "preprocess",
            Self::Queue => "queue",
            Self::Encoder => "encoder",
            Self::DecoderStep => "decoder_step",
            Self::Detokenise => "detokenise",
        }
    }
}

impl Metrics {
    /// Registers all metrics.
    ///
    /// # Errors
    /// A name is malformed or registered twice.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let new = Register(&registry);
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let metrics = Self {
            requests: new.counters(
                "blip_requests_total",
                "Answered requests",
                &["surface", "model", "key", "outcome", "reason"],
            )?,
            request_seconds: new.histograms(
                "blip_request_duration_seconds",
                "Time from the head of a request to the end of its answer",
                &["surface", "model"],
                &SECONDS,
            )?,
            image_url_refusals: new.counters(
                "blip_image_url_refusals_total",
                "Image URLs that could not be used",
                &["reason"],
            )?,
            reloads: new.counters(
                "blip_reloads_total",
                "Reloads of keys, certificates and models",
                &["what", "outcome"],
            )?,
            in_flight: new.gauge("blip_requests_in_flight", "Requests in flight")?,
            capacity: new.gauge("blip_queue_capacity", "Limit of requests in flight")?,
            in_flight_bytes: new.gauge("blip_in_flight_bytes", "Bytes of the bodies of requests in flight")?,
            in_flight_bytes_limit: new
                .gauge("blip_in_flight_bytes_limit", "Limit of the bytes of the bodies of requests in flight")?,
            connections: new.gauge("blip_connections", "Open connections")?,
            accepted: new.counter("blip_connections_total", "Accepted connections")?,
            ready: new.gauge("blip_ready", "1 if the service is ready, else 0")?,
            stage_seconds: new.histograms(
                "blip_stage_duration_seconds",
                "Time in one stage of a request",
                &["model", "stage"],
                &SECONDS,
            )?,
            cache_lookups: new.counters(
                "blip_cache_lookups_total",
                "Look-ups in the caches of captions and encoded images",
                &["model", "cache", "result"],
            )?,
            generated_tokens: new.counters(
                "blip_generated_tokens_total",
                "Generated tokens of computed captions",
                &["model"],
            )?,
            captions: new.counters("blip_captions_total", "Computed captions", &["model"])?,
            step_rows: new.histograms(
                "blip_decoder_step_rows",
                "Rows (images x beams) of a decoder step",
                &["model"],
                &ROWS,
            )?,
            caption_tokens: new.histograms(
                "blip_caption_tokens",
                "Generated tokens of a caption",
                &["model"],
                &TOKENS,
            )?,
            queue_depth: new.gauges("blip_queue_depth", "Jobs in the engine's queue", &["model"])?,
            decoder_rows: new.gauges("blip_decoder_rows", "Rows being decoded", &["model"])?,
            load_seconds: new.add(GaugeVec::new(
                Opts::new("blip_model_load_duration_seconds", "Time from reading a model's files to its first caption"),
                &["model", "version"],
            )?)?,
            model_info: new.gauges(
                "blip_model_info",
                "A served model; always 1",
                &["model", "version", "precision", "source", "bundle", "execution_provider"],
            )?,
            build_info: new.gauges("blip_build_info", "This build; always 1", &["version", "onnxruntime"])?,
            registry,
        };
        // A series that begins at 1 shows no increase: the first failure would go unnoticed.
        for what in ["keys", "certificates", "models"] {
            metrics.reloads.with_label_values(&[what, OK]);
            metrics.reloads.with_label_values(&[what, FAILED]);
        }
        Ok(metrics)
    }

    /// The metrics of a model; they survive its reload.
    pub fn model(&self, model: &str) -> ModelMetrics {
        let cache = |cache| {
            let counter = |result| self.cache_lookups.with_label_values(&[model, cache, result]);
            CacheLookups { hits: counter("hit"), misses: counter("miss") }
        };
        ModelMetrics {
            stages: Stage::ALL.map(|stage| self.stage_seconds.with_label_values(&[model, stage.as_str()])),
            step_rows: self.step_rows.with_label_values(&[model]),
            caption_tokens: self.caption_tokens.with_label_values(&[model]),
            generated_tokens: self.generated_tokens.with_label_values(&[model]),
            captions: self.captions.with_label_values(&[model]),
            caption_cache: cache("caption"),
            image_cache: cache("image"),
            queue_depth: self.queue_depth.with_label_values(&[model]),
            decoder_rows: self.decoder_rows.with_label_values(&[model]),
        }
    }

    /// Records an answered request, from its head to the end of its answer.
    pub fn record_request(&self, labels: &RequestLabels, time: Duration) {
        let RequestLabels { surface, model, key, outcome, reason } = *labels;
        self.requests.with_label_values(&[surface, model, key, outcome, reason]).inc();
        self.request_seconds.with_label_values(&[surface, model]).observe(time.as_secs_f64());
    }

    /// Records an image URL that could not be used.
    pub fn record_image_url_refusal(&self, reason: &str) {
        self.image_url_refusals.with_label_values(&[reason]).inc();
    }

    /// Records a reload of `keys`, `certificates` or `models`.
    pub fn record_reload(&self, what: &str, is_ok: bool) {
        self.reloads.with_label_values(&[what, if is_ok { OK } else { FAILED }]).inc();
    }

    /// Adds the series that describe a served model.
    pub fn add_model(&self, model: &str, info: &ModelInfo, load_time: Duration) {
        let ModelInfo { version, precision, source, bundle, execution_provider } = info;
        self.load_seconds.with_label_values(&[model, version]).set(load_time.as_secs_f64());
        self.model_info.with_label_values(&[model, version, precision, source, bundle, execution_provider]).set(1);
    }

    /// Removes the series that describe a model.
    pub fn remove_model(&self, model: &str, info: &ModelInfo) {
        let ModelInfo { version, precision, source, bundle, execution_provider } = info;
        // An error means that the series does not exist.
        self.load_seconds.remove_label_values(&[model, version]).ok();
        self.model_info.remove_label_values(&[model, version, precision, source, bundle, execution_provider]).ok();
    }

    /// Sets the version of ONNX Runtime in `blip_build_info`.
    pub fn set_build(&self, onnxruntime: &str) {
        self.build_info.with_label_values(&[env!("CARGO_PKG_VERSION"), onnxruntime]).set(1);
    }

    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        // Writing to memory cannot fail, and Prometheus' text is UTF-8.
        TextEncoder::new().encode(&self.registry.gather(), &mut text).ok();
        String::from_utf8(text).unwrap_or_default()
    }
}

/// Creates metrics and registers them.
struct Register<'a>(&'a Registry);

impl ModelMetrics {
    pub(super) fn stage(&self, stage: Stage) -> &Histogram {
        &self.stages[stage as usize]
    }
}

impl Register<'_> {
    fn add<M: Collector + Clone + 'static>(&self, metric: M) -> Result<M, prometheus::Error> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.add(IntCounter::new(name, help)?)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.add(IntGauge::new(name, help)?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> Result<HistogramVec, prometheus::Error> {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_rendered() {
        let metrics = Metrics::new().unwrap();
        let labels = RequestLabels { surface: "rest", model: "m", key: "", outcome: "ok", reason: "ok" };
        metrics.record_request(&labels, Duration::from_millis(1));
        metrics.model("m").step_rows.observe(3.0);
        let text = metrics.render();
        assert!(
            text.contains("blip_requests_total{key=\"\",model=\"m\",outcome=\"ok\",reason=\"ok\",surface=\"rest\"} 1")
        );
        assert!(text.contains("blip_request_duration_seconds_count{model=\"m\",surface=\"rest\"} 1"));
        assert!(text.contains("blip_decoder_step_rows_bucket{model=\"m\",le=\"4\"} 1"));
        assert!(text.contains("process_resident_memory_bytes") && text.contains("blip_ready 0"));
    }

    #[test]
    fn each_stage_has_its_own_histogram() {
        let metrics = Metrics::new().unwrap();
        let model = metrics.model("m");
        for stage in Stage::ALL {
            model.stage(stage).observe(1.0);
            let line = format!("blip_stage_duration_seconds_count{{model=\"m\",stage=\"{}\"}} 1", stage.as_str());
            assert!(metrics.render().contains(&line), "{line}");
        }
    }

    #[test]
    fn a_removed_model_is_not_rendered() {
        let metrics = Metrics::new().unwrap();
        let info = ModelInfo { version: "1", precision: "fp32", source: "s", bundle: "b", execution_provider: "cpu" };
        metrics.add_model("m", &info, Duration::from_millis(500));
        assert!(metrics.render().contains("blip_model_info{"));
        metrics.remove_model("m", &info);
        let text = metrics.render();
        assert!(!text.contains("blip_model_info{") && !text.contains("blip_model_load_duration_seconds{"));
    }
}
