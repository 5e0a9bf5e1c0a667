//! What a gRPC handler reads of a request.

use std::sync::Arc;

use prost::Message;
use tonic::Request;

use crate::{
    error::CaptionError,
    registry::ServedModel,
    server::{
        middleware::{
            capacity::{ByteReservation, INFLIGHT_BYTES_FULL},
            deadline::Deadline,
        },
        protocol::echo,
        state::AppState,
    },
};

/// Bytes of the budget that the request's body has reserved.
pub(super) fn reservation<T>(request: &Request<T>) -> Result<Arc<ByteReservation>, CaptionError> {
    let reservation = request.extensions().get::<Arc<ByteReservation>>().cloned();
    reservation.ok_or_else(|| CaptionError::internal("the layer that counts bytes did not run"))
}

/// The deadline that the middleware set.
pub(super) fn deadline<T>(request: &Request<T>) -> Result<Deadline, CaptionError> {
    let deadline = request.extensions().get::<Deadline>().copied();
    deadline.ok_or_else(|| CaptionError::internal("the deadline layer did not run"))
}

/// The model that an inference request names. A version, if the request has one, must be a number.
pub(super) fn resolve(state: &AppState, name: &str, version: &str) -> Result<Arc<ServedModel>, CaptionError> {
    if !version.bytes().all(|byte| byte.is_ascii_digit()) {
        let reason = format!("must be an integer above 0, got '{}'", echo(version));
        return Err(CaptionError::invalid("model_version", reason));
    }
    state.captioner()?.registry().resolve(Some(name), Some(version))
}

/// The message of a unary request; its bytes are counted as they are in memory, not as they were transferred.
pub(super) fn message<T: Message>(request: Request<T>) -> Result<T, CaptionError> {
    let reservation = reservation(&request)?;
    let message = request.into_inner();
    if reservation.grow_to(message.encoded_len()) { Ok(message) } else { Err(INFLIGHT_BYTES_FULL) }
}
