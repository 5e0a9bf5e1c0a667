//! Numbers for Prometheus: every name of `docs/metrics.md` is made here.
//!
//! One registry per server, handed to whoever counts; nothing is global.

use std::time::Duration;

use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, core::Collector,
};

/// Seconds of whole requests and of stages: from a kept caption to a large model under load.
const SECONDS: [f64; 15] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];
const ROWS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];
/// Outcomes of reading something again.
const OK: &str = "ok";
const FAILED: &str = "failed";
const TOKENS: [f64; 8] = [5.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0, 500.0];

/// All numbers of a process; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// Answered requests by surface, model, key, outcome and reason.
    pub requests: IntCounterVec,
    /// From the head of a request to the end of its answer.
    pub request_seconds: HistogramVec,
    /// Image URLs that gave no image, by reason.
    pub image_url_refusals: IntCounterVec,
    reloads: IntCounterVec,
    /// Requests that have a place.
    pub in_flight: IntGauge,
    /// Places.
    pub capacity: IntGauge,
    /// Bytes of request bodies in the house.
    pub in_flight_bytes: IntGauge,
    /// At most.
    pub in_flight_bytes_limit: IntGauge,
    /// Open connections.
    pub connections: IntGauge,
    /// All that were accepted.
    pub accepted: IntCounter,
    /// 1 if requests are welcome.
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

/// The numbers of one model.
#[derive(Clone, Debug)]
pub struct ModelMetrics {
    /// Fetching the image.
    pub fetch: Histogram,
    /// From its file to pixels.
    pub decode: Histogram,
    /// From pixels to `pixel_values`.
    pub preprocess: Histogram,
    /// Waiting for the engine.
    pub queue: Histogram,
    /// An image in the encoder.
    pub encoder: Histogram,
    /// A step of the decoder, prompts too.
    pub decoder_step: Histogram,
    /// From ids to text.
    pub detokenise: Histogram,
    /// Rows of a step.
    pub step_rows: Histogram,
    /// Generated tokens of a caption.
    pub caption_tokens: Histogram,
    /// All of them.
    pub generated_tokens: IntCounter,
    /// Captions.
    pub captions: IntCounter,
    /// Kept captions that were found, and those that were not.
    pub caption_cache: (IntCounter, IntCounter),
    /// The same of encoded images.
    pub image_cache: (IntCounter, IntCounter),
    /// Jobs that wait for the engine.
    pub queue_depth: IntGauge,
    /// Rows that decode.
    pub decoder_rows: IntGauge,
}

/// What `blip_model_info` says of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo<'a> {
    /// As in the catalogue.
    pub version: &'a str,
    /// Of the graphs.
    pub precision: &'a str,
    /// What was exported.
    pub source: &'a str,
    /// The beginning of the manifest's SHA-256.
    pub bundle: &'a str,
    /// Where it runs.
    pub execution_provider: &'a str,
}

