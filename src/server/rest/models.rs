//! Health and metadata of the server and its models.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    error::CaptionError,
    registry::ServedModel,
    server::{
        error_response::{ErrorBody, json_response, to_json},
        middleware::{body::WholeBody, context::RequestContext},
        protocol::{
            json::{self, describe as kind},
            open_inference::metadata,
            pb::inference::{ModelConfig, ModelMetadataResponse, repository_index_response::ModelIndex},
        },
        rest::{ModelPath, answer, schema},
        state::AppState,
    },
};

/// Why a probe is answered 503.
const NOT_READY: &str = "the server is not ready";

/// The process is up and its models can work: else only a restart helps.
#[utoipa::path(get, path = "/v2/health/live", tag = "health", responses((status = 200, description = "It is", body = schema::Live), (status = 503, description = "It is to be restarted", body = schema::Live)))]
pub(crate) async fn live(State(state): State<Arc<AppState>>) -> Response {
    let live = state.is_live();
    let status = if live { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json_response(status, &json!({ "live": live }))
}

/// The server takes requests.
#[utoipa::path(get, path = "/v2/health/ready", tag = "health", responses((status = 200, description = "It does", body = schema::Ready), (status = 503, description = "Not now", body = schema::Ready)))]
pub(crate) async fn ready(State(state): State<Arc<AppState>>, context: RequestContext) -> Response {
    readiness(&state, &context, None)
}

/// The server takes requests for this model.
#[utoipa::path(get, path = "/v2/models/{model}/ready", tag = "health", params(("model" = String, Path, description = "Name or alias")), responses((status = 200, description = "It does", body = schema::Ready), (status = 503, description = "Not now", body = schema::Ready)))]
pub(crate) async fn model_ready(
    State(state): State<Arc<AppState>>,
    path: ModelPath,
    context: RequestContext,
) -> Response {
    let outcome = path.resolve(&state).map(|model| readiness(&state, &context, Some(&model.name)));
    answer(&context, outcome)
}

/// Name, version and extensions of the server.
#[utoipa::path(get, path = "/v2", tag = "metadata", responses((status = 200, description = "The server", body = schema::ServerMetadata)))]
pub(crate) async fn server(State(state): State<Arc<AppState>>) -> Response {
    let extensions = &metadata::EXTENSIONS;
    let body = schema::ServerMetadata { name: &state.name, version: env!("CARGO_PKG_VERSION"), extensions };
    json_response(StatusCode::OK, &body)
}

/// Inputs and outputs of a model.
#[utoipa::path(get, path = "/v2/models/{model}", tag = "metadata", params(("model" = String, Path, description = "Name or alias")), responses((status = 200, description = "The model", body = ModelMetadataResponse)))]
pub(crate) async fn model(State(state): State<Arc<AppState>>, path: ModelPath, context: RequestContext) -> Response {
    describe_with(&state, &path, &context, metadata::metadata)
}

/// Configuration of a model.
#[utoipa::path(get, path = "/v2/models/{model}/config", tag = "metadata", params(("model" = String, Path, description = "Name or alias")), responses((status = 200, description = "The configuration", body = ModelConfig)))]
pub(crate) async fn config(State(state): State<Arc<AppState>>, path: ModelPath, context: RequestContext) -> Response {
    describe_with(&state, &path, &context, |model| metadata::config(model, state.limits.max_images))
}

/// What a model has done.
#[utoipa::path(get, path = "/v2/models/{model}/stats", tag = "metadata", params(("model" = String, Path, description = "Name or alias")), responses((status = 200, description = "The counts", body = schema::Statistics)))]
pub(crate) async fn stats(State(state): State<Arc<AppState>>, path: ModelPath, context: RequestContext) -> Response {
    describe_with(&state, &path, &context, |model| json!({"model_stats": [metadata::all_statistics(model)]}))
}

/// What all models have done.
#[utoipa::path(get, path = "/v2/models/stats", tag = "metadata", responses((status = 200, description = "The counts", body = schema::Statistics)))]
pub(crate) async fn all_stats(State(state): State<Arc<AppState>>, context: RequestContext) -> Response {
    let body = state.captioner().map(|captioner| {
        let stats: Vec<_> = captioner.registry().models().iter().map(|model| metadata::all_statistics(model)).collect();
        json_response(StatusCode::OK, &json!({ "model_stats": stats }))
    });
    answer(&context, body)
}

/// The models, or those that are ready.
#[utoipa::path(post, path = "/v2/repository/index", tag = "metadata", request_body(content = Option<schema::RepositoryIndexRequest>), responses((status = 200, description = "The models", body = Vec<ModelIndex>)))]
pub(crate) async fn index(
    State(state): State<Arc<AppState>>,
    context: RequestContext,
    WholeBody(body): WholeBody,
) -> Response {
    let index = only_ready(&body).and_then(|only_ready| {
        let index = metadata::index(state.captioner()?.registry(), only_ready);
        Ok(json_response(StatusCode::OK, &index))
    });
    answer(&context, index)
}

/// `ready` of a body that may be empty.
fn only_ready(body: &[u8]) -> Result<bool, CaptionError> {
    if body.is_empty() {
        return Ok(false);
    }
    match json::parse(body)? {
        Value::Null => Ok(false),
        Value::Object(body) => match body.get("ready") {
            None => Ok(false),
            Some(Value::Bool(ready)) => Ok(*ready),
            Some(other) => Err(CaptionError::invalid("ready", format!("must be true or false, got {}", kind(other)))),
        },
        other => Err(CaptionError::invalid("body", format!("must be an object, got {}", kind(&other)))),
    }
}

fn describe_with<T: Serialize>(
    state: &AppState,
    path: &ModelPath,
    context: &RequestContext,
    of: impl FnOnce(&ServedModel) -> T,
) -> Response {
    answer(context, path.resolve(state).map(|model| json_response(StatusCode::OK, &of(&model))))
}

/// Whether the server takes requests, and if not, all that every failure says.
fn readiness(state: &AppState, context: &RequestContext, name: Option<&str>) -> Response {
    if state.is_ready() {
        return json_response(StatusCode::OK, &schema::Ready { name, ready: true, error: None, request_id: None });
    }
    let error = CaptionError::Unavailable(NOT_READY);
    let mut response = context.response(&error);
    let ErrorBody { error, request_id } = context.body(&error);
    let body = schema::Ready { name, ready: false, error: Some(error), request_id: Some(request_id) };
    *response.body_mut() = to_json(&body).into();
    response
}
