//! REST: the handlers of the routes that `routes` lists.
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
    routing::{MethodRouter, on},
};
use http::request::Parts;

use crate::{
    error::CaptionError,
    registry::ServedModel,
    server::{
        middleware::{body::refuse, context::RequestContext},
        routes::{Endpoint, REST_ROUTES, RestRoute},
        state::AppState,
    },
};

/// Every REST route; an unknown path is a JSON 404, another method a JSON 405.
pub(crate) fn router(state: Arc<AppState>) -> Router {
    with_fallbacks(REST_ROUTES.iter().fold(playground::routes(), add))
        .with_state(state)
        .merge(openapi::routes())
        // The layers limit bodies; a form must not have a second limit.
        .layer(DefaultBodyLimit::disable())
}

/// Health and metrics, for the administrators' port.
pub(crate) fn admin_router(state: Arc<AppState>) -> Router {
    let routes = REST_ROUTES.iter().filter(|route| route.is_on_admin_port);
    with_fallbacks(routes.fold(Router::new(), add)).with_state(state)
}

fn with_fallbacks(router: Router<Arc<AppState>>) -> Router<Arc<AppState>> {
    router.fallback(not_found).method_not_allowed_fallback(method_not_allowed)
}

fn add(router: Router<Arc<AppState>>, route: &RestRoute) -> Router<Arc<AppState>> {
    let Some(handler) = handler(route) else { return router };
    route.paths.iter().fold(router, |router, path| router.route(path, handler.clone()))
}

/// The handler of a route; none for the pages, whose modules route each of their files.
fn handler(route: &RestRoute) -> Option<MethodRouter<Arc<AppState>>> {
    let method = route.method;
    Some(match route.endpoint {
        Endpoint::ServerLive => on(method, models::live),
        Endpoint::ServerReady => on(method, models::ready),
        Endpoint::ModelReady => on(method, models::model_ready),
        Endpoint::Metrics => on(method, metrics::metrics),
        Endpoint::ServerMetadata => on(method, models::server),
        Endpoint::AllStatistics => on(method, models::all_stats),
        Endpoint::ModelMetadata => on(method, models::model),
        Endpoint::ModelConfig => on(method, models::config),
        Endpoint::ModelStatistics => on(method, models::stats),
        Endpoint::RepositoryIndex => on(method, models::index),
        Endpoint::LoadModel => on(method, repository::load),
        Endpoint::UnloadModel => on(method, repository::unload),
        Endpoint::Infer => on(method, infer::infer),
        Endpoint::Generate => on(method, generate::generate),
        Endpoint::GenerateStream => on(method, generate::generate_stream),
        Endpoint::Captions => on(method, captions::captions),
        Endpoint::Playground | Endpoint::ApiDocs => return None,
    })
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

/// The response, or the error as JSON.
fn answer(context: &RequestContext, result: Result<Response, CaptionError>) -> Response {
    result.unwrap_or_else(|error| context.response(&error))
}

async fn not_found(context: RequestContext, request: Request) -> Response {
    refuse(request, &context, &CaptionError::NotFound).await
}

async fn method_not_allowed(context: RequestContext, request: Request) -> Response {
    refuse(request, &context, &CaptionError::MethodNotAllowed).await
}
