//! Request bodies: read within the limit, and read out of the way before an early refusal.
//!
//! A server that answers and closes while the client still sends loses its answer: over HTTP/1 the client's kernel throws
//! it away, over HTTP/2 some clients see only the reset. So what is left of a body is drained first, within bounds.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{body::Body, extract::FromRequest, response::Response};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Version, header};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Sleep, sleep, timeout};

use crate::{
    error::CaptionError,
    server::middleware::{
        admission::{ByteReservation, Fault},
        context::{RequestContext, Transport},
    },
};

/// A refused body is read on for so many bytes, so long, and while it comes; then the connection may break.
const DRAIN_BYTES: usize = 64 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(30);
const DRAIN_SILENCE: Duration = Duration::from_secs(5);

/// Largest body of a request in bytes; an extension that the body limit sets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyLimit(pub(crate) usize);

/// The whole body of a request, which is not above its limit.
#[derive(Debug)]
pub(crate) struct WholeBody(pub(crate) Bytes);

impl<S: Sync> FromRequest<S> for WholeBody {
    type Rejection = Response;

    async fn from_request(request: Request<Body>, _: &S) -> Result<Self, Response> {
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
            drain(body).await;
            return Err(CaptionError::BodyTooLarge { limit: limit as u64 });
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

/// Reads the body of a request that is about to be refused out of the way.
async fn discard(request: Request<Body>) {
    // An HTTP/1 client that expects "100 Continue" has not sent its body, and reading would ask for it.
    let is_held_back = request.version() < Version::HTTP_2 && request.headers().contains_key(header::EXPECT);
    if !is_held_back {
        drain(request.into_body()).await;
    }
}

/// Answers a request whose body nobody has read.
pub(crate) async fn refuse(request: Request<Body>, context: &RequestContext, error: &CaptionError) -> Response {
    match context.transport {
        // A stream of requests may never end, and a gRPC client reads the answer while it sends.
        Transport::Grpc => drop(tokio::spawn(discard(request))),
        Transport::Rest => discard(request).await,
    }
    context.response(error)
}

/// The length that the head of a request announces, in bytes.
pub(crate) fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// What a client is told that was silent for so long.
pub(crate) fn too_slow(silence: Duration) -> CaptionError {
    CaptionError::invalid("body", format!("nothing came for {silence:?} (body_timeout)"))
}

/// A body whose bytes are counted as they come, and which ends with a fault above the budget or after a silence.
pub(crate) struct Counted {
    body: Body,
    reservation: Arc<ByteReservation>,
    silence: Option<Duration>,
    /// While nothing comes.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Counted {
    pub(crate) fn new(body: Body, reservation: Arc<ByteReservation>, silence: Option<Duration>) -> Self {
        Self { body, reservation, silence, waiting: None }
    }

    fn fail(&self, fault: Fault) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.reservation.fail(fault);
        Poll::Ready(Some(Err(axum::Error::new(io::Error::from(io::ErrorKind::TimedOut)))))
    }
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.waiting = None;
                let bytes = match &frame {
                    Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
                    _ => 0,
                };
                if self.reservation.add(bytes) { Poll::Ready(frame) } else { self.fail(Fault::TooMuch) }
            }
            Poll::Pending => {
                let Some(silence) = self.silence else { return Poll::Pending };
                let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(silence)));
                ready!(waiting.as_mut().poll(cx));
                self.fail(Fault::TooSlow)
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

/// A body that holds on to something until it is sent or given up.
pub(crate) struct Holding<T> {
    body: Body,
    _held: T,
}

impl<T> Holding<T> {
    /// `body`, with `held` in its hands.
    pub(crate) fn new(body: Body, held: T) -> Self {
        Self { body, _held: held }
    }
}

impl<T: Unpin> HttpBody for Holding<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

async fn drain(mut body: Body) {
    let read = async {
        let mut left = DRAIN_BYTES;
        while let Ok(Some(Ok(frame))) = timeout(DRAIN_SILENCE, body.frame()).await {
            left = left.saturating_sub(frame.data_ref().map_or(1, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    // Whether it came to the end or not, the refusal is sent now.
    timeout(DRAIN_TIME, read).await.ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::middleware::admission::ByteBudget;

    #[tokio::test]
    async fn a_body_is_read_up_to_the_limit_and_not_a_byte_above() {
        assert_eq!(read(Body::from("12345"), 5).await.unwrap(), "12345");
        let error = read(Body::from("123456"), 5).await.unwrap_err();
        assert_eq!(error.to_string(), "request body is larger than 5 bytes");
    }

    #[tokio::test]
    async fn a_silent_client_is_not_waited_for() {
        let silence = Duration::from_millis(20);
        let reservation = ByteBudget::new(10, prometheus::IntGauge::new("g", "g").unwrap()).reservation();
        let silent = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        let silent = Body::new(Counted::new(silent, reservation.clone(), Some(silence)));
        let started = tokio::time::Instant::now();
        assert!(read(silent, 5).await.is_err());
        assert!(started.elapsed() >= silence);
        assert_eq!(reservation.fault(), Some(Fault::TooSlow));
    }

    #[tokio::test]
    async fn a_body_above_the_budget_is_not_read_on() {
        let reservation = ByteBudget::new(10, prometheus::IntGauge::new("g", "g").unwrap()).reservation();
        let body = Body::new(Counted::new(Body::from("12345678901"), reservation.clone(), None));
        assert!(read(body, 100).await.is_err());
        assert_eq!(reservation.fault(), Some(Fault::TooMuch));
    }
}
