//! REST: the handlers of the routes that `routes` lists, and their documentation.

pub(super) mod captions;
mod extract;
mod generate;
pub(super) mod infer;
mod metrics;
mod models;
mod openapi;
mod playground;
mod repository;

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    response::Response,
    routing::{MethodRouter, on},
};
use utoipa::OpenApi;

use crate::{
    error::CaptionError,
    server::{
        error_response::ErrorBody,
        middleware::{body::refuse, context::RequestContext},
        routes::{Endpoint, REST_ROUTES, RestRoute},
        state::AppState,
    },
};

/// Attaches a handler, which carries its documentation, to each endpoint.
macro_rules! handlers {
    ($($endpoint:ident => $module:ident::$handler:ident,)*) => {
        /// The handler of a route; none for the pages, whose modules route each of their files.
        fn handler(route: &RestRoute) -> Option<MethodRouter<Arc<AppState>>> {
            Some(match route.endpoint {
                $(Endpoint::$endpoint => on(route.method, $module::$handler),)*
                Endpoint::Playground | Endpoint::ApiDocs => return None,
            })
        }

        /// The name of a handler, which is also its path in [`Handlers`].
        fn handler_name(endpoint: Endpoint) -> Option<&'static str> {
            Some(match endpoint {
                $(Endpoint::$endpoint => stringify!($handler),)*
                Endpoint::Playground | Endpoint::ApiDocs => return None,
            })
        }

        /// The documentation of the handlers, of which `openapi` makes that of the routes.
        #[derive(OpenApi)]
        #[openapi(
            info(title = "blip-serve", description = "Image captions from BLIP. The same port serves gRPC."),
            paths($($module::$handler),*),
            components(schemas(ErrorBody)),
        )]
        struct Handlers;
    };
}

handlers! {
    ServerLive => models::live,
    ServerReady => models::ready,
    ModelReady => models::model_ready,
    Metrics => metrics::metrics,
    ServerMetadata => models::server,
    AllStatistics => models::all_stats,
    ModelMetadata => models::model,
    ModelConfig => models::config,
    ModelStatistics => models::stats,
    RepositoryIndex => repository::index,
    LoadModel => repository::load,
    UnloadModel => repository::unload,
    Infer => infer::infer,
    Generate => generate::generate,
    GenerateStream => generate::generate_stream,
    Captions => captions::captions,
}

/// Every REST route; an unknown path is a JSON 404, another method a JSON 405.
pub(crate) fn router(state: Arc<AppState>) -> Router {
    with_fallbacks(REST_ROUTES.iter().fold(playground::routes(), add))
        .with_state(state)
        .merge(openapi::routes(openapi::document(Handlers::openapi(), handler_name)))
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

async fn not_found(context: RequestContext, request: Request) -> Response {
    refuse(request, &context, &CaptionError::NotFound).await
}

async fn method_not_allowed(context: RequestContext, request: Request) -> Response {
    refuse(request, &context, &CaptionError::MethodNotAllowed).await
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use generation::GenerationParameters;
    use serde_json::{Value, json};

    use super::*;

    fn document() -> Value {
        serde_json::to_value(openapi::document(Handlers::openapi(), handler_name)).unwrap()
    }

    #[test]
    fn every_route_is_documented_with_the_parameters_of_its_path() {
        let document = document();
        let paths = document["paths"].as_object().unwrap();
        let mut ids = HashSet::new();
        let documented = REST_ROUTES.iter().filter(|route| handler_name(route.endpoint).is_some());
        for path in documented.flat_map(|route| route.paths).filter(|path| !path.ends_with('/')) {
            let operation = paths[*path].as_object().unwrap().values().next().unwrap();
            let parameters = operation["parameters"].as_array().map_or(0, Vec::len);
            assert_eq!(parameters, path.matches('{').count(), "{path}");
            assert!(operation["summary"].is_string(), "{path}");
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{path}");
        }
        assert!(ids.len() > 15 && ids.len() == paths.len(), "{ids:?}");
    }

    #[test]
    fn every_generation_parameter_is_documented_beside_the_image_too() {
        let schemas = &document()["components"]["schemas"];
        let all = serde_json::to_value(GenerationParameters::default()).unwrap();
        let names: HashSet<&String> = all.as_object().unwrap().keys().filter(|name| *name != "max_length").collect();
        let parameters = schemas["GenerationParameters"]["properties"].as_object().unwrap();
        assert_eq!(parameters.keys().collect::<HashSet<_>>(), names);
        for name in names {
            assert_eq!(schemas["GenerateRequest"]["properties"][name], parameters[name], "{name}");
        }
        assert_eq!(schemas["CaptionRequest"]["additionalProperties"], json!(false));
    }
}
