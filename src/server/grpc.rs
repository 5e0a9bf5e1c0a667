//! gRPC: `blip.v1.CaptionService`, health and reflection, as one router.

use std::sync::Arc;

use axum::Router;
use tokio::sync::watch;
use tonic::{Request, Response, Status, service::Routes};
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::server::Builder;

use crate::{
    error::CaptionError,
    server::{
        context::{Deadline, RequestContext},
        convert::typed,
        health::{HealthService, Phase},
        house::{House, cancelled_on_drop},
        pb::{
            self, DESCRIPTORS,
            caption_service_server::{CaptionService, CaptionServiceServer},
        },
    },
};

/// Every gRPC service; an unknown method is UNIMPLEMENTED.
pub(crate) fn router(
    house: Arc<House>,
    phase: watch::Receiver<Phase>,
) -> Result<Router, tonic_reflection::server::Error> {
    let max_bytes = house.max_body_bytes;
    let reflection = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let routes = Routes::new(CaptionServiceServer::new(CaptionHandler { house }).max_decoding_message_size(max_bytes))
        .add_service(HealthServer::new(HealthService::new(phase)))
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    Ok(routes.prepare().into_axum_router())
}

/// Health alone, for the administrators' port.
pub(crate) fn health_router(phase: watch::Receiver<Phase>) -> Router {
    Routes::new(HealthServer::new(HealthService::new(phase))).prepare().into_axum_router()
}

struct CaptionHandler {
    house: Arc<House>,
}

#[tonic::async_trait]
impl CaptionService for CaptionHandler {
    async fn caption(&self, request: Request<pb::CaptionRequest>) -> Result<Response<pb::CaptionResponse>, Status> {
        let context = RequestContext::from_extensions(request.extensions());
        let answer = self.answer(request).await;
        answer.map(Response::new).map_err(|error| context.status(&error))
    }
}

impl CaptionHandler {
    async fn answer(&self, request: Request<pb::CaptionRequest>) -> Result<pb::CaptionResponse, CaptionError> {
        let deadline = request.extensions().get::<Deadline>().copied();
        let deadline = deadline.ok_or_else(|| CaptionError::internal("the deadline layer did not run"))?;
        let mut message = request.into_inner();
        let id = std::mem::take(&mut message.id);
        let (cancelled, _guard) = cancelled_on_drop();
        let request = typed::caption_request(message, self.house.limits, deadline, cancelled)?;
        let reply = self.house.captioner.caption(request).await?;
        Ok(typed::caption_response(id, reply))
    }
}
