//! Health and metadata of the server and its models.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    error::CaptionError,
    registry::ServedModel,
    server::{
        error_response::{ErrorBody, json_response, to_json},
        middleware::context::RequestContext,
        protocol::{
            open_inference::metadata::{self, ModelCounts},
            pb::inference::{ModelConfig, ModelMetadataResponse},
        },
        rest::extract::{ModelPath, answer},
        state::AppState,
    },
};

/// Why a probe is answered 503.
const NOT_READY: &str = "the server is not ready";

/// Whether the process is up.
#[derive(Serialize, ToSchema)]
struct Live {
    live: bool,
}

/// Whether requests are accepted.
#[derive(Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "the protocol's name of the field")]
struct Ready<'a> {
    /// Name of the model in the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    name: Option<&'a str>,
    ready: bool,
    /// Why requests are not accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    error: Option<String>,
    /// Id of the request, as in every failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    request_id: Option<String>,
}

/// The server.
#[derive(Serialize, ToSchema)]
struct ServerMetadata<'a> {
    name: &'a str,
    version: &'a str,
    extensions: &'a [&'a str],
}

/// What models have done since the server started.
#[derive(Serialize, ToSchema)]
struct Statistics {
    model_stats: Vec<ModelCounts>,
}

/// Whether the process and its engines run; if not, only a restart helps.
#[utoipa::path(get, path = "live", tag = "health", responses(
    (status = 200, description = "Live", body = Live), (status = 503, description = "A restart is needed", body = Live),
))]
pub(crate) async fn live(State(state): State<Arc<AppState>>) -> Response {
    let live = state.is_live();
    let status = if live { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json_response(status, &Live { live })
}

/// Whether the server accepts requests.
#[utoipa::path(
    get, path = "ready", tag = "health",
    responses((status = 200, description = "Ready", body = Ready), (status = 503, description = "Not ready", body = Ready)),
)]
pub(crate) async fn ready(State(state): State<Arc<AppState>>, context: RequestContext) -> Response {
    readiness(&state, &context, None)
}

/// Whether the server accepts requests for this model.
#[utoipa::path(
    get, path = "model_ready", tag = "health",
    responses((status = 200, description = "Ready", body = Ready), (status = 503, description = "Not ready", body = Ready)),
)]
pub(crate) async fn model_ready(
    State(state): State<Arc<AppState>>,
    path: ModelPath,
    context: RequestContext,
) -> Response {
    let outcome = path.resolve(&state).map(|model| readiness(&state, &context, Some(&model.name)));
    answer(&context, outcome)
}

/// Name, version and extensions of the server.
#[utoipa::path(
    get, path = "server", tag = "metadata",
    responses((status = 200, description = "The server", body = ServerMetadata)),
)]
pub(crate) async fn server(State(state): State<Arc<AppState>>) -> Response {
    let extensions = &metadata::EXTENSIONS;
    let body = ServerMetadata { name: &state.name, version: env!("CARGO_PKG_VERSION"), extensions };
    json_response(StatusCode::OK, &body)
}

/// Inputs and outputs of a model.
#[utoipa::path(
    get, path = "model", tag = "metadata",
    responses((status = 200, description = "The model", body = ModelMetadataResponse)),
)]
pub(crate) async fn model(State(state): State<Arc<AppState>>, path: ModelPath, context: RequestContext) -> Response {
    describe_with(&state, &path, &context, metadata::metadata)
}

/// Configuration of a model.
#[utoipa::path(
    get, path = "config", tag = "metadata",
    responses((status = 200, description = "The configuration", body = ModelConfig)),
)]
pub(crate) async fn config(State(state): State<Arc<AppState>>, path: ModelPath, context: RequestContext) -> Response {
    describe_with(&state, &path, &context, |model| metadata::config(model, state.limits.max_images))
}

/// What a model has done.
#[utoipa::path(
    get, path = "stats", tag = "metadata",
    responses((status = 200, description = "The counts", body = Statistics)),
)]
pub(crate) async fn stats(State(state): State<Arc<AppState>>, path: ModelPath, context: RequestContext) -> Response {
    describe_with(&state, &path, &context, |model| Statistics { model_stats: vec![metadata::all_statistics(model)] })
}

/// What all models have done.
#[utoipa::path(
    get, path = "all_stats", tag = "metadata",
    responses((status = 200, description = "The counts", body = Statistics)),
)]
pub(crate) async fn all_stats(State(state): State<Arc<AppState>>, context: RequestContext) -> Response {
    let outcome = state.captioner().map(|captioner| {
        let models = captioner.registry().models();
        let model_stats = models.iter().map(|model| metadata::all_statistics(model)).collect();
        json_response(StatusCode::OK, &Statistics { model_stats })
    });
    answer(&context, outcome)
}

fn describe_with<T: Serialize>(
    state: &AppState,
    path: &ModelPath,
    context: &RequestContext,
    description: impl FnOnce(&ServedModel) -> T,
) -> Response {
    answer(context, path.resolve(state).map(|model| json_response(StatusCode::OK, &description(&model))))
}

/// Whether the server accepts requests; if not, with the fields of every failure.
fn readiness(state: &AppState, context: &RequestContext, name: Option<&str>) -> Response {
    if state.is_ready() {
        return json_response(StatusCode::OK, &Ready { name, ready: true, error: None, request_id: None });
    }
    let error = CaptionError::Unavailable(NOT_READY);
    let mut response = context.response(&error);
    let ErrorBody { error, request_id } = context.body(&error);
    let body = Ready { name, ready: false, error: Some(error), request_id: Some(request_id) };
    *response.body_mut() = to_json(&body).into();
    response
}
