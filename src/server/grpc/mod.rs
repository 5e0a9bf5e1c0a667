//! gRPC: `blip.v1.CaptionService`, `inference.GRPCInferenceService`, health and reflection, as one router.

mod captions;
mod incoming;
mod open_inference;
pub(crate) mod status;
mod stream;

use std::sync::Arc;

use axum::Router;
use prost::Message;
use tokio::sync::watch;
use tonic::{Request, codec::CompressionEncoding, service::Routes};
use tonic_reflection::server::Builder;

use crate::{
    error::CaptionError,
    registry::ServedModel,
    server::{
        health::{HealthService, Phase},
        middleware::{
            capacity::{ByteReservation, INFLIGHT_BYTES_FULL},
            deadline::Deadline,
        },
        protocol::{
            echo,
            pb::{
                DESCRIPTORS, blip::caption_service_server::CaptionServiceServer, health::health_server::HealthServer,
                inference::grpc_inference_service_server::GrpcInferenceServiceServer,
            },
        },
        state::AppState,
    },
};

/// Every gRPC service, with messages of at most `max_bytes`; an unknown method is UNIMPLEMENTED.
pub(crate) fn router(
    state: Arc<AppState>,
    phase: watch::Receiver<Phase>,
    max_bytes: usize,
) -> Result<Router, tonic_reflection::server::Error> {
    // Both versions describe both.
    let reflection = || {
        Builder::configure()
            .include_reflection_service(false)
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET)
    };
    // The same for each service; their types have nothing in common to say it once.
    macro_rules! compressed {
        ($service:expr) => {
            $service
                .max_decoding_message_size(max_bytes)
                .accept_compressed(CompressionEncoding::Gzip)
                .accept_compressed(CompressionEncoding::Deflate)
                .send_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Deflate)
        };
    }
    let routes = Routes::new(compressed!(CaptionServiceServer::new(captions::Handler { state: state.clone() })))
        .add_service(compressed!(GrpcInferenceServiceServer::new(open_inference::Handler { state })))
        .add_service(HealthServer::new(HealthService::new(phase)).max_decoding_message_size(max_bytes))
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    Ok(routes.prepare().into_axum_router())
}

/// Health alone, for the administrators' port.
pub(crate) fn health_router(phase: watch::Receiver<Phase>) -> Router {
    Routes::new(HealthServer::new(HealthService::new(phase))).prepare().into_axum_router()
}

/// What the bodies of this request have of the budget.
fn reservation<T>(request: &Request<T>) -> Result<Arc<ByteReservation>, CaptionError> {
    let reservation = request.extensions().get::<Arc<ByteReservation>>().cloned();
    reservation.ok_or_else(|| CaptionError::internal("the layer that counts bytes did not run"))
}

/// The deadline that the layers set.
fn deadline<T>(request: &Request<T>) -> Result<Deadline, CaptionError> {
    let deadline = request.extensions().get::<Deadline>().copied();
    deadline.ok_or_else(|| CaptionError::internal("the deadline layer did not run"))
}

/// The model that an inference request names. A version, if one is asked for, is a number.
fn resolve(state: &AppState, name: &str, version: &str) -> Result<Arc<ServedModel>, CaptionError> {
    if !version.bytes().all(|byte| byte.is_ascii_digit()) {
        let reason = format!("'{}' is no version, which is an integer > 0", echo(version));
        return Err(CaptionError::invalid("model_version", reason));
    }
    state.captioner()?.registry().resolve(Some(name), Some(version))
}

/// The one message of a request, with its bytes counted as they are now, not as they came.
fn message<T: Message>(request: Request<T>) -> Result<T, CaptionError> {
    let reservation = reservation(&request)?;
    let message = request.into_inner();
    if reservation.grow_to(message.encoded_len()) { Ok(message) } else { Err(INFLIGHT_BYTES_FULL) }
}
