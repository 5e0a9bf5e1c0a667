//! What the handlers of REST have in common: the model of the path, and errors as JSON.

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, RawPathParams},
    response::Response,
};
use http::request::Parts;

use crate::{
    error::CaptionError,
    registry::ServedModel,
    server::{middleware::context::RequestContext, state::AppState},
};

/// Model and version of a path; a path without a model stands for the default model.
#[derive(Clone, Debug, Default)]
pub(super) struct ModelPath {
    pub(super) model: Option<String>,
    version: Option<String>,
}

impl ModelPath {
    /// The model that the path names.
    pub(super) fn resolve(&self, state: &AppState) -> Result<Arc<ServedModel>, CaptionError> {
        // An empty segment does not stand for a default.
        if self.model.as_deref() == Some("") || self.version.as_deref() == Some("") {
            return Err(CaptionError::NotFound);
        }
        state.captioner()?.registry().resolve(self.model.as_deref(), self.version.as_deref())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for ModelPath {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        // Refused if an escape is not UTF-8, which no name of a model contains.
        let Ok(params) = RawPathParams::from_request_parts(parts, state).await else {
            return Err(RequestContext::from_extensions(&parts.extensions).response(&CaptionError::NotFound));
        };
        let find = |wanted: &str| params.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned());
        Ok(Self { model: find("model"), version: find("version") })
    }
}

/// The response, or the error as JSON.
pub(super) fn answer(context: &RequestContext, result: Result<Response, CaptionError>) -> Response {
    result.unwrap_or_else(|error| context.response(&error))
}
