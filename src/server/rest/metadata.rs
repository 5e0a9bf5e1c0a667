//! Health and metadata of the server and its models.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use http::StatusCode;
use serde_json::{Value, json};

use crate::{
    error::CaptionError,
    server::{
        context::RequestContext,
        house::House,
        rest::{ModelPath, answer},
        status::json_response,
    },
};

/// Why a probe is answered 503.
const NOT_READY: &str = "the server is not ready";

/// The process is up.
pub(super) async fn live() -> Response {
    json_response(StatusCode::OK, &json!({"live": true}))
}

/// The server takes requests.
pub(super) async fn ready(State(house): State<Arc<House>>) -> Response {
    readiness(&house, json!({}))
}

/// The server takes requests for this model.
pub(super) async fn model_ready(State(house): State<Arc<House>>, path: ModelPath, context: RequestContext) -> Response {
    let model = house.captioner.registry().resolve(path.model.as_deref(), path.version.as_deref());
    answer(&context, model.map(|model| readiness(&house, json!({"name": model.name}))))
}

/// Name, version and extensions of the server.
pub(super) async fn server(State(house): State<Arc<House>>) -> Response {
    // Clients branch on the names of extensions: only what is served in full may be listed.
    let extensions: [&str; 0] = [];
    let body = json!({"name": house.name, "version": env!("CARGO_PKG_VERSION"), "extensions": extensions});
    json_response(StatusCode::OK, &body)
}

/// Inputs and outputs of a model.
pub(super) async fn model(State(house): State<Arc<House>>, path: ModelPath, context: RequestContext) -> Response {
    answer(&context, model_metadata(&house, &path).map(|body| json_response(StatusCode::OK, &body)))
}

fn model_metadata(house: &House, path: &ModelPath) -> Result<Value, CaptionError> {
    let model = house.captioner.registry().resolve(path.model.as_deref(), path.version.as_deref())?;
    let tensor = |name: &str| json!({"name": name, "datatype": "BYTES", "shape": [-1, 1]});
    Ok(json!({
        "name": model.name,
        "versions": [model.version],
        "platform": "onnx_onnxv1",
        "inputs": [tensor("img_url"), tensor("text"), tensor("image")],
        "outputs": [tensor("generated_output")],
    }))
}

fn readiness(house: &House, mut body: Value) -> Response {
    let is_ready = house.is_ready();
    body["ready"] = is_ready.into();
    if is_ready {
        return json_response(StatusCode::OK, &body);
    }
    body["error"] = NOT_READY.into();
    json_response(StatusCode::SERVICE_UNAVAILABLE, &body)
}
