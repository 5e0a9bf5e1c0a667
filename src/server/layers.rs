//! The one chain that every request of both transports passes, outermost first: identity (request id, span, log line,
//! counts, panics), compressed answers, CORS, API key, body limit, admission, deadline, compressed bodies, bytes.
//!
//! Each layer of ours is an async function around the next one and answers refusals through the request's context.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use futures_util::{FutureExt, StreamExt};
use http::{HeaderMap, HeaderValue, header};
use http_body_util::{BodyStream, StreamBody};
use tokio::{sync::watch, time::timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::{Instrument, error_span, field::Empty};

use crate::{
    api_keys::{ApiKey, ApiKeys},
    config::{Origin, ServerConfig},
    error::CaptionError,
    limits::Limits,
    metrics::Metrics,
    server::{
        access::Asked,
        admission::{Budget, Fault, Places},
        body,
        context::{Deadline, Kind, REQUEST_ID, RequestContext, SERVER_TIMING, Wire},
        encoding::keep_known_encodings,
        health::Phase,
        house::SHUTTING_DOWN,
        notes::Recorder,
        status::shorten,
        timeout::requested_timeout,
    },
};

/// What a client that found the house full is told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);
const FULL_HOUSE: CaptionError = CaptionError::Overloaded { bound: "queue_capacity", retry_after: RETRY_AFTER };
pub(crate) const FULL_OF_BYTES: CaptionError =
    CaptionError::Overloaded { bound: "max_inflight_bytes", retry_after: RETRY_AFTER };

/// What a setting makes open.
const METRICS_PATH: &str = "/metrics";

/// Bytes of a method's name that an error repeats.
const MAX_METHOD_BYTES: usize = 128;

/// Of a body that holds no image.
const MAX_METADATA_BYTES: usize = 64 << 10;

/// For a request that needs no model; such a request takes no place, so it must not last.
const METADATA_TIMEOUT: Duration = Duration::from_secs(10);

/// For loading a model.
const CONTROL_TIMEOUT: Duration = Duration::from_hours(1);

/// What the layers need to know; shared by all requests.
#[derive(Debug)]
pub(crate) struct Policy {
    /// Who may call; none: everyone.
    api_keys: watch::Receiver<ApiKeys>,
    limits: Limits,
    places: Arc<Places>,
    budget: Arc<Budget>,
    metrics: Metrics,
    open_metrics: bool,
    closing: CancellationToken,
    phase: watch::Receiver<Phase>,
    pub(crate) cors_origins: Vec<Origin>,
}

impl Policy {
    /// `closing` ends every request that is still running when the grace of a shutdown is over.
    pub(crate) fn new(
        config: &ServerConfig,
        metrics: &Metrics,
        api_keys: watch::Receiver<ApiKeys>,
        closing: CancellationToken,
        phase: watch::Receiver<Phase>,
    ) -> Arc<Self> {
        let limits = config.limits;
        metrics.capacity.set(limits.queue_capacity.into());
        metrics.in_flight_bytes_limit.set(limits.max_inflight_bytes as i64);
        Arc::new(Self {
            api_keys,
            limits,
            places: Places::new(limits.queue_capacity as usize, metrics.in_flight.clone()),
            budget: Budget::new(limits.max_inflight_bytes, metrics.in_flight_bytes.clone()),
            metrics: metrics.clone(),
            open_metrics: config.open_metrics,
            closing,
            phase,
            cors_origins: config.cors_origins.clone(),
        })
    }

    /// The same for the administrators' port, where nobody needs a key.
    pub(crate) fn of_administrators(&self) -> Arc<Self> {
        Arc::new(Self {
            api_keys: watch::channel(ApiKeys::default()).1,
            limits: self.limits,
            places: self.places.clone(),
            budget: self.budget.clone(),
            metrics: self.metrics.clone(),
            open_metrics: true,
            closing: self.closing.clone(),
            phase: self.phase.clone(),
            cors_origins: vec![],
        })
    }

    /// Where requests are counted.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Bytes of a body, by what the request is for.
    pub(crate) fn max_body_bytes(&self, kind: Kind) -> usize {
        match kind {
            Kind::Inference => self.limits.max_body_bytes,
            Kind::Open | Kind::Metadata | Kind::Control => self.limits.max_body_bytes.min(MAX_METADATA_BYTES),
        }
    }
}

/// Whose key a request has; an extension, absent where nobody needs one.
#[derive(Clone, Debug)]
struct Caller(Arc<ApiKey>);

/// Gives the request its context, its span and its trace, tells of its end, counts it, turns a panic into an internal error.
pub(crate) async fn identify(State(metrics): State<Metrics>, mut request: Request, next: Next) -> Response {
    let context = RequestContext::of(&request);
    let span = error_span!("request", request_id = &*context.request_id, trace_id = Empty);
    let asked = Asked::begin(&request, &context, &span);
    let recorder = Recorder::new(metrics, context.clone(), asked, span.clone());
    request.extensions_mut().insert(context.clone());
    keep_known_encodings(request.headers_mut());
    let answer = async {
        let answer = AssertUnwindSafe(next.run(request)).catch_unwind().await;
        let mut response = answer.unwrap_or_else(|_| context.response(&CaptionError::internal("a handler panicked")));
        if let Ok(id) = HeaderValue::from_str(&context.request_id) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        if let Some(times) = context.notes.server_timing() {
            response.headers_mut().insert(SERVER_TIMING, times);
        }
        recorder.follow(response)
    };
    answer.instrument(span).await
}

/// Lets in whoever needs no key or has one whose rate is not used up.
pub(crate) async fn authenticate(State(policy): State<Arc<Policy>>, mut request: Request, next: Next) -> Response {
    let context = RequestContext::from_extensions(request.extensions());
    let is_open = context.kind == Kind::Open || (policy.open_metrics && request.uri().path() == METRICS_PATH);
    let key = {
        let keys = policy.api_keys.borrow();
        if is_open || keys.is_empty() { Ok(None) } else { find_key(&keys, request.headers()).map(Some) }
    };
    let counted = key.and_then(|key| match &key {
        Some(key) if context.kind == Kind::Inference => {
            context.notes.key(&key.label);
            key.count().map(|()| Some(key.clone())).map_err(|retry_after| CaptionError::RateLimited { retry_after })
        }
        _ => Ok(key),
    });
    match counted {
        Err(error) => refuse(request, &context, &error).await,
        Ok(None) => next.run(request).await,
        Ok(Some(key)) => {
            context.notes.key(&key.label);
            request.extensions_mut().insert(Caller(key));
            next.run(request).await
        }
    }
}

fn find_key(keys: &ApiKeys, headers: &HeaderMap) -> Result<Arc<ApiKey>, CaptionError> {
    bearer_key(headers).and_then(|key| keys.find(key)).cloned().ok_or(CaptionError::Unauthenticated)
}

/// Refuses bodies that announce too many bytes, and puts tonic's own refusals into our words.
///
/// REST handlers count the bytes as they read; tonic checks each message against the same limit.
pub(crate) async fn limit_body(State(policy): State<Arc<Policy>>, request: Request, next: Next) -> Response {
    let context = RequestContext::from_extensions(request.extensions());
    let limit = policy.max_body_bytes(context.kind) as u64;
    let too_large = CaptionError::BodyTooLarge { limit };
    let announced = body::announced_length(request.headers()).unwrap_or(0);
    if announced > limit {
        return refuse(request, &context, &too_large).await;
    }
    if !policy.budget.has_room(announced as usize) {
        return refuse(request, &context, &FULL_OF_BYTES).await;
    }
    let method = request.uri().path().trim_start_matches('/').to_owned();
    let response = next.run(request).await;
    match foreign_error(&context, &response) {
        Some(Code::OutOfRange | Code::ResourceExhausted) => context.response(&too_large),
        Some(Code::Internal | Code::Unknown) => {
            context.response(&CaptionError::invalid("message", "is not a valid gRPC message of this method"))
        }
        Some(Code::Unimplemented) if response.headers().contains_key("grpc-accept-encoding") => {
            let mut answer = context.response(&CaptionError::Unimplemented("this grpc-encoding".to_owned()));
            answer.headers_mut().insert("grpc-accept-encoding", HeaderValue::from_static("gzip,deflate,identity"));
            answer
        }
        Some(Code::Unimplemented) => context.response(&CaptionError::Unimplemented(shorten(&method, MAX_METHOD_BYTES))),
        _ => response,
    }
}

/// Gives inference one of `queue_capacity` places in the house, or refuses at once.
pub(crate) async fn admit(State(policy): State<Arc<Policy>>, request: Request, next: Next) -> Response {
    let context = RequestContext::from_extensions(request.extensions());
    if context.kind != Kind::Inference {
        let is_stream = (context.wire, context.kind) == (Wire::Grpc, Kind::Metadata);
        let request = if is_stream { request.map(|body| until_draining(body, policy.phase.clone())) } else { request };
        return next.run(request).await;
    }
    let has_others = policy.api_keys.borrow().has_several();
    match policy.places.take(caller(&request), has_others) {
        // A stream keeps its place to the end.
        Some(place) => next.run(request).await.map(|body| Body::new(body::Holding::new(body, place))),
        None => refuse(request, &context, &FULL_HOUSE).await,
    }
}

/// Who asks, as a number; 0 where nobody needs a key.
fn caller(request: &Request) -> u64 {
    request.extensions().get::<Caller>().map_or(0, |Caller(key)| key.number())
}

/// Counts the bytes of the body as they come, decompressed, and ends one that is too slow.
pub(crate) async fn count_body(State(policy): State<Arc<Policy>>, mut request: Request, next: Next) -> Response {
    let context = RequestContext::from_extensions(request.extensions());
    let reservation = policy.budget.reservation();
    request.extensions_mut().insert(reservation.clone());
    // In a stream of requests silence is no fault.
    let silence = (!body::is_stream_of_requests(request.uri().path())).then_some(policy.limits.body_timeout);
    let counted = reservation.clone();
    let request = request.map(|body| Body::new(body::Counted::new(body, counted, silence)));
    let response = next.run(request).await;
    match reservation.fault() {
        Some(Fault::TooMuch) => context.response(&FULL_OF_BYTES),
        Some(Fault::TooSlow) => context.response(&body::too_slow(policy.limits.body_timeout)),
        // Those of a stream are in the hands of whoever works on them.
        None => response.map(|body| Body::new(body::Holding::new(body, reservation))),
    }
}

/// A stream of questions about the server ends with it: its service would wait for the next for ever.
fn until_draining(body: Body, mut phase: watch::Receiver<Phase>) -> Body {
    let end = async move {
        phase.wait_for(|phase| *phase == Phase::Draining).await.ok();
    };
    Body::new(StreamBody::new(BodyStream::new(body).take_until(end.boxed())))
}

/// Sets the deadline, and answers when it passes or when the server closes.
pub(crate) async fn expire(State(policy): State<Arc<Policy>>, mut request: Request, next: Next) -> Response {
    let context = RequestContext::from_extensions(request.extensions());
    let limit = match context.kind {
        Kind::Inference => policy.limits.request_timeout,
        // A model takes the time that it takes to load.
        Kind::Control => CONTROL_TIMEOUT,
        Kind::Open | Kind::Metadata => policy.limits.request_timeout.min(METADATA_TIMEOUT),
    };
    let deadline = match requested_timeout(context.wire, request.headers()) {
        Ok(timeout) => Deadline::new(timeout, limit, caller(&request)),
        Err(error) => return refuse(request, &context, &error).await,
    };
    request.extensions_mut().insert(deadline);
    tokio::select! {
        answer = timeout_at(deadline.at.into(), next.run(request)) => {
            answer.unwrap_or_else(|_| context.response(&CaptionError::DeadlineExceeded))
        }
        () = policy.closing.cancelled() => {
            context.response(&SHUTTING_DOWN)
        }
    }
}

/// Answers a request whose body nobody has read.
pub(crate) async fn refuse(request: Request<Body>, context: &RequestContext, error: &CaptionError) -> Response {
    match context.wire {
        // A stream of requests may never end, and a gRPC client reads the answer while it sends.
        Wire::Grpc => drop(tokio::spawn(body::discard(request))),
        Wire::Rest => body::discard(request).await,
    }
    context.response(error)
}

fn bearer_key(headers: &HeaderMap) -> Option<&str> {
    let (scheme, key) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// The code of a gRPC failure that tonic answered by itself: ours always carry details.
fn foreign_error(context: &RequestContext, response: &Response) -> Option<Code> {
    if context.wire != Wire::Grpc || response.headers().contains_key("grpc-status-details-bin") {
        return None;
    }
    Status::from_header_map(response.headers()).map(|status| status.code())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::middleware::from_fn_with_state;
    use tower::{ServiceBuilder, ServiceExt, service_fn};

    use super::*;

    /// What a client gets from a handler that panics.
    async fn answer_to_a_panic(content_type: &str) -> Response {
        let handler = service_fn(|_: Request| async {
            // A condition that the compiler cannot see through, so that the block has a type.
            assert!(std::hint::black_box(false), "secret");
            Ok::<_, Infallible>(Response::new(Body::empty()))
        });
        let request = Request::builder().header("content-type", content_type).header("x-request-id", "r1");
        let metrics = Metrics::new().unwrap();
        let chain = ServiceBuilder::new().layer(from_fn_with_state(metrics, identify)).service(handler);
        chain.oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_error_on_both_transports() {
        let rest = answer_to_a_panic("application/json").await;
        assert_eq!((rest.status().as_u16(), &rest.headers()["x-request-id"]), (500, &HeaderValue::from_static("r1")));
        let body = body::read(rest.into_body(), 1000).await.unwrap();
        assert_eq!(body, r#"{"error":"internal error","request_id":"r1"}"#);
        let grpc = answer_to_a_panic("application/grpc").await;
        let status = Status::from_header_map(grpc.headers()).unwrap();
        assert_eq!((status.code(), status.message()), (Code::Internal, "internal error"));
    }
}
