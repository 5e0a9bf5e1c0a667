//! `inference.GRPCInferenceService`: the Open Inference Protocol with Triton's extensions.

use std::sync::Arc;

use tonic::{Request, Response, Status, Streaming};

use crate::{
    error::CaptionError,
    server::{
        grpc::{
            request::{deadline, message, resolve},
            stream,
        },
        handlers::{
            inference::{self, Inference, MAX_CONCURRENT_IMAGES},
            model_control,
        },
        middleware::context::RequestContext,
        protocol::{
            open_inference::{grpc::to_message, metadata, request::InferRequest},
            pb::inference as pb,
        },
        state::AppState,
    },
};

pub(crate) struct Handler {
    pub(crate) state: Arc<AppState>,
}

#[tonic::async_trait]
impl pb::grpc_inference_service_server::GrpcInferenceService for Handler {
    async fn server_live(&self, _: Request<pb::ServerLiveRequest>) -> Result<Response<pb::ServerLiveResponse>, Status> {
        Ok(Response::new(pb::ServerLiveResponse { live: self.state.is_live() }))
    }

    async fn server_ready(
        &self,
        _: Request<pb::ServerReadyRequest>,
    ) -> Result<Response<pb::ServerReadyResponse>, Status> {
        Ok(Response::new(pb::ServerReadyResponse { ready: self.state.is_ready() }))
    }

    async fn model_ready(
        &self,
        request: Request<pb::ModelReadyRequest>,
    ) -> Result<Response<pb::ModelReadyResponse>, Status> {
        if !self.state.is_ready() {
            return Ok(Response::new(pb::ModelReadyResponse { ready: false }));
        }
        let query = request.get_ref();
        let ready = match resolve(&self.state, &query.name, &query.version) {
            // A known model that is not loaded.
            Err(CaptionError::Unavailable(_)) => Ok(false),
            model => model.map(|model| model.is_serving()),
        };
        answer(&request, ready.map(|ready| pb::ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<pb::ServerMetadataRequest>,
    ) -> Result<Response<pb::ServerMetadataResponse>, Status> {
        Ok(Response::new(pb::ServerMetadataResponse {
            name: self.state.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: metadata::EXTENSIONS.map(str::to_owned).into(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<pb::ModelMetadataRequest>,
    ) -> Result<Response<pb::ModelMetadataResponse>, Status> {
        let query = request.get_ref();
        answer(&request, resolve(&self.state, &query.name, &query.version).map(|model| metadata::metadata(&model)))
    }

    async fn model_config(
        &self,
        request: Request<pb::ModelConfigRequest>,
    ) -> Result<Response<pb::ModelConfigResponse>, Status> {
        let query = request.get_ref();
        let max_images = self.state.limits.max_images;
        let config =
            resolve(&self.state, &query.name, &query.version).map(|model| metadata::config(&model, max_images));
        answer(&request, config.map(|config| pb::ModelConfigResponse { config: Some(config) }))
    }

    async fn model_statistics(
        &self,
        request: Request<pb::ModelStatisticsRequest>,
    ) -> Result<Response<pb::ModelStatisticsResponse>, Status> {
        let query = request.get_ref();
        let model_stats = match query.name.as_str() {
            "" if query.version.is_empty() => self
                .state
                .captioner()
                .map(|captioner| captioner.registry().models().iter().map(|m| metadata::statistics(m)).collect()),
            name => resolve(&self.state, name, &query.version).map(|model| vec![metadata::statistics(&model)]),
        };
        answer(&request, model_stats.map(|model_stats| pb::ModelStatisticsResponse { model_stats }))
    }

    async fn repository_index(
        &self,
        request: Request<pb::RepositoryIndexRequest>,
    ) -> Result<Response<pb::RepositoryIndexResponse>, Status> {
        let query = request.get_ref();
        let captioner = one_repository(&query.repository_name).and_then(|()| self.state.captioner());
        let models = captioner.map(|captioner| metadata::index(captioner.registry(), query.ready));
        answer(&request, models.map(|models| pb::RepositoryIndexResponse { models }))
    }

    async fn repository_model_load(
        &self,
        request: Request<pb::RepositoryModelLoadRequest>,
    ) -> Result<Response<pb::RepositoryModelLoadResponse>, Status> {
        let query = request.get_ref();
        let outcome = async {
            one_repository(&query.repository_name)?;
            if !query.parameters.is_empty() {
                return Err(CaptionError::invalid(
                    "parameters",
                    "must be empty: models.toml says how a model is served",
                ));
            }
            model_control::load(&self.state, &query.model_name).await
        };
        answer(&request, outcome.await.map(|()| pb::RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<pb::RepositoryModelUnloadRequest>,
    ) -> Result<Response<pb::RepositoryModelUnloadResponse>, Status> {
        let query = request.get_ref();
        let outcome = async {
            one_repository(&query.repository_name)?;
            model_control::unload(&self.state, &query.model_name).await
        };
        answer(&request, outcome.await.map(|()| pb::RepositoryModelUnloadResponse {}))
    }

    async fn model_infer(
        &self,
        request: Request<pb::ModelInferRequest>,
    ) -> Result<Response<pb::ModelInferResponse>, Status> {
        let context = RequestContext::from_extensions(request.extensions());
        let outcome = async {
            let deadline = deadline(&request)?;
            let message = message(request)?;
            let model = resolve(&self.state, &message.model_name, &message.model_version)?;
            let request = InferRequest::from_message(message)?;
            let inference = Inference { context: &context, model: &model, deadline, request };
            inference::infer(&self.state, inference, MAX_CONCURRENT_IMAGES).await
        };
        outcome.await.map(|response| Response::new(to_message(response))).map_err(|error| context.status(&error))
    }

    type ModelStreamInferStream = stream::Responses;

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<pb::ModelInferRequest>>,
    ) -> Result<Response<stream::Responses>, Status> {
        stream::infer(&self.state, request)
    }
}

fn one_repository(name: &str) -> Result<(), CaptionError> {
    let error = || CaptionError::invalid("repository_name", "must be empty: there is one repository");
    name.is_empty().then_some(()).ok_or_else(error)
}

fn answer<Q, A>(request: &Request<Q>, result: Result<A, CaptionError>) -> Result<Response<A>, Status> {
    result.map(Response::new).map_err(|error| RequestContext::from_extensions(request.extensions()).status(&error))
}
