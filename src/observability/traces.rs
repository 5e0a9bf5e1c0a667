//! Traces: one span for a request, and under it one for each stage of its work.
//!
//! A request's trace is attached to its span of the log, which is passed wherever the work goes: into bodies that are read
//! later, the blocking pool and the engine's threads. A stage is recorded when it has ended, by the code that knows its
//! duration. Without a collector all of this returns at once.

use std::{
    ops::Range,
    sync::OnceLock,
    time::{Instant, SystemTime},
};

use http::HeaderMap;
use opentelemetry::{
    Context, KeyValue, Value,
    propagation::{Extractor, TextMapPropagator},
    trace::{Span as _, SpanKind, Status, TraceContextExt, Tracer},
};
use opentelemetry_sdk::{propagation::TraceContextPropagator, trace::SdkTracer};
use tracing::{Metadata, Span, field::display};
use tracing_subscriber::{Registry, registry::LookupSpan};

/// The tracer, set once if a collector is configured. Like the log it is global.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Name and value of an attribute of a span; names follow OpenTelemetry's conventions where it has one.
pub(crate) type Attribute = (&'static str, Value);

/// The trace that is attached to a span of the log.
struct RequestTrace(Context);

/// What is known of a request at its end.
pub(crate) struct RequestEnd {
    /// Name of the span, e.g. method and route.
    pub(crate) name: String,
    /// Attributes to add.
    pub(crate) attributes: Vec<Attribute>,
    /// Whether the server failed, rather than the client.
    pub(crate) is_server_error: bool,
}

/// Starts tracing requests.
pub(super) fn start(tracer: SdkTracer) {
    // An error means a second call, which only tests make.
    TRACER.set(tracer).ok();
}

/// Whether a span of the log is one that a trace is attached to.
pub(super) fn is_request(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target().starts_with(env!("CARGO_CRATE_NAME"))
}

/// Begins the trace of a request, as a part of its caller's if the headers `traceparent` and `tracestate` name one;
/// malformed ones are ignored. The log's span must have an empty field `trace_id`.
pub(crate) fn begin_request(span: &Span, headers: &HeaderMap, attributes: impl FnOnce() -> Vec<Attribute>) {
    let Some(tracer) = TRACER.get() else { return };
    let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers));
    // The name is set at the end: the route is not known yet.
    let builder = tracer.span_builder("request").with_kind(SpanKind::Server).with_attributes(key_values(attributes()));
    let context = Context::new().with_span(builder.start_with_context(tracer, &parent));
    span.record("trace_id", display(context.span().span_context().trace_id()));
    attach(span, context);
}

/// Ends the trace of a request with what is known at that point.
pub(crate) fn end_request(span: &Span, end: impl FnOnce() -> RequestEnd) {
    let Some(context) = context_of(span) else { return };
    let request = context.span();
    if request.span_context().is_sampled() {
        let RequestEnd { name, attributes, is_server_error } = end();
        request.update_name(name);
        request.set_attributes(key_values(attributes));
        if is_server_error {
            request.set_status(Status::error(""));
        }
    }
    request.end();
}

/// Starts a stage of the current request.
pub(crate) fn stage(name: &'static str) -> Stage {
    Stage(TRACER.get().map(|_| (Span::current(), name, Instant::now())))
}

/// A stage that ends when this is dropped.
#[must_use]
pub(crate) struct Stage(Option<(Span, &'static str, Instant)>);

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some((span, name, start)) = self.0.take() {
            record_stage(&span, name, start..Instant::now(), &[]);
        }
    }
}

/// Records a stage of the request with this span.
pub(crate) fn record_stage(
    span: &Span,
    name: &'static str,
    time: Range<Instant>,
    attributes: &[(&'static str, usize)],
) {
    let Some(tracer) = TRACER.get() else { return };
    let Some(request) = context_of(span).filter(|context| context.span().span_context().is_sampled()) else { return };
    let (now, today) = (Instant::now(), SystemTime::now());
    let date = |instant| today - now.saturating_duration_since(instant);
    let attributes = attributes.iter().map(|(name, number)| KeyValue::new(*name, *number as i64));
    let builder = tracer.span_builder(name).with_start_time(date(time.start)).with_attributes(attributes);
    builder.start_with_context(tracer, &request).end_with_timestamp(date(time.end));
}

fn key_values(attributes: Vec<Attribute>) -> impl Iterator<Item = KeyValue> {
    attributes.into_iter().map(|(name, value)| KeyValue::new(name, value))
}

/// Attaches a trace to a span of the log.
fn attach(span: &Span, context: Context) {
    span.with_subscriber(|(id, subscriber)| {
        if let Some(span) = subscriber.downcast_ref::<Registry>().and_then(|registry| registry.span(id)) {
            span.extensions_mut().insert(RequestTrace(context));
        }
    });
}

/// The trace that is attached to a span of the log, or to one around it.
fn context_of(span: &Span) -> Option<Context> {
    TRACER.get()?;
    let find = |(id, subscriber): (&_, &tracing::Dispatch)| {
        let span = subscriber.downcast_ref::<Registry>()?.span(id)?;
        span.scope().find_map(|span| span.extensions().get::<RequestTrace>().map(|trace| trace.0.clone()))
    };
    span.with_subscriber(find).flatten()
}

/// HTTP headers, or gRPC metadata.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
