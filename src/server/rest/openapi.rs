//! `/openapi.json`, made from the documentation of the handlers and the list of routes, and `/docs`, the page that shows
//! it. Neither needs the network.

use axum::{Router, routing::MethodFilter};
use http::StatusCode;
use utoipa::openapi::{
    Content, HttpMethod, OpenApi as Document, PathItem, Paths, Ref, RefOr, Required, Response, ResponseBuilder, Schema,
    path::{Operation, Parameter, ParameterBuilder, ParameterIn},
    security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::server::routes::{Endpoint, REST_ROUTES};

/// The document and the page.
pub(super) fn routes(document: Document) -> Router {
    let config = Config::new(["/openapi.json"]).use_base_layout().validator_url("none").try_it_out_enabled(true);
    SwaggerUi::new("/docs").config(config).url("/openapi.json", document).into()
}

/// The documentation of every route. In `handlers` the path of an operation is the name of its handler.
pub(super) fn document(handlers: Document, handler_name: fn(Endpoint) -> Option<&'static str>) -> Document {
    let mut document = handlers;
    let operations = std::mem::take(&mut document.paths);
    for route in &REST_ROUTES {
        let operation = handler_name(route.endpoint).and_then(|name| find(&operations, name));
        let Some(operation) = operation else { continue };
        let method = if route.method == MethodFilter::GET { HttpMethod::Get } else { HttpMethod::Post };
        // A path that ends with a slash is another spelling of the one before.
        for path in route.paths.iter().filter(|path| !path.ends_with('/')) {
            let operation = at_path(operation.clone(), path, &method);
            document.paths.paths.insert((*path).to_owned(), PathItem::new(method.clone(), operation));
        }
    }
    add_flat_parameters(&mut document);
    add_key(&mut document);
    document
}

fn find<'a>(operations: &'a Paths, handler: &str) -> Option<&'a Operation> {
    let item = operations.paths.get(handler)?;
    item.get.as_ref().or(item.post.as_ref())
}

/// The operation of a handler at one of its paths.
fn at_path(mut operation: Operation, path: &str, method: &HttpMethod) -> Operation {
    let (names_model, names_version) = (path.contains("{model}"), path.contains("{version}"));
    let parameters = [
        (names_model, parameter("model", "Name or alias")),
        (names_version, parameter("version", "Version of the model, e.g. 1")),
    ];
    let parameters: Vec<Parameter> =
        parameters.into_iter().filter(|(is_in_path, _)| *is_in_path).map(|(_, parameter)| parameter).collect();
    operation.parameters = Some(parameters).filter(|parameters| !parameters.is_empty());
    if let Some(id) = &mut operation.operation_id {
        id.push_str(match path {
            "/infer" => "_default",
            _ if names_version => "_version",
            _ => "",
        });
    }
    let takes_body = *method == HttpMethod::Post;
    for (status, is_possible) in [
        (StatusCode::BAD_REQUEST, true),
        (StatusCode::UNAUTHORIZED, true),
        (StatusCode::NOT_FOUND, names_model || path == "/v1/captions"),
        (StatusCode::PAYLOAD_TOO_LARGE, takes_body),
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, true),
        (StatusCode::TOO_MANY_REQUESTS, takes_body),
        (StatusCode::INTERNAL_SERVER_ERROR, true),
        (StatusCode::SERVICE_UNAVAILABLE, true),
        (StatusCode::GATEWAY_TIMEOUT, true),
    ] {
        if is_possible {
            let response = operation.responses.responses.entry(status.as_str().to_owned());
            response.or_insert_with(|| RefOr::T(failure(status)));
        }
    }
    operation
}

fn parameter(name: &str, description: &str) -> Parameter {
    let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Path).required(Required::True);
    parameter.description(Some(description)).schema(Some(utoipa::schema!(String))).build()
}

fn failure(status: StatusCode) -> Response {
    let content = Content::new(Some(Ref::from_schema_name("Error")));
    let reason = status.canonical_reason().unwrap_or_default();
    ResponseBuilder::new().description(reason).content("application/json", content).build()
}

/// `generate` and the form take the generation parameters beside the image, too. Those of the form are texts, which its
/// schema leaves open.
fn add_flat_parameters(document: &mut Document) {
    let Some(schemas) = document.components.as_mut().map(|components| &mut components.schemas) else { return };
    let Some(RefOr::T(Schema::Object(parameters))) = schemas.get("GenerationParameters").cloned() else { return };
    if let Some(RefOr::T(Schema::Object(request))) = schemas.get_mut("GenerateRequest") {
        request.properties.extend(parameters.properties);
    }
    if let Some(RefOr::T(Schema::Object(form))) = schemas.get_mut("CaptionForm") {
        form.additional_properties = None;
    }
}

/// An API key, for servers that require one.
fn add_key(document: &mut Document) {
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("If the server has API keys"));
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("key", SecurityScheme::Http(scheme.build()));
    document.security = Some(vec![SecurityRequirement::default(), SecurityRequirement::new::<_, _, String>("key", [])]);
}
