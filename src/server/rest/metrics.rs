//! `GET /metrics`, for Prometheus.

use std::sync::Arc;

use axum::{body::Body, extract::State, response::Response};
use http::{HeaderValue, header};

use crate::server::state::AppState;

/// The metrics in Prometheus' text format.
#[utoipa::path(
    get, path = "metrics", tag = "metadata",
    responses((status = 200, description = "The metrics", body = String, content_type = "text/plain")),
)]
pub(super) async fn metrics(State(state): State<Arc<AppState>>) -> Response {
    state.metrics.ready.set(state.is_ready().into());
    let mut response = Response::new(Body::from(state.metrics.render()));
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}
