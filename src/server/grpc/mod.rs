//! gRPC: `blip.v1.CaptionService`, `inference.GRPCInferenceService`, health and reflection, as one router.

mod captions;
mod incoming;
mod open_inference;
mod request;
mod stream;
pub(crate) mod tonic_errors;

use std::sync::Arc;

use axum::Router;
use tokio::sync::watch;
use tonic::{codec::CompressionEncoding, service::Routes};
use tonic_reflection::server::Builder;

use crate::server::{
    health::{HealthService, Phase},
    protocol::pb::{
        DESCRIPTORS, blip::caption_service_server::CaptionServiceServer, health::health_server::HealthServer,
        inference::grpc_inference_service_server::GrpcInferenceServiceServer,
    },
    state::AppState,
};

/// Every gRPC service, with messages of at most `max_bytes`; an unknown method is UNIMPLEMENTED.
pub(crate) fn router(
    state: Arc<AppState>,
    phase: watch::Receiver<Phase>,
    max_bytes: usize,
) -> Result<Router, tonic_reflection::server::Error> {
    // Each version of reflection describes both.
    let reflection = || {
        Builder::configure()
            .include_reflection_service(false)
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET)
    };
    // A macro, as the types of the services have no trait in common.
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

/// Only the health service, for the admin port.
pub(crate) fn health_router(phase: watch::Receiver<Phase>) -> Router {
    Routes::new(HealthServer::new(HealthService::new(phase))).prepare().into_axum_router()
}
