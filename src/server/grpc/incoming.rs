//! The messages of a client that streams requests.

use std::sync::{Arc, OnceLock};

use futures_util::{Stream, StreamExt, stream};
use prost::Message;
use tokio::time::timeout_at;
use tonic::{Request, Status, Streaming};

use crate::{
    error::CaptionError,
    server::{
        grpc::request::{deadline, reservation},
        health::{Phase, SHUTTING_DOWN},
        middleware::{
            capacity::{ByteReservation, INFLIGHT_BYTES_FULL},
            context::RequestContext,
            deadline::Deadline,
        },
        state::AppState,
    },
};

/// Maximum number of concurrent requests of one stream; the next is read when one of them is done.
pub(super) const MAX_CONCURRENT_REQUESTS: usize = 8;

/// A call whose client streams requests.
pub(super) struct IncomingCall<T> {
    /// Context of the call.
    pub(super) context: RequestContext,
    /// Why the stream ended early, which becomes known while it is read.
    pub(super) termination: StreamTermination,
    state: Arc<AppState>,
    deadline: Deadline,
    reservation: Arc<ByteReservation>,
    messages: Streaming<T>,
}

/// One message of a stream.
pub(super) struct IncomingMessage<T> {
    pub(super) message: T,
    /// Deadline of this request.
    pub(super) deadline: Deadline,
    /// The part of the byte budget that it uses.
    pub(super) bytes: Arc<ByteReservation>,
}

/// Why a stream of requests ended before the client ended it.
#[derive(Clone)]
pub(super) struct StreamTermination {
    error: Arc<OnceLock<CaptionError>>,
    context: RequestContext,
}

impl StreamTermination {
    /// Appends the status of a stream that ended early to `responses`.
    pub(super) fn append_to<T>(
        self,
        responses: impl Stream<Item = Result<T, Status>>,
    ) -> impl Stream<Item = Result<T, Status>> {
        let status = async move { self.error.get().map(|error| Err(self.context.status(error))) };
        responses.chain(stream::once(status).filter_map(|status| async { status }))
    }
}

impl<T: Message + Send + 'static> IncomingCall<T> {
    /// Reads the head of a request.
    pub(super) fn new(state: &Arc<AppState>, request: Request<Streaming<T>>) -> Result<Self, Status> {
        let context = RequestContext::from_extensions(request.extensions());
        let deadline = deadline(&request).map_err(|error| context.status(&error))?;
        let reservation = reservation(&request).map_err(|error| context.status(&error))?;
        let termination = StreamTermination { error: Arc::default(), context: context.clone() };
        let messages = request.into_inner();
        Ok(Self { context, termination, state: state.clone(), deadline, reservation, messages })
    }

    /// Each message with its own deadline, up to the client's end, its deadline, an invalid message, or the shutdown: the
    /// last three are the stream's termination.
    pub(super) fn messages(self) -> impl Stream<Item = IncomingMessage<T>> + Send {
        stream::unfold(self, async |mut call| match call.next().await {
            Ok(message) => message.map(|message| (message, call)),
            Err(error) => {
                call.termination.error.set(error).ok();
                None
            }
        })
    }

    async fn next(&mut self) -> Result<Option<IncomingMessage<T>>, CaptionError> {
        let mut phase = self.state.phase.clone();
        let next = tokio::select! {
            next = timeout_at(self.deadline.renewed().at.into(), self.messages.message()) => next,
            _ = phase.wait_for(|phase| *phase == Phase::Draining) => return Err(SHUTTING_DOWN),
        };
        match next {
            Ok(Ok(Some(message))) => {
                let bytes = self.reservation.split(message.encoded_len());
                Ok(Some(IncomingMessage { message, deadline: self.deadline.renewed(), bytes }))
            }
            Ok(Ok(None)) => Ok(None),
            Ok(Err(_)) if self.reservation.fault().is_some() => Err(INFLIGHT_BYTES_FULL),
            Ok(Err(status)) => Err(unreadable(&status, self.state.max_body_bytes)),
            Err(_) => Err(CaptionError::DeadlineExceeded),
        }
    }
}

/// The error of this service for a message that tonic refuses.
fn unreadable(status: &Status, limit: usize) -> CaptionError {
    match status.code() {
        tonic::Code::OutOfRange | tonic::Code::ResourceExhausted => CaptionError::BodyTooLarge { limit: limit as u64 },
        tonic::Code::Cancelled => CaptionError::Cancelled,
        _ => CaptionError::invalid("message", "is not a valid gRPC message of this method"),
    }
}
