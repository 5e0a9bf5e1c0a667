//! The repository of models: `POST /v2/repository/index`, and `models/{model}/load` and `unload`.

use std::{collections::BTreeMap, sync::Arc};

use axum::{extract::State, response::Response};
use http::{StatusCode, header, request::Parts};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::json;
use utoipa::ToSchema;

use crate::{
    error::CaptionError,
    server::{
        error_response::{ErrorBody, json_response},
        handlers::model_control,
        middleware::{body::WholeBody, context::RequestContext, cors::is_cross_origin},
        protocol::{json, open_inference::metadata, pb::inference::repository_index_response::ModelIndex},
        rest::extract::{ModelPath, answer},
        state::AppState,
    },
};

/// Which models to list. Unknown keys are tolerated.
#[derive(Debug, Deserialize, ToSchema)]
struct RepositoryIndexRequest {
    /// Only those that are ready.
    #[serde(default)]
    ready: bool,
}

/// A request to load or unload a model. Unknown keys are tolerated.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[expect(clippy::zero_sized_map_values, reason = "serde reads a set from an array, not from an object")]
struct ModelControlRequest {
    /// Triton's parameters. Those of a load must be empty.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, Value>)]
    parameters: BTreeMap<String, IgnoredAny>,
}

/// The models, or those that are ready.
#[utoipa::path(
    post, path = "index", tag = "metadata",
    request_body(content = Option<RepositoryIndexRequest>),
    responses((status = 200, description = "The models", body = Vec<ModelIndex>)),
)]
pub(crate) async fn index(
    State(state): State<Arc<AppState>>,
    context: RequestContext,
    WholeBody(body): WholeBody,
) -> Response {
    let index = read::<Option<RepositoryIndexRequest>>(&body).and_then(|body| {
        let only_ready = body.is_some_and(|body| body.ready);
        let index = metadata::index(state.captioner()?.registry(), only_ready);
        Ok(json_response(StatusCode::OK, &index))
    });
    answer(&context, index)
}

/// Load a model as models.toml currently describes it. The old one serves until the new one is ready.
#[utoipa::path(
    post, path = "load", tag = "repository",
    request_body(content = Option<ModelControlRequest>),
    responses(
        (status = 200, description = "The model is served"),
        (status = 403, description = "Not allowed for this client", body = ErrorBody),
    ),
)]
pub(crate) async fn load(
    State(state): State<Arc<AppState>>,
    path: ModelPath,
    context: RequestContext,
    head: Parts,
    WholeBody(body): WholeBody,
) -> Response {
    let outcome = async {
        check_origin(&head)?;
        let ModelControlRequest { parameters } = read(&body)?;
        if !parameters.is_empty() {
            return Err(CaptionError::invalid("parameters", "must be empty: models.toml says how a model is served"));
        }
        model_control::load(&state, path.model.as_deref().unwrap_or_default()).await
    };
    done(&context, outcome.await)
}

/// Take a model out of service; requests in flight are completed.
#[utoipa::path(
    post, path = "unload", tag = "repository",
    request_body(content = Option<ModelControlRequest>),
    responses(
        (status = 200, description = "The model is not served"),
        (status = 403, description = "Not allowed for this client", body = ErrorBody),
    ),
)]
pub(crate) async fn unload(
    State(state): State<Arc<AppState>>,
    path: ModelPath,
    context: RequestContext,
    head: Parts,
    WholeBody(body): WholeBody,
) -> Response {
    let outcome = async {
        check_origin(&head)?;
        // Triton's only parameter is `unload_dependents`, and no model depends on another.
        read::<ModelControlRequest>(&body)?;
        model_control::unload(&state, path.model.as_deref().unwrap_or_default()).await
    };
    done(&context, outcome.await)
}

fn done(context: &RequestContext, outcome: Result<(), CaptionError>) -> Response {
    answer(context, outcome.map(|()| json_response(StatusCode::OK, &json!({}))))
}

/// Reads a body, which may be empty.
fn read<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, CaptionError> {
    if body.is_empty() { Ok(T::default()) } else { json::from_value(json::parse("body", body)?) }
}

/// Browsers allow every page to post to every server, even on this machine, and name the page in `origin`.
fn check_origin(head: &Parts) -> Result<(), CaptionError> {
    if is_cross_origin(head) && !head.headers.contains_key(header::AUTHORIZATION) {
        return Err(CaptionError::Forbidden("pages of another origin may load and unload models with an API key only"));
    }
    Ok(())
}
