//! Request bodies: read within the limit, and read out of the way before an early refusal.
//!
//! A server that answers and closes while the client still sends loses its answer: over HTTP/1 the client's kernel throws
//! it away, over HTTP/2 some clients see only the reset. So what is left of a body is drained first, within bounds.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Version, header};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use crate::error::CaptionError;

/// Between two pieces of a body: a slow client holds a place.
const SILENCE: Duration = Duration::from_secs(10);

/// A refused body is read on for so many bytes and so long, then the connection may break.
const DRAIN_BYTES: usize = 64 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// The whole body, or [`CaptionError::BodyTooLarge`] above `limit` bytes.
pub(crate) async fn read(mut body: Body, limit: usize) -> Result<Bytes, CaptionError> {
    let mut bytes = BytesMut::new();
    loop {
        let next = tokio::time::timeout(SILENCE, body.frame()).await;
        let next = next.map_err(|_| CaptionError::invalid("body", format!("nothing came for {SILENCE:?}")))?;
        let Some(frame) = next else { break };
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
pub(crate) async fn discard(request: Request<Body>) {
    // An HTTP/1 client that expects "100 Continue" has not sent its body, and reading would ask for it.
    let is_held_back = request.version() < Version::HTTP_2 && request.headers().contains_key(header::EXPECT);
    if !is_held_back {
        drain(request.into_body()).await;
    }
}

/// The length that the head of a request announces, in bytes.
pub(crate) fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
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
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(1, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    // Whether it came to the end or not, the refusal is sent now.
    tokio::time::timeout(DRAIN_TIME, read).await.ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_is_read_up_to_the_limit_and_not_a_byte_above() {
        assert_eq!(read(Body::from("12345"), 5).await.unwrap(), "12345");
        let error = read(Body::from("123456"), 5).await.unwrap_err();
        assert_eq!(error.to_string(), "request body is larger than 5 bytes");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_not_waited_for() {
        let silent = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        let started = tokio::time::Instant::now();
        assert_eq!(read(silent, 5).await.unwrap_err().to_string(), "body: nothing came for 10s");
        assert_eq!(started.elapsed(), SILENCE);
    }
}
