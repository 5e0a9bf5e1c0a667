//! REST: the routes of the Open Inference Protocol, which are also those of the template's clients, and the short ones.
//!
//! Handlers return `Result<Response, CaptionError>`; [`answer`] turns the error into JSON.

pub(super) mod captions;
mod generate;
pub(super) mod infer;
mod metrics;
mod models;
mod openapi;
mod playground;
mod repository;
mod schema;

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, FromRequestParts, RawPathParams, Request},
    response::Response,
    routing::{get, post},
};
use http::request::Parts;

use crate::{
    error::CaptionError,
    registry::ServedModel,
    server::{
        middleware::{body::refuse, compression::Compressible, context::RequestContext},
        state::AppState,
    },
};

/// Every REST route; an unknown path is a JSON 404, a wrong verb a JSON 405.
pub(crate) fn router(state: Arc<AppState>) -> Router {
    health_routes()
        .route("/metrics", get(metrics::metrics))
        .route("/v2", get(models::server))
        .route("/v2/", get(models::server))
        .route("/v2/models/{model}", get(models::model))
        .route("/v2/models/{model}/versions/{version}", get(models::model))
        .route("/v2/models/stats", get(models::all_stats))
        .route("/v2/models/{model}/config", get(models::config))
        .route("/v2/models/{model}/versions/{version}/config", get(models::config))
        .route("/v2/models/{model}/stats", get(models::stats))
        .route("/v2/models/{model}/versions/{version}/stats", get(models::stats))
        .route("/v2/repository/index", post(models::index))
        .route("/v2/repository/models/{model}/load", post(repository::load))
        .route("/v2/repository/models/{model}/unload", post(repository::unload))
        .route("/v2/models/{model}/infer", post(infer::infer))
        .route("/v2/models/{model}/versions/{version}/infer", post(infer::infer))
        .route("/infer", post(infer::infer))
        .route("/v2/models/{model}/generate", post(generate::generate))
        .route("/v2/models/{model}/versions/{version}/generate", post(generate::generate))
        .route("/v2/models/{model}/generate_stream", post(generate::generate_stream))
        .route("/v2/models/{model}/versions/{version}/generate_stream", post(generate::generate_stream))
        .route("/v1/captions", post(captions::captions))
        .merge(playground::routes())
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_verb)
        .with_state(state)
        .merge(openapi::routes())
        // Handlers read bodies with the server's own limit; a form must not have a second one.
        .layer(DefaultBodyLimit::disable())
}

/// Health and metrics, for the administrators' port.
pub(crate) fn admin_router(state: Arc<AppState>) -> Router {
    health_routes()
        .route("/metrics", get(metrics::metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_verb)
        .with_state(state)
}

fn health_routes() -> Router<Arc<AppState>> {
    Router::new()
        .route("/v2/health/live", get(models::live))
        .route("/v2/health/ready", get(models::ready))
        .route("/v2/models/{model}/ready", get(models::model_ready))
        .route("/v2/models/{model}/versions/{version}/ready", get(models::model_ready))
}

/// Model and version of a path; neither stands for the default model.
#[derive(Clone, Debug, Default)]
struct ModelPath {
    model: Option<String>,
    version: Option<String>,
}

impl ModelPath {
    fn resolve(&self, state: &AppState) -> Result<Arc<ServedModel>, CaptionError> {
        // Nothing between two slashes is no default.
        if self.model.as_deref() == Some("") || self.version.as_deref() == Some("") {
            return Err(CaptionError::NotFound);
        }
        state.captioner()?.registry().resolve(self.model.as_deref(), self.version.as_deref())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for ModelPath {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        // Refused where an escape is no UTF-8: there can be no such model.
        let Ok(params) = RawPathParams::from_request_parts(parts, state).await else {
            return Err(RequestContext::from_extensions(&parts.extensions).response(&CaptionError::NotFound));
        };
        let find = |wanted: &str| params.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned());
        Ok(Self { model: find("model"), version: find("version") })
    }
}

/// A response that may be compressed, or the error as JSON.
fn compressible(context: &RequestContext, result: Result<Response, CaptionError>) -> Response {
    let mark = |mut response: Response| {
        response.extensions_mut().insert(Compressible);
        response
    };
    answer(context, result.map(mark))
}

/// The response, or the error as JSON.
fn answer(context: &RequestContext, result: Result<Response, CaptionError>) -> Response {
    result.unwrap_or_else(|error| context.response(&error))
}

async fn not_found(context: RequestContext, request: Request) -> Response {
    refuse(request, &context, &CaptionError::NotFound).await
}

async fn wrong_verb(context: RequestContext, request: Request) -> Response {
    refuse(request, &context, &CaptionError::MethodNotAllowed).await
}
