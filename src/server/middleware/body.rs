//! Request bodies: bounded, metered as they arrive, and read to their end before an early refusal.
//!
//! A server that answers and closes while the client still sends loses its answer: over HTTP/1 the client's kernel discards
//! it, over HTTP/2 some clients see only the reset. So the rest of a refused body is drained first, within bounds.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::Body,
    extract::{FromRequest, Request, State},
    middleware::Next,
    response::Response,
};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Version, header};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Sleep, sleep, timeout};

use crate::{
    error::CaptionError,
    server::middleware::{
        capacity::{BodyFault, ByteReservation, GuardedBody, INFLIGHT_BYTES_FULL},
        context::{RequestContext, Transport},
        layer_state::LayerState,
    },
};

/// Limits of reading a refused body: bytes, time, and time without data. Above them the connection may break.
const DRAIN_BYTES: usize = 64 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(30);
const DRAIN_SILENCE: Duration = Duration::from_secs(5);

/// Largest body of a request, or message of a gRPC stream, in bytes; an extension set by [`limit_body`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyLimit(pub(crate) usize);

/// Refuses a body whose announced length is above its route's limit or does not fit into the byte budget.
///
/// Without an announced length [`WholeBody`] counts the bytes of REST as it reads, and tonic those of each message.
pub(crate) async fn limit_body(State(state): State<Arc<LayerState>>, mut request: Request, next: Next) -> Response {
    let context = RequestContext::from_extensions(request.extensions());
    let limit = context.route.class.max_body_bytes(state.limits.max_body_bytes);
    let announced = announced_length(request.headers()).unwrap_or(0);
    if announced > limit as u64 {
        return refuse(request, &context, &CaptionError::BodyTooLarge { limit: limit as u64 }).await;
    }
    if !state.budget.has_capacity(announced as usize) {
        return refuse(request, &context, &INFLIGHT_BYTES_FULL).await;
    }
    request.extensions_mut().insert(BodyLimit(limit));
    next.run(request).await
}

/// Counts the bytes of a body against the budget as they arrive, decompressed, and ends a body whose client is too slow.
pub(crate) async fn meter_body(State(state): State<Arc<LayerState>>, mut request: Request, next: Next) -> Response {
    let context = RequestContext::from_extensions(request.extensions());
    let reservation = state.budget.reservation();
    request.extensions_mut().insert(reservation.clone());
    // A client that streams requests may be silent between two of them.
    let max_silence = (!context.route.streams_requests).then_some(state.limits.body_timeout);
    let metered = reservation.clone();
    let request = request.map(|body| Body::new(MeteredBody::new(body, metered, max_silence)));
    let response = next.run(request).await;
    let Some(fault) = reservation.fault() else {
        return response.map(|body| Body::new(GuardedBody::new(body, reservation)));
    };
    context.record.clear_failure();
    context.response(&match fault {
        BodyFault::OverBudget => INFLIGHT_BYTES_FULL,
        BodyFault::TooSlow => too_slow(state.limits.body_timeout),
    })
}

/// Refuses a request whose body has not been read.
pub(crate) async fn refuse(request: Request, context: &RequestContext, error: &CaptionError) -> Response {
    match context.transport {
        // A stream of requests may never end, and a gRPC client reads the answer while it sends.
        Transport::Grpc => drop(tokio::spawn(discard(request))),
        Transport::Rest => discard(request).await,
    }
    context.response(error)
}

/// The whole body of a REST request, within the limit of its route.
#[derive(Debug)]
pub(crate) struct WholeBody(pub(crate) Bytes);

impl<S: Sync> FromRequest<S> for WholeBody {
    type Rejection = Response;

    async fn from_request(request: Request, _: &S) -> Result<Self, Response> {
        let context = RequestContext::from_extensions(request.extensions());
        let limit = request.extensions().get::<BodyLimit>().copied();
        let bytes = async {
            let BodyLimit(limit) = limit.ok_or_else(|| CaptionError::internal("the body limit was not set"))?;
            read(request.into_body(), limit).await
        };
        bytes.await.map(Self).map_err(|error| context.response(&error))
    }
}

/// The whole body, or [`CaptionError::BodyTooLarge`] above `limit` bytes.
pub(crate) async fn read(mut body: Body, limit: usize) -> Result<Bytes, CaptionError> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| CaptionError::invalid("body", "could not be read to its end"))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            drop(bytes);
            drain(body, DRAIN_BYTES).await;
            return Err(CaptionError::BodyTooLarge { limit: limit as u64 });
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

/// Reads the body of a refused request to its end.
async fn discard(request: Request) {
    // An HTTP/1 client that expects "100 Continue" has not sent its body, and reading would request it.
    let is_held_back = request.version() < Version::HTTP_2 && request.headers().contains_key(header::EXPECT);
    if !is_held_back {
        drain(request.into_body(), DRAIN_BYTES).await;
    }
}

