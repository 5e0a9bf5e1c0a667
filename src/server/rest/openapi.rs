//! `/openapi.json`, made from the handlers, and `/docs`, the page that shows it. Neither needs the network.

use axum::Router;
use http::StatusCode;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        Content, OpenApi as Document, PathItem, Ref, RefOr, Required, Response, ResponseBuilder,
        path::{Operation, ParameterBuilder, ParameterIn},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::server::error_response::ErrorBody;
use crate::server::rest::{captions, generate, infer, metrics, models, repository};

/// Where every model's routes begin, and where those of a version do.
const MODEL: &str = "/v2/models/{model}";
const VERSION: &str = "/v2/models/{model}/versions/{version}";

#[derive(OpenApi)]
#[openapi(
    info(title = "blip-serve", description = "Image captions from BLIP. The same port speaks gRPC."),
    paths(
        captions::captions,
        repository::load,
        repository::unload,
        generate::generate,
        generate::generate_stream,
        infer::infer,
        models::live,
        models::ready,
        models::model_ready,
        models::server,
        models::model,
        models::config,
        models::stats,
        models::all_stats,
        models::index,
        metrics::metrics
    ),
    components(schemas(ErrorBody)),
    modifiers(&Variants, &Failures, &Keys),
)]
struct Api;

/// The description and the page.
pub(super) fn routes() -> Router {
    let config = Config::new(["/openapi.json"]).use_base_layout().validator_url("none").try_it_out_enabled(true);
    SwaggerUi::new("/docs").config(config).url("/openapi.json", document()).into()
}

/// The description of every REST route.
fn document() -> Document {
    Api::openapi()
}

/// The routes with a version, and the short one for the default model.
struct Variants;

impl Modify for Variants {
    fn modify(&self, document: &mut Document) {
        let paths = &mut document.paths.paths;
        let models: Vec<(String, PathItem)> = paths
            .iter()
            .filter(|(path, _)| path.starts_with(MODEL))
            .map(|(path, item)| (path.clone(), item.clone()))
            .collect();
        for (path, mut item) in models {
            if path.ends_with("/infer") {
                let mut short = item.clone();
                for operation in operations(&mut short) {
                    operation.parameters = None;
                    rename(operation, "_default");
                }
                paths.insert("/infer".to_owned(), short);
            }
            for operation in operations(&mut item) {
                let version = ParameterBuilder::new()
                    .name("version")
                    .parameter_in(ParameterIn::Path)
                    .required(Required::True)
                    .description(Some("Of the model, e.g. 1"))
                    .schema(Some(utoipa::schema!(String)));
                operation.parameters.get_or_insert_default().push(version.build());
                rename(operation, "_version");
            }
            paths.insert(path.replacen(MODEL, VERSION, 1), item);
        }
    }
}

/// What every route can answer besides.
struct Failures;

impl Modify for Failures {
    fn modify(&self, document: &mut Document) {
        for (path, item) in &mut document.paths.paths {
            let is_of_a_model = path.contains("{model}") || path == "/v1/captions";
            let takes_a_body = item.post.is_some();
            for operation in operations(item) {
                for (status, can_be) in [
                    (StatusCode::BAD_REQUEST, true),
                    (StatusCode::UNAUTHORIZED, true),
                    (StatusCode::NOT_FOUND, is_of_a_model),
                    (StatusCode::PAYLOAD_TOO_LARGE, takes_a_body),
                    (StatusCode::UNSUPPORTED_MEDIA_TYPE, true),
                    (StatusCode::TOO_MANY_REQUESTS, takes_a_body),
                    (StatusCode::INTERNAL_SERVER_ERROR, true),
                    (StatusCode::SERVICE_UNAVAILABLE, true),
                    (StatusCode::GATEWAY_TIMEOUT, true),
                ] {
                    let responses = &mut operation.responses.responses;
                    if can_be && !responses.contains_key(status.as_str()) {
                        responses.insert(status.as_str().to_owned(), RefOr::T(failure(status)));
                    }
                }
            }
        }
    }
}

/// A key, where the server wants one.
struct Keys;

impl Modify for Keys {
    fn modify(&self, document: &mut Document) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("If the server has API keys"));
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("key", SecurityScheme::Http(scheme.build()));
        document.security =
            Some(vec![SecurityRequirement::default(), SecurityRequirement::new::<_, _, String>("key", [])]);
    }
}

fn failure(status: StatusCode) -> Response {
    let content = Content::new(Some(Ref::from_schema_name("Error")));
    let reason = status.canonical_reason().unwrap_or_default();
    ResponseBuilder::new().description(reason).content("application/json", content).build()
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post].into_iter().flatten()
}

fn rename(operation: &mut Operation, suffix: &str) {
    if let Some(id) = &mut operation.operation_id {
        id.push_str(suffix);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use generation;

    #[test]
    fn every_generation_parameter_is_described() {
        let document = serde_json::to_value(document()).unwrap();
        let described = document["components"]["schemas"]["GenerationParameters"]["properties"].as_object().unwrap();
        let all = serde_json::to_value(generation::GenerationParameters::default()).unwrap();
        let mut names: Vec<&String> = all.as_object().unwrap().keys().filter(|name| *name != "max_length").collect();
        names.sort();
        let mut described: Vec<&String> = described.keys().collect();
        described.sort();
        assert_eq!(described, names);
    }

    #[test]
    fn operations_have_ids_of_their_own() {
        let document = document();
        let mut ids: Vec<String> = document
            .paths
            .paths
            .into_values()
            .flat_map(|mut item| operations(&mut item).map(|o| o.operation_id.clone().unwrap()).collect::<Vec<_>>())
            .collect();
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert!(count > 15 && ids.len() == count, "{ids:?}");
    }
}
