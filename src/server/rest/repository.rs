//! `POST /v2/repository/models/{model}/load` and `unload`.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use http::{StatusCode, header, request::Parts};
use serde_json::{Map, Value, json};

use crate::server::rest::{ModelPath, answer};
use crate::{
    error::CaptionError,
    server::{
        error_response::json_response,
        middleware::{body::WholeBody, context::RequestContext, cors::is_cross_origin},
        model_control,
        protocol::json::{self, describe as kind},
        state::AppState,
    },
};

/// Load a model anew, as models.toml has it now; requests go on meanwhile.
#[utoipa::path(post, path = "/v2/repository/models/{model}/load", tag = "repository", params(("model" = String, Path, description = "Name or alias")), responses((status = 200, description = "It is served"), (status = 403, description = "Not for this client", body = crate::server::error_response::ErrorBody)))]
pub(crate) async fn load(
    State(state): State<Arc<AppState>>,
    path: ModelPath,
    context: RequestContext,
    head: Parts,
    WholeBody(body): WholeBody,
) -> Response {
    let outcome = async {
        let parameters = parameters(&head, &body)?;
        if !parameters.is_empty() {
            return Err(CaptionError::invalid("parameters", "must be empty: models.toml says how a model is served"));
        }
        model_control::load(&state, path.model.as_deref().unwrap_or_default()).await
    };
    done(&context, outcome.await)
}

/// Take a model out of service; requests that have begun are finished.
#[utoipa::path(post, path = "/v2/repository/models/{model}/unload", tag = "repository", params(("model" = String, Path, description = "Name or alias")), responses((status = 200, description = "It is not served any more"), (status = 403, description = "Not for this client", body = crate::server::error_response::ErrorBody)))]
pub(crate) async fn unload(
    State(state): State<Arc<AppState>>,
    path: ModelPath,
    context: RequestContext,
    head: Parts,
    WholeBody(body): WholeBody,
) -> Response {
    let outcome = async {
        // `unload_dependents` is the only one there is, and no model depends on another.
        parameters(&head, &body)?;
        model_control::unload(&state, path.model.as_deref().unwrap_or_default()).await
    };
    done(&context, outcome.await)
}

fn done(context: &RequestContext, outcome: Result<(), CaptionError>) -> Response {
    answer(context, outcome.map(|()| json_response(StatusCode::OK, &json!({}))))
}

/// `parameters` of a body that may be empty.
fn parameters(head: &Parts, body: &[u8]) -> Result<Map<String, Value>, CaptionError> {
    if is_cross_origin(head) && !head.headers.contains_key(header::AUTHORIZATION) {
        return Err(CaptionError::Forbidden("pages of another origin may load and unload models with an API key only"));
    }
    if body.is_empty() {
        return Ok(Map::new());
    }
    match json::parse(body)? {
        Value::Object(mut body) => match body.remove("parameters") {
            None => Ok(Map::new()),
            Some(Value::Object(parameters)) => Ok(parameters),
            Some(other) => Err(CaptionError::invalid("parameters", format!("must be an object, got {}", kind(&other)))),
        },
        other => Err(CaptionError::invalid("body", format!("must be an object, got {}", kind(&other)))),
    }
}