impl Metrics {
    /// All of them, at zero.
    ///
    /// # Errors
    /// A name is there twice or malformed.
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
                "From the head of a request to the end of its answer",
                &["surface", "model"],
                &SECONDS,
            )?,
            image_url_refusals: new.counters(
                "blip_image_url_refusals_total",
                "Image URLs that gave no image",
                &["reason"],
            )?,
            reloads: new.counters(
                "blip_reloads_total",
                "Times that configuration was read again",
                &["what", "outcome"],
            )?,
            in_flight: new.gauge("blip_requests_in_flight", "Requests that have a place")?,
            capacity: new.gauge("blip_queue_capacity", "Places for requests")?,
            in_flight_bytes: new.gauge("blip_in_flight_bytes", "Bytes of request bodies in the house")?,
            in_flight_bytes_limit: new.gauge("blip_in_flight_bytes_limit", "Bytes of request bodies at most")?,
            connections: new.gauge("blip_connections", "Open connections")?,
            accepted: new.counter("blip_connections_total", "Accepted connections")?,
            ready: new.gauge("blip_ready", "1 if requests are welcome")?,
            stage_seconds: new.histograms(
                "blip_stage_duration_seconds",
                "Time in one stage of a request",
                &["model", "stage"],
                &SECONDS,
            )?,
            cache_lookups: new.counters(
                "blip_cache_lookups_total",
                "Looks for kept captions and encoded images",
                &["model", "cache", "result"],
            )?,
            generated_tokens: new.counters("blip_generated_tokens_total", "Tokens of computed captions", &["model"])?,
            captions: new.counters("blip_captions_total", "Captions that were computed", &["model"])?,
            step_rows: new.histograms(
                "blip_decoder_step_rows",
                "Rows (images x beams) that a decoder step had",
                &["model"],
                &ROWS,
            )?,
            caption_tokens: new.histograms(
                "blip_caption_tokens",
                "Generated tokens of a caption",
                &["model"],
                &TOKENS,
            )?,
            queue_depth: new.gauges("blip_queue_depth", "Jobs that wait for the engine", &["model"])?,
            decoder_rows: new.gauges("blip_decoder_rows", "Rows that are being decoded", &["model"])?,
            load_seconds: new.add(GaugeVec::new(
                Opts::new("blip_model_load_duration_seconds", "From the files of a model to its first caption"),
                &["model", "version"],
            )?)?,
            model_info: new.gauges(
                "blip_model_info",
                "A served model: always 1",
                &["model", "version", "precision", "source", "bundle", "execution_provider"],
            )?,
            build_info: new.gauges("blip_build_info", "This build: always 1", &["version", "onnxruntime"])?,
            registry,
        };
        // From zero, or nobody would see the first failure.
        for what in ["keys", "certificates", "models"] {
            metrics.reloads.with_label_values(&[what, OK]);
            metrics.reloads.with_label_values(&[what, FAILED]);
        }
        Ok(metrics)
    }

    /// The numbers of a model; the same after a reload.
    pub fn model(&self, model: &str) -> ModelMetrics {
        let stage = |stage| self.stage_seconds.with_label_values(&[model, stage]);
        let cache = |cache| {
            let counter = |result| self.cache_lookups.with_label_values(&[model, cache, result]);
            (counter("hit"), counter("miss"))
        };
        ModelMetrics {
            fetch: stage("fetch"),
            decode: stage("decode"),
            preprocess: stage("preprocess"),
            queue: stage("queue"),
            encoder: stage("encoder"),
            decoder_step: stage("decoder_step"),
            detokenise: stage("detokenise"),
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

    /// A model is served from now on.
    pub fn model_loaded(&self, model: &str, info: &ModelInfo, time: Duration) {
        let ModelInfo { version, precision, source, bundle, execution_provider } = info;
        self.load_seconds.with_label_values(&[model, version]).set(time.as_secs_f64());
        self.model_info.with_label_values(&[model, version, precision, source, bundle, execution_provider]).set(1);
    }

    /// A model is not served any more.
    pub fn model_gone(&self, model: &str, info: &ModelInfo) {
        let ModelInfo { version, precision, source, bundle, execution_provider } = info;
        // Absent already: nothing to do.
        self.load_seconds.remove_label_values(&[model, version]).ok();
        self.model_info.remove_label_values(&[model, version, precision, source, bundle, execution_provider]).ok();
    }

    /// `keys`, `certificates` or `models` were read again.
    pub fn reloaded(&self, what: &str, ok: bool) {
        self.reloads.with_label_values(&[what, if ok { OK } else { FAILED }]).inc();
    }

    /// Which ONNX Runtime this is.
    pub fn set_build(&self, onnxruntime: &str) {
        self.build_info.with_label_values(&[env!("CARGO_PKG_VERSION"), onnxruntime]).set(1);
    }

    /// Everything, in Prometheus' text format.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        // Writing to memory cannot fail, and a metric that is no text is left out.
        TextEncoder::new().encode(&self.registry.gather(), &mut text).ok();
        String::from_utf8(text).unwrap_or_default()
    }
}

/// Makes metrics and registers them.
struct Register<'a>(&'a Registry);

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
    fn what_is_counted_is_rendered() {
        let metrics = Metrics::new().unwrap();
        metrics.requests.with_label_values(&["rest", "m", "", "ok", "ok"]).inc();
        metrics.model("m").step_rows.observe(3.0);
        let text = metrics.render();
        assert!(
            text.contains("blip_requests_total{key=\"\",model=\"m\",outcome=\"ok\",reason=\"ok\",surface=\"rest\"} 1")
        );
        assert!(text.contains("blip_decoder_step_rows_bucket{model=\"m\",le=\"4\"} 1"));
        assert!(text.contains("process_resident_memory_bytes") && text.contains("blip_ready 0"));
    }

    #[test]
    fn a_model_that_is_gone_is_not_rendered() {
        let metrics = Metrics::new().unwrap();
        let info = ModelInfo { version: "1", precision: "fp32", source: "s", bundle: "b", execution_provider: "cpu" };
        metrics.model_loaded("m", &info, Duration::from_millis(500));
        assert!(metrics.render().contains("blip_model_info{"));
        metrics.model_gone("m", &info);
        let text = metrics.render();
        assert!(!text.contains("blip_model_info{") && !text.contains("blip_model_load_duration_seconds{"));
    }
}
