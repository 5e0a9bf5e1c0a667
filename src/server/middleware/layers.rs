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
use http::HeaderValue;
use http_body_util::{BodyStream, StreamBody};
use tokio::{sync::watch, time::timeout_at};
use tonic::{Code, Status};
use tracing::{Instrument, error_span, field::Empty};

use crate::{
    error::CaptionError,
    observability::prometheus::Metrics,
    server::{
        error_response::shorten,
        health::Phase,
        middleware::{
            admission::{Fault, INFLIGHT_BYTES_FULL, QUEUE_FULL},
            auth::caller,
            body::{self, BodyLimit, refuse},
            compression::keep_known_encodings,
            context::{Deadline, REQUEST_ID, RequestContext, SERVER_TIMING, Transport},
            deadline::requested_timeout,
            layer_state::LayerState,
            request_log::Asked,
            request_record::Recorder,
        },
        routes::RouteClass,
        state::SHUTTING_DOWN,
    },
};

/// Bytes of a method's name that an error repeats.
const MAX_METHOD_BYTES: usize = 128;

/// For a request that needs no model; such a request takes no place, so it must not last.
const METADATA_TIMEOUT: Duration = Duration::from_secs(10);

/// For loading a model.
const CONTROL_TIMEOUT: Duration = Duration::from_hours(1);

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

/// Refuses bodies that announce too many bytes, and puts tonic's own refusals into our words.
///
/// [`WholeBody`](body::WholeBody) counts the bytes of a REST body as it reads; tonic checks each message against the same limit.
pub(crate) async fn limit_body(State(policy): State<Arc<LayerState>>, mut request: Request, next: Next) -> Response {
    let context = RequestContext::from_extensions(request.extensions());
    let limit = policy.max_body_bytes(context.route.class);
    let too_large = CaptionError::BodyTooLarge { limit: limit as u64 };
    let announced = body::announced_length(request.headers()).unwrap_or(0);
    if announced > limit as u64 {
        return refuse(request, &context, &too_large).await;
    }
    if !policy.budget.has_room(announced as usize) {
        return refuse(request, &context, &INFLIGHT_BYTES_FULL).await;
    }
    request.extensions_mut().insert(BodyLimit(limit));
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

/// Gives inference one of `queue_capacity` places in the state, or refuses at once.
pub(crate) async fn admit(State(policy): State<Arc<LayerState>>, request: Request, next: Next) -> Response {
    let context = RequestContext::from_extensions(request.extensions());
    if context.route.class != RouteClass::Inference {
        let request = if context.route.streams_requests {
            request.map(|body| until_draining(body, policy.phase.clone()))
        } else {
            request
        };
        return next.run(request).await;
    }
    let has_others = policy.api_keys.borrow().has_several();
    match policy.places.take(caller(&request), has_others) {
        // A stream keeps its place to the end.
        Some(place) => next.run(request).await.map(|body| Body::new(body::Holding::new(body, place))),
        None => refuse(request, &context, &QUEUE_FULL).await,
    }
}

/// Counts the bytes of the body as they come, decompressed, and ends one that is too slow.
pub(crate) async fn count_body(State(policy): State<Arc<LayerState>>, mut request: Request, next: Next) -> Response {
    let context = RequestContext::from_extensions(request.extensions());
    let reservation = policy.budget.reservation();
    request.extensions_mut().insert(reservation.clone());
    // In a stream of requests silence is no fault.
    let silence = (!context.route.streams_requests).then_some(policy.limits.body_timeout);
    let counted = reservation.clone();
    let request = request.map(|body| Body::new(body::Counted::new(body, counted, silence)));
    let response = next.run(request).await;
    if reservation.fault().is_some() {
        context.notes.forget_failure();
    }
    match reservation.fault() {
        Some(Fault::TooMuch) => context.response(&INFLIGHT_BYTES_FULL),
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
pub(crate) async fn expire(State(policy): State<Arc<LayerState>>, mut request: Request, next: Next) -> Response {
    let context = RequestContext::from_extensions(request.extensions());
    let limit = match context.route.class {
        RouteClass::Inference => policy.limits.request_timeout,
        // A model takes the time that it takes to load.
        RouteClass::Control => CONTROL_TIMEOUT,
        RouteClass::Public | RouteClass::Metrics | RouteClass::Metadata => {
            policy.limits.request_timeout.min(METADATA_TIMEOUT)
        }
    };
    let deadline = match requested_timeout(context.transport, request.headers()) {
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

/// The code of a gRPC failure that tonic answered by itself: ours always carry details.
fn foreign_error(context: &RequestContext, response: &Response) -> Option<Code> {
    if context.transport != Transport::Grpc || response.headers().contains_key("grpc-status-details-bin") {
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
