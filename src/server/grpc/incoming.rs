//! The messages of a client that streams requests.

use std::sync::{Arc, OnceLock};

use futures_util::{Stream, StreamExt, stream};
use prost::Message;
use tokio::time::timeout_at;
use tonic::{Status, Streaming};

use crate::{
    error::CaptionError,
    server::{
        health::{Phase, SHUTTING_DOWN},
        middleware::{
            capacity::{ByteReservation, INFLIGHT_BYTES_FULL},
            context::RequestContext,
            deadline::Deadline,
        },
        state::AppState,
    },
};

/// Requests of one stream that are worked on at the same time; the next is read when one of them is done.
pub(super) const REQUESTS_AT_ONCE: usize = 8;

/// Why a stream of requests ended before the client said so.
#[derive(Clone, Default)]
pub(super) struct Ending(Arc<OnceLock<CaptionError>>);

impl Ending {
    /// `answers`, and then the status of a stream that ended early.
    pub(super) fn after<T>(
        self,
        answers: impl Stream<Item = Result<T, Status>>,
        context: RequestContext,
    ) -> impl Stream<Item = Result<T, Status>> {
        answers.chain(
            stream::once(async move { self.0.get().map(|error| Err(context.status(error))) })
                .filter_map(|ending| async { ending }),
        )
    }
}

/// A message of a stream: what it asks, how long its client waits, and its bytes of the budget.
pub(super) type Incoming<T> = (T, Deadline, Arc<ByteReservation>);

/// Each message with its own deadline, up to the client's end, the end of its patience, a message that is none, or the
/// shutdown: the last three are told to `ending`.
pub(super) fn messages<T: Message + Send + 'static>(
    state: Arc<AppState>,
    messages: Streaming<T>,
    deadline: Deadline,
    (reservation, ending): (Arc<ByteReservation>, Ending),
) -> impl Stream<Item = Incoming<T>> + Send {
    stream::unfold((state, messages), move |(state, mut messages)| {
        let (reservation, ending) = (reservation.clone(), ending.clone());
        async move {
            let mut phase = state.phase.clone();
            let next = tokio::select! {
                next = timeout_at(deadline.renewed().at.into(), messages.message()) => next,
                _ = phase.wait_for(|phase| *phase == Phase::Draining) => {
                    ending.0.set(SHUTTING_DOWN).ok();
                    return None;
                }
            };
            let error = match next {
                Ok(Ok(Some(message))) => {
                    let bytes = reservation.split(message.encoded_len());
                    return Some(((message, deadline.renewed(), bytes), (state, messages)));
                }
                Ok(Ok(None)) => return None,
                Ok(Err(_)) if reservation.fault().is_some() => INFLIGHT_BYTES_FULL,
                Ok(Err(status)) => unreadable(&status, state.max_body_bytes),
                Err(_) => CaptionError::DeadlineExceeded,
            };
            ending.0.set(error).ok();
            None
        }
    })
}

/// The library's refusal of a message, in our words.
fn unreadable(status: &Status, limit: usize) -> CaptionError {
    match status.code() {
        tonic::Code::OutOfRange | tonic::Code::ResourceExhausted => CaptionError::BodyTooLarge { limit: limit as u64 },
        tonic::Code::Cancelled => CaptionError::Cancelled,
        _ => CaptionError::invalid("message", "is not a valid gRPC message of this method"),
    }
}