/// Reads at most `max_bytes` more; a frame without data counts as one. The refusal is sent afterwards in any case.
async fn drain(mut body: Body, max_bytes: usize) {
    let read = async {
        let mut left = max_bytes;
        while let Ok(Some(Ok(frame))) = timeout(DRAIN_SILENCE, body.frame()).await {
            left = left.saturating_sub(frame.data_ref().map_or(1, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    timeout(DRAIN_TIME, read).await.ok();
}

/// Length of the body in bytes, as the head of the request announces it.
fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_slow(max_silence: Duration) -> CaptionError {
    CaptionError::invalid("body", format!("nothing was received for {max_silence:?} (body_timeout)"))
}

/// A body whose bytes are counted as they arrive; it ends with a fault above the budget or after `max_silence`.
struct MeteredBody {
    body: Body,
    reservation: Arc<ByteReservation>,
    max_silence: Option<Duration>,
    /// Runs while nothing arrives.
    silence: Option<Pin<Box<Sleep>>>,
}

impl MeteredBody {
    fn new(body: Body, reservation: Arc<ByteReservation>, max_silence: Option<Duration>) -> Self {
        Self { body, reservation, max_silence, silence: None }
    }

    fn fail(&self, fault: BodyFault) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.reservation.set_fault(fault);
        Poll::Ready(Some(Err(axum::Error::new(io::Error::from(io::ErrorKind::TimedOut)))))
    }
}

impl HttpBody for MeteredBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.silence = None;
                let bytes = match &frame {
                    Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
                    _ => 0,
                };
                if self.reservation.add(bytes) { Poll::Ready(frame) } else { self.fail(BodyFault::OverBudget) }
            }
            Poll::Pending => {
                let Some(max_silence) = self.max_silence else { return Poll::Pending };
                let silence = self.silence.get_or_insert_with(|| Box::pin(sleep(max_silence)));
                ready!(silence.as_mut().poll(cx));
                self.fail(BodyFault::TooSlow)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::middleware::from_fn_with_state;
    use futures_util::{FutureExt, StreamExt, stream};
    use tower::{ServiceBuilder, ServiceExt, service_fn};

    use super::*;
    use crate::{config::limits::Limits, server::middleware::capacity::ByteBudget};

    fn budget(limit: usize) -> Arc<ByteBudget> {
        ByteBudget::new(limit, prometheus::IntGauge::new("g", "g").unwrap())
    }

    /// A body that never ends after these pieces.
    fn open_body(pieces: Vec<&'static str>) -> Body {
        let pieces = stream::iter(pieces).map(|piece| Ok::<_, Infallible>(Bytes::from(piece)));
        Body::from_stream(pieces.chain(stream::pending()))
    }

    fn request(content_length: Option<&str>, body: Body) -> Request {
        let request = Request::builder().method("POST").uri("/infer");
        let request =
            content_length.into_iter().fold(request, |request, value| request.header("content-length", value));
        let mut request = request.body(body).unwrap();
        let context = RequestContext::for_request(&request);
        request.extensions_mut().insert(context);
        request
    }

    /// Status and text of a handler that reads the body behind both layers.
    async fn call(state: &Arc<LayerState>, request: Request) -> (u16, String) {
        let handler = service_fn(|request: Request| async {
            Ok::<_, Infallible>(match WholeBody::from_request(request, &()).await {
                Ok(WholeBody(bytes)) => Response::new(Body::from(bytes)),
                Err(response) => response,
            })
        });
        let chain = ServiceBuilder::new()
            .layer(from_fn_with_state(state.clone(), limit_body))
            .layer(from_fn_with_state(state.clone(), meter_body));
        let response = chain.service(handler).oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let text = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        (status, String::from_utf8(text.into()).unwrap())
    }

    fn state(max_body_bytes: usize, max_inflight_bytes: usize) -> Arc<LayerState> {
        let limits = Limits { max_body_bytes, max_inflight_bytes, ..Limits::defaults() };
        Arc::new(LayerState::for_test(limits, &[]))
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_the_limit_and_not_a_byte_above() {
        assert_eq!(read(Body::from("12345"), 5).await.unwrap(), "12345");
        let error = read(Body::from("123456"), 5).await.unwrap_err();
        assert_eq!(error.to_string(), "request body is larger than 5 bytes");
    }

    #[tokio::test]
    async fn an_announced_length_is_checked_against_the_limit_and_the_budget() {
        let state = state(5, 100);
        for length in [None, Some("5")] {
            assert_eq!(call(&state, request(length, Body::from("12345"))).await, (200, "12345".to_owned()));
            assert_eq!(state.metrics.in_flight_bytes.get(), 0);
        }
        for (length, body) in [(Some("6"), ""), (None, "123456")] {
            let (status, text) = call(&state, request(length, Body::from(body))).await;
            assert_eq!(status, 413);
            assert!(text.contains("request body is larger than 5 bytes"), "{text}");
        }
        let reservation = state.budget.reservation();
        assert!(reservation.add(96));
        assert_eq!(call(&state, request(Some("4"), Body::from("1234"))).await.0, 200);
        let (status, text) = call(&state, request(Some("5"), Body::empty())).await;
        assert_eq!(status, 429);
        assert!(text.contains("max_inflight_bytes"), "{text}");
    }

    #[tokio::test]
    async fn a_body_above_the_budget_is_refused_when_its_bytes_arrive() {
        let state = state(100, 10);
        assert_eq!(call(&state, request(None, Body::from("1234567890"))).await.0, 200);
        let over = request(None, open_body(vec!["1234567890", "1"]));
        let context = RequestContext::from_extensions(over.extensions());
        let (status, text) = call(&state, over).await;
        assert_eq!(status, 429);
        assert!(text.contains("max_inflight_bytes"), "{text}");
        assert_eq!(context.record.fields().failure.unwrap().reason, "OVERLOADED", "not the error of the handler");
        assert_eq!(state.metrics.in_flight_bytes.get(), 0);
    }

    #[tokio::test]
    async fn a_client_that_falls_silent_is_refused() {
        let limits = Limits { body_timeout: Duration::from_millis(1), ..Limits::defaults() };
        let state = Arc::new(LayerState::for_test(limits, &[]));
        let (status, text) = call(&state, request(None, open_body(vec!["1"]))).await;
        assert_eq!(status, 400);
        assert!(text.contains("body: nothing was received for 1ms (body_timeout)"), "{text}");
    }

    #[tokio::test]
    async fn silence_counts_from_the_last_byte_and_only_where_it_is_bounded() {
        let metered = |body, max_silence| MeteredBody::new(body, budget(10).reservation(), max_silence);
        let mut bounded = metered(open_body(vec!["1"]), Some(Duration::from_hours(1)));
        assert!(bounded.frame().await.unwrap().is_ok());
        assert!(bounded.silence.is_none());
        assert!(bounded.frame().now_or_never().is_none());
        assert!(bounded.silence.is_some());
        let mut unbounded = metered(open_body(vec![]), None);
        assert!(unbounded.frame().now_or_never().is_none());
        assert!(unbounded.silence.is_none());
        let whole = metered(Body::from("12345"), None);
        assert_eq!((whole.size_hint().exact(), whole.is_end_stream()), (Some(5), false));
        assert!(metered(Body::empty(), None).is_end_stream());
    }

    #[tokio::test]
    async fn the_reservation_lasts_until_the_response_is_sent() {
        let state = state(100, 100);
        let handler = service_fn(|request: Request| async {
            WholeBody::from_request(request, &())
                .await
                .map(|_| Response::new(Body::from("x")))
                .or_else(Ok::<_, Infallible>)
        });
        let chain = ServiceBuilder::new()
            .layer(from_fn_with_state(state.clone(), limit_body))
            .layer(from_fn_with_state(state.clone(), meter_body));
        let response = chain.service(handler).oneshot(request(None, Body::from("12345"))).await.unwrap();
        assert_eq!(state.metrics.in_flight_bytes.get(), 5);
        drop(response);
        assert_eq!(state.metrics.in_flight_bytes.get(), 0);
    }

    #[tokio::test]
    async fn a_refused_body_is_read_to_its_end_unless_it_is_held_back() {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        let body = || {
            let sender = sender.clone();
            let pieces = stream::iter(0..3).map(move |index| {
                sender.send(index).unwrap();
                Ok::<_, Infallible>(Bytes::from_static(b"12345"))
            });
            Body::from_stream(pieces)
        };
        discard(request(None, body())).await;
        assert_eq!(receiver.len(), 3);
        drain(body(), 10).await;
        assert_eq!(receiver.len(), 3 + 2, "not above the limit");
        drain(body(), 11).await;
        assert_eq!(receiver.len(), 5 + 3);
        let mut held_back = request(None, body());
        held_back.headers_mut().insert(header::EXPECT, "100-continue".parse().unwrap());
        discard(held_back).await;
        assert_eq!(receiver.len(), 8);
        let mut http2 = request(None, body());
        *http2.version_mut() = Version::HTTP_2;
        http2.headers_mut().insert(header::EXPECT, "100-continue".parse().unwrap());
        discard(http2).await;
        assert_eq!(receiver.len(), 8 + 3);
    }
}
