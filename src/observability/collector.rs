//! Where traces go: an OpenTelemetry collector, over HTTP.
//!
//! Spans wait in a bounded queue and are sent by a thread of their own: a collector that is slow or gone costs spans, never
//! a request. Variables of OpenTelemetry that are not settings of ours (`OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`,
//! `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_BSP_*`) are read by its SDK.

use std::{
    fmt,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clap::Args;
use opentelemetry::{Key, KeyValue, trace::TracerProvider};
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Sampler, SdkTracer, SdkTracerProvider, SpanData, SpanExporter},
};
use reqwest::redirect::Policy;
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tracing::{info, warn};
use url::Url;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Under the address of a collector.
const TRACES_PATH: &str = "/v1/traces";
/// What we are called where nothing else is said.
const SERVICE_NAME: &str = env!("CARGO_PKG_NAME");
/// For one batch.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// For the last batch, when the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Where traces go, and which.
#[derive(Clone, Debug, Args)]
pub struct TraceConfig {
    /// An OpenTelemetry collector's address for OTLP over HTTP, such as http://collector:4318; else that of
    /// OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT; else there are no traces
    #[arg(long, env = "BLIP_OTLP_ENDPOINT", hide_env_values = true, value_name = "URL")]
    otlp_endpoint: Option<Endpoint>,

    /// As OpenTelemetry defines it: the whole address
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", hide = true)]
    otel_exporter_otlp_traces_endpoint: Option<Endpoint>,

    /// As OpenTelemetry defines it: the address without the path of traces
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", hide = true)]
    otel_exporter_otlp_endpoint: Option<Endpoint>,

    /// Part of the requests that is traced, 0 to 1; where a caller sends a traceparent, the caller decides
    #[arg(long, env = "BLIP_TRACE_SAMPLE", value_name = "RATIO", default_value_t = 1.0, value_parser = ratio)]
    trace_sample: f64,
}

impl TraceConfig {
    /// Where batches are posted to.
    fn address(&self) -> Option<String> {
        let traces =
            |endpoint: &Endpoint| Some(format!("{}{TRACES_PATH}", endpoint.0.as_ref()?.as_str().trim_end_matches('/')));
        let whole = |endpoint: &Endpoint| endpoint.0.as_ref().map(Url::to_string);
        let own = self.otlp_endpoint.as_ref().and_then(traces);
        own.or_else(|| self.otel_exporter_otlp_traces_endpoint.as_ref().and_then(whole))
            .or_else(|| self.otel_exporter_otlp_endpoint.as_ref().and_then(traces))
    }
}

/// An address; an empty one is none. It may hold a secret.
#[derive(Clone)]
struct Endpoint(Option<Url>);

impl FromStr for Endpoint {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        url.map(|url| Self(Some(url))).ok_or("is no address such as http://collector:4318")
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| format!("'{text}' is not between 0 and 1"))
}

/// What sends traces to the collector; nothing, if there is none.
#[derive(Debug)]
pub struct Collector(Option<SdkTracerProvider>);

impl Collector {
    /// Must not be called inside an asynchronous runtime.
    pub(super) fn connect(config: &TraceConfig) -> Result<Self, Cause> {
        let Some(address) = config.address() else { return Ok(Self(None)) };
        let client = reqwest::blocking::Client::builder()
            .tls_backend_preconfigured(tls()?)
            .redirect(Policy::none())
            .timeout(EXPORT_TIMEOUT)
            .build()?;
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(address)
            .with_protocol(Protocol::HttpBinary)
            .build()?;
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.trace_sample)));
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(Reporting { exporter, is_failing: AtomicBool::new(false) })
            .with_sampler(sampler)
            .with_resource(resource())
            .build();
        Ok(Self(Some(provider)))
    }

    pub(super) fn tracer(&self) -> Option<SdkTracer> {
        self.0.as_ref().map(|provider| provider.tracer(SERVICE_NAME))
    }

    /// Sends what is left, for a bounded time. Nothing is traced after that.
    pub fn close(self) {
        if let Some(provider) = self.0 {
            // What could not be sent was warned of.
            provider.shutdown_with_timeout(FLUSH_TIMEOUT).ok();
        }
    }
}

/// TLS with ring and the system's root certificates.
fn tls() -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    Ok(builder.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth())
}

/// What the environment says of us, and the rest.
fn resource() -> Resource {
    let said = Resource::builder().build();
    let name = said.get(&Key::from_static_str("service.name"));
    let is_named = name.is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let builder = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if is_named { builder.build() } else { builder.with_service_name(SERVICE_NAME).build() }
}

/// Says once that batches are lost, and once that they arrive again.
#[derive(Debug)]
struct Reporting<E> {
    exporter: E,
    is_failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Reporting<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.exporter.export(batch).await;
        // The error may hold the address, and the address a secret.
        match (self.is_failing.swap(result.is_err(), Ordering::Relaxed), &result) {
            (false, Err(_)) => {
                warn!("the collector of --otlp-endpoint does not take traces: they are lost until it does");
            }
            (true, Ok(())) => info!("the collector takes traces again"),
            _ => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command, FromArgMatches};

    use super::*;

    fn address(arguments: &[&str]) -> Option<String> {
        let command = TraceConfig::augment_args(Command::new("test").no_binary_name(true));
        let matches = command.try_get_matches_from(arguments).unwrap();
        TraceConfig::from_arg_matches(&matches).unwrap().address()
    }

    #[test]
    fn our_own_setting_comes_first_and_paths_are_those_of_the_convention() {
        let (own, all, traces) = (
            "--otlp-endpoint=http://a:4318/b/",
            "--otel-exporter-otlp-endpoint=http://c:4318",
            "--otel-exporter-otlp-traces-endpoint=http://d:4318/x",
        );
        assert_eq!(address(&[]), None);
        assert_eq!(address(&[own, all, traces]).unwrap(), "http://a:4318/b/v1/traces");
        assert_eq!(address(&[all]).unwrap(), "http://c:4318/v1/traces");
        assert_eq!(address(&[all, traces]).unwrap(), "http://d:4318/x");
        assert_eq!(address(&["--otlp-endpoint=", all]).unwrap(), "http://c:4318/v1/traces");
    }

    #[test]
    fn what_is_no_address_or_ratio_is_refused_and_an_address_is_not_shown() {
        for bad in ["collector:4317", "ftp://x", "x"] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
        assert_eq!(format!("{:?}", "http://x/?key=secret".parse::<Endpoint>()), "Ok(***)");
        assert_eq!((ratio("0.25"), ratio("1")), (Ok(0.25), Ok(1.0)));
        assert!(ratio("1.1").is_err() && ratio("-0.1").is_err() && ratio("NaN").is_err());
    }
}
