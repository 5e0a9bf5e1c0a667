//! Health and metadata of the server and its models.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    error::CaptionError,
    registry::ServedModel,
    server::{
        body,
        context::RequestContext,
        convert::describe,
        house::House,
        json::{self, describe as kind},
        pb::inference::{ModelConfig, ModelMetadataResponse, repository_index_response::ModelIndex},
        rest::{ModelPath, answer, schema},
        status::{ErrorBody, json_response, to_json},
    },
};

/// Of the body that asks for the index.
const MAX_INDEX_BYTES: usize = 64 << 10;

/// Why a probe is answered 503.
const NOT_READY: &str = "the server is not ready";

/// The process is up and its models can work: else only a restart helps.
#[utoipa::path(get, path = "/v2/health/live", tag = "health", responses((status = 200, description = "It is", body = schema::Live), (status = 503, description = "It is to be restarted", body = schema::Live)))]
pub(super) async fn live(State(house): State<Arc<House>>) -> Response {
    let live = house.is_live();
    let status = if live { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json_response(status, &json!({ "live": live }))
}

/// The server takes requests.
#[utoipa::path(get, path = "/v2/health/ready", tag = "health", responses((status = 200, description = "It does", body = schema::Ready), (status = 503, description = "Not now", body = schema::Ready)))]
pub(super) async fn ready(State(house): State<Arc<House>>, context: RequestContext) -> Response {
    readiness(&house, &context, None)
}

/// The server takes requests for this model.
#[utoipa::path(get, path = "/v2/models/{model}/ready", tag = "health", params(("model" = String, Path, description = "Name or alias")), responses((status = 200, description = "It does", body = schema::Ready), (status = 503, description = "Not now", body = schema::Ready)))]
pub(super) async fn model_ready(State(house): State<Arc<House>>, path: ModelPath, context: RequestContext) -> Response {
    let outcome = path.resolve(&house).map(|model| readiness(&house, &context, Some(&model.name)));
    answer(&context, outcome)
}

/// Name, version and extensions of the server.
#[utoipa::path(get, path = "/v2", tag = "metadata", responses((status = 200, description = "The server", body = schema::ServerMetadata)))]
pub(super) async fn server(State(house): State<Arc<House>>) -> Response {
    let extensions = &describe::EXTENSIONS;
    let body = schema::ServerMetadata { name: &house.name, version: env!("CARGO_PKG_VERSION"), extensions };
    json_response(StatusCode::OK, &body)
}

/// Inputs and outputs of a model.
#[utoipa::path(get, path = "/v2/models/{model}", tag = "metadata", params(("model" = String, Path, description = "Name or alias")), responses((status = 200, description = "The model", body = ModelMetadataResponse)))]
pub(super) async fn model(State(house): State<Arc<House>>, path: ModelPath, context: RequestContext) -> Response {
    describe_with(&house, &path, &context, describe::metadata)
}

/// Configuration of a model.
#[utoipa::path(get, path = "/v2/models/{model}/config", tag = "metadata", params(("model" = String, Path, description = "Name or alias")), responses((status = 200, description = "The configuration", body = ModelConfig)))]
pub(super) async fn config(State(house): State<Arc<House>>, path: ModelPath, context: RequestContext) -> Response {
    describe_with(&house, &path, &context, |model| describe::config(model, house.limits.max_images))
}

/// What a model has done.
#[utoipa::path(get, path = "/v2/models/{model}/stats", tag = "metadata", params(("model" = String, Path, description = "Name or alias")), responses((status = 200, description = "The counts", body = schema::Statistics)))]
pub(super) async fn stats(State(house): State<Arc<House>>, path: ModelPath, context: RequestContext) -> Response {
    describe_with(&house, &path, &context, |model| json!({"model_stats": [describe::all_statistics(model)]}))
}

/// What all models have done.
#[utoipa::path(get, path = "/v2/models/stats", tag = "metadata", responses((status = 200, description = "The counts", body = schema::Statistics)))]
pub(super) async fn all_stats(State(house): State<Arc<House>>, context: RequestContext) -> Response {
    let body = house.captioner().map(|captioner| {
        let stats: Vec<_> = captioner.registry().models().iter().map(|model| describe::all_statistics(model)).collect();
        json_response(StatusCode::OK, &json!({ "model_stats": stats }))
    });
    answer(&context, body)
}

/// The models, or those that are ready.
#[utoipa::path(post, path = "/v2/repository/index", tag = "metadata", request_body(content = Option<schema::RepositoryIndexRequest>), responses((status = 200, description = "The models", body = Vec<ModelIndex>)))]
pub(super) async fn index(State(house): State<Arc<House>>, context: RequestContext, request: Request) -> Response {
    let outcome = async {
        let only_ready = only_ready(&body::read(request.into_body(), MAX_INDEX_BYTES).await?)?;
        let index = describe::index(house.captioner()?.registry(), only_ready);
        Ok(json_response(StatusCode::OK, &index))
    };
    answer(&context, outcome.await)
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
    house: &House,
    path: &ModelPath,
    context: &RequestContext,
    of: impl FnOnce(&ServedModel) -> T,
) -> Response {
    answer(context, path.resolve(house).map(|model| json_response(StatusCode::OK, &of(&model))))
}

/// Whether the server takes requests, and if not, all that every failure says.
fn readiness(house: &House, context: &RequestContext, name: Option<&str>) -> Response {
    if house.is_ready() {
        return json_response(StatusCode::OK, &schema::Ready { name, ready: true, error: None, request_id: None });
    }
    let error = CaptionError::Unavailable(NOT_READY);
    let mut response = context.response(&error);
    let ErrorBody { error, request_id } = context.body(&error);
    let body = schema::Ready { name, ready: false, error: Some(error), request_id: Some(request_id) };
    *response.body_mut() = to_json(&body).into();
    response
}
