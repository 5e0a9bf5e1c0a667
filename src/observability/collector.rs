//! The connection to an OpenTelemetry collector, over HTTP.
//!
//! Spans wait in a bounded queue and are sent by a separate thread: with a slow or unreachable collector, spans are
//! lost but no request fails. Other variables of OpenTelemetry (`OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`,
//! `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_BSP_*`) are read by its SDK.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

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

use crate::config::TraceConfig;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Name of the service in traces, unless the environment sets another.
const SERVICE_NAME: &str = env!("CARGO_PKG_NAME");
/// Time for one batch.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the last batch, when the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Sends traces to the collector; does nothing if none is configured.
#[derive(Debug)]
pub struct Collector(Option<SdkTracerProvider>);

impl Collector {
    /// Prepares the connection. It must not be called inside an asynchronous runtime.
    pub(super) fn connect(config: &TraceConfig) -> Result<Self, Cause> {
        let Some(url) = config.url() else { return Ok(Self(None)) };
        let client = reqwest::blocking::Client::builder()
            .tls_backend_preconfigured(tls()?)
            .redirect(Policy::none())
            .timeout(EXPORT_TIMEOUT)
            .build()?;
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(url)
            .with_protocol(Protocol::HttpBinary)
            .build()?;
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.trace_sample)));
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(OutageLogger { exporter, is_failing: AtomicBool::new(false) })
            .with_sampler(sampler)
            .with_resource(resource())
            .build();
        Ok(Self(Some(provider)))
    }

    pub(super) fn tracer(&self) -> Option<SdkTracer> {
        self.0.as_ref().map(|provider| provider.tracer(SERVICE_NAME))
    }

    /// Sends the remaining spans within a bounded time. Nothing is traced after that.
    pub fn close(self) {
        if let Some(provider) = self.0 {
            // A failure was logged by the exporter.
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

/// Describes this service, with the attributes that the environment sets.
fn resource() -> Resource {
    let environment = Resource::builder().build();
    let name = environment.get(&Key::from_static_str("service.name"));
    let is_named = name.is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let builder = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if is_named { builder.build() } else { builder.with_service_name(SERVICE_NAME).build() }
}

/// Logs once when batches are lost, and once when they are accepted again.
#[derive(Debug)]
struct OutageLogger<E> {
    exporter: E,
    is_failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for OutageLogger<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.exporter.export(batch).await;
        // The error is not logged: it may contain the URL, and the URL a secret.
        match (self.is_failing.swap(result.is_err(), Ordering::Relaxed), &result) {
            (false, Err(_)) => {
                warn!("the collector of --otlp-endpoint does not accept traces: they are lost until it does");
            }
            (true, Ok(())) => info!("the collector accepts traces again"),
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
