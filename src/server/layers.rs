//! The one chain that every request of both transports passes, outermost first: identity (request id, span, log line,
//! panics), compressed answers, CORS, API key, body limit, admission, deadline, compressed bodies.
//!
//! Each layer of ours is an async function around the next one and answers refusals through the request's context.

use std::{panic::AssertUnwindSafe, str, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use futures_util::{FutureExt, StreamExt};
use http::{HeaderMap, HeaderValue, header};
use http_body_util::{BodyStream, StreamBody};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::{Instrument, debug, info_span};

use crate::{
    config::{ApiKeys, Origin, ServerConfig},
    error::CaptionError,
    server::{
        body,
        context::{Deadline, Kind, REQUEST_ID, RequestContext, Wire},
        encoding::keep_known_encodings,
        health::Phase,
        house::SHUTTING_DOWN,
        status::shorten,
        timeout::requested_timeout,
    },
};

/// What a client that found the house full is told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Bytes of a method's name that an error repeats.
const MAX_METHOD_BYTES: usize = 128;

/// Of a body that holds no image.
const MAX_METADATA_BYTES: usize = 64 << 10;

/// For a request that needs no model; such a request takes no place, so it must not last.
const METADATA_TIMEOUT: Duration = Duration::from_secs(10);

/// What the layers need to know; shared by all requests.
#[derive(Debug)]
pub(crate) struct Policy {
    api_keys: ApiKeys,
    max_body_bytes: usize,
    places: Arc<Semaphore>,
    request_timeout: Duration,
    closing: CancellationToken,
    phase: watch::Receiver<Phase>,
    pub(crate) cors_origins: Vec<Origin>,
}

impl Policy {
    /// `closing` ends every request that is still running when the grace of a shutdown is over.
    pub(crate) fn new(config: &ServerConfig, closing: CancellationToken, phase: watch::Receiver<Phase>) -> Arc<Self> {
        Arc::new(Self {
            api_keys: config.api_keys.clone(),
            max_body_bytes: config.max_body_bytes,
            places: Arc::new(Semaphore::new(config.queue_capacity)),
            request_timeout: config.request_timeout,
            closing,
            phase,
            cors_origins: config.cors_origins.clone(),
        })
    }

    /// Bytes of a body, by what the request is for.
    pub(crate) fn max_body_bytes(&self, kind: Kind) -> usize {
        match kind {
            Kind::Inference => self.max_body_bytes,
            Kind::Open | Kind::Metadata => self.max_body_bytes.min(MAX_METADATA_BYTES),
        }
    }
}

/// Gives the request its context and its span, logs its end, turns a panic into an internal error.
pub(crate) async fn identify(mut request: Request, next: Next) -> Response {
    let context = RequestContext::of(&request);
    let span = info_span!(
        "request",
        request_id = &*context.request_id,
        wire = ?context.wire,
        method = %request.method(),
        path = request.uri().path(),
    );
    request.extensions_mut().insert(context.clone());
    keep_known_encodings(request.headers_mut());
    let started = Instant::now();
    let answer = async {
        let answer = AssertUnwindSafe(next.run(request)).catch_unwind().await;
        let mut response = answer.unwrap_or_else(|_| context.response(&CaptionError::internal("a handler panicked")));
        if let Ok(id) = HeaderValue::from_str(&context.request_id) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        let elapsed_ms = started.elapsed().as_millis();
        debug!(status = response.status().as_u16(), elapsed_ms, "request answered");
        response
    };
    answer.instrument(span).await
}

/// Lets in whoever needs no key or has one.
pub(crate) async fn authenticate(State(policy): State<Arc<Policy>>, request: Request, next: Next) -> Response {
    let context = RequestContext::from_extensions(request.extensions());
    let is_open = policy.api_keys.is_empty() || context.kind == Kind::Open;
    if is_open || bearer_key(request.headers()).is_some_and(|key| policy.api_keys.contains(key)) {
        return next.run(request).await;
    }
    refuse(request, &context, &CaptionError::Unauthenticated).await
}

/// Refuses bodies that announce too many bytes, and puts tonic's own refusals into our words.
///
/// REST handlers count the bytes as they read; tonic checks each message against the same limit.
pub(crate) async fn limit_body(State(policy): State<Arc<Policy>>, request: Request, next: Next) -> Response {
    let context = RequestContext::from_extensions(request.extensions());
    let limit = policy.max_body_bytes(context.kind) as u64;
    let too_large = CaptionError::BodyTooLarge { limit };
    if body::announced_length(request.headers()).is_some_and(|length| length > limit) {
        return refuse(request, &context, &too_large).await;
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
    match policy.places.clone().try_acquire_owned() {
        // A stream keeps its place to the end.
        Ok(place) => next.run(request).await.map(|body| Body::new(body::Holding::new(body, place))),
        Err(_) => refuse(request, &context, &CaptionError::Overloaded { retry_after: RETRY_AFTER }).await,
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
        Kind::Inference => policy.request_timeout,
        Kind::Open | Kind::Metadata => policy.request_timeout.min(METADATA_TIMEOUT),
    };
    let deadline = match requested_timeout(context.wire, request.headers()) {
        Ok(timeout) => Deadline::new(timeout, limit),
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

    use axum::middleware::from_fn;
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
        let chain = ServiceBuilder::new().layer(from_fn(identify)).service(handler);
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
