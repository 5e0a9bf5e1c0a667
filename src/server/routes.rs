//! Every route of the server, listed once: its path, its class and how the middleware treats its requests.
//!
//! The REST router, the request context, the body limit and the compression read these tables, and no other file
//! decides anything by a path. `rest` attaches a handler to each [`Endpoint`]; tonic's generated services route gRPC.

use axum::routing::MethodFilter;
use http::Method;

use self::RouteClass::{Control, Inference, Metadata, Metrics, Public};

/// Largest body of a request that carries no image, in bytes.
const MAX_SMALL_BODY_BYTES: usize = 64 << 10;

/// What a request needs before its handler runs: an API key, if the server has any, and a permit to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RouteClass {
    /// Probes and pages: neither key nor permit. Kubelets send no key and must be answered under load; the pages show
    /// only what is in the source, and a browser has no key before it has the page.
    Public,
    /// The metrics page: a key unless the setting `open_metrics` is on, no permit.
    Metrics,
    /// Metadata and reflection: a key, no permit.
    Metadata,
    /// Loading and unloading models: a key and the setting `model_control`, no permit.
    Control,
    /// Work for a model, and everything unknown: a key and a permit.
    Inference,
}

impl RouteClass {
    /// Largest body of a request in bytes; `configured` is the setting `max_body_bytes`.
    pub(crate) fn max_body_bytes(self, configured: usize) -> usize {
        match self {
            Inference => configured,
            Public | Metrics | Metadata | Control => configured.min(MAX_SMALL_BODY_BYTES),
        }
    }
}

/// How the middleware treats the requests of one route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RouteRules {
    pub(crate) class: RouteClass,
    /// Whether a successful response is compressed if its client accepts that.
    pub(crate) compresses_response: bool,
    /// Whether the client sends one message after another, so that silence in the body is not a fault.
    pub(crate) streams_requests: bool,
}

/// A handler of REST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    ServerLive,
    ServerReady,
    ModelReady,
    Metrics,
    ServerMetadata,
    AllStatistics,
    ModelMetadata,
    ModelConfig,
    ModelStatistics,
    RepositoryIndex,
    LoadModel,
    UnloadModel,
    Infer,
    Generate,
    GenerateStream,
    Captions,
    Playground,
    ApiDocs,
}

/// A route of REST. In its paths `{name}` stands for one segment and `{*name}` for all that follow.
#[derive(Debug)]
pub(crate) struct RestRoute {
    pub(crate) endpoint: Endpoint,
    pub(crate) method: MethodFilter,
    pub(crate) paths: &'static [&'static str],
    pub(crate) rules: RouteRules,
    /// Whether it is also served on the administrators' port.
    pub(crate) is_on_admin_port: bool,
}

/// A method of a gRPC service; `{method}` stands for every method that is not listed before.
#[derive(Debug)]
struct GrpcRoute {
    path: &'static str,
    rules: RouteRules,
}

pub(crate) static REST_ROUTES: [RestRoute; 18] = [
    get(Endpoint::ServerLive, Public, &["/v2/health/live"]).on_admin_port(),
    get(Endpoint::ServerReady, Public, &["/v2/health/ready"]).on_admin_port(),
    get(Endpoint::ModelReady, Public, &["/v2/models/{model}/ready", "/v2/models/{model}/versions/{version}/ready"])
        .on_admin_port(),
    get(Endpoint::Metrics, Metrics, &["/metrics"]).on_admin_port(),
    get(Endpoint::ServerMetadata, Metadata, &["/v2", "/v2/"]),
    get(Endpoint::AllStatistics, Metadata, &["/v2/models/stats"]),
    get(Endpoint::ModelMetadata, Metadata, &["/v2/models/{model}", "/v2/models/{model}/versions/{version}"]),
    get(
        Endpoint::ModelConfig,
        Metadata,
        &["/v2/models/{model}/config", "/v2/models/{model}/versions/{version}/config"],
    ),
    get(
        Endpoint::ModelStatistics,
        Metadata,
        &["/v2/models/{model}/stats", "/v2/models/{model}/versions/{version}/stats"],
    ),
    post(Endpoint::RepositoryIndex, Metadata, &["/v2/repository/index"]),
    post(Endpoint::LoadModel, Control, &["/v2/repository/models/{model}/load"]),
    post(Endpoint::UnloadModel, Control, &["/v2/repository/models/{model}/unload"]),
    post(
        Endpoint::Infer,
        Inference,
        &["/infer", "/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"],
    )
    .compressed(),
    post(
        Endpoint::Generate,
        Inference,
        &["/v2/models/{model}/generate", "/v2/models/{model}/versions/{version}/generate"],
    )
    .compressed(),
    post(
        Endpoint::GenerateStream,
        Inference,
        &["/v2/models/{model}/generate_stream", "/v2/models/{model}/versions/{version}/generate_stream"],
    ),
    post(Endpoint::Captions, Inference, &["/v1/captions"]).compressed(),
    get(Endpoint::Playground, Public, &["/", "/playground/{*file}"]).compressed(),
    get(Endpoint::ApiDocs, Public, &["/openapi.json", "/docs/{*file}"]),
];

static GRPC_ROUTES: [GrpcRoute; 14] = [
    grpc("/grpc.health.v1.Health/{method}", Public),
    grpc("/blip.v1.CaptionService/Caption", Inference).compressed(),
    // Messages of a few bytes each, which would be longer compressed.
    grpc("/blip.v1.CaptionService/StreamCaption", Inference),
    grpc("/blip.v1.CaptionService/CaptionMany", Inference).streaming(),
    grpc("/inference.GRPCInferenceService/ModelInfer", Inference).compressed(),
    grpc("/inference.GRPCInferenceService/ModelStreamInfer", Inference).streaming(),
    grpc("/inference.GRPCInferenceService/ServerLive", Public).compressed(),
    grpc("/inference.GRPCInferenceService/ServerReady", Public).compressed(),
    grpc("/inference.GRPCInferenceService/ModelReady", Public).compressed(),
    grpc("/inference.GRPCInferenceService/RepositoryModelLoad", Control).compressed(),
    grpc("/inference.GRPCInferenceService/RepositoryModelUnload", Control).compressed(),
    // Metadata, configuration, statistics, the index, and methods of Triton that are not implemented here.
    grpc("/inference.GRPCInferenceService/{method}", Metadata).compressed(),
    grpc("/grpc.reflection.v1.ServerReflection/{method}", Metadata).streaming(),
    grpc("/grpc.reflection.v1alpha.ServerReflection/{method}", Metadata).streaming(),
];

/// The rules for a REST request. An unknown path needs a key, and a permit unless it is only read.
pub(crate) fn rest_rules(method: &Method, path: &str) -> RouteRules {
    let (method, default) = match *method {
        Method::GET | Method::HEAD => (MethodFilter::GET, Metadata),
        Method::POST => (MethodFilter::POST, Inference),
        _ => return RouteRules::new(Inference),
    };
    let is_for = |route: &&RestRoute| route.method == method && route.paths.iter().any(|known| matches(known, path));
    REST_ROUTES.iter().find(is_for).map_or(RouteRules::new(default), |route| route.rules)
}

/// The rules for a gRPC request. An unknown service needs a key and a permit.
pub(crate) fn grpc_rules(path: &str) -> RouteRules {
    let route = GRPC_ROUTES.iter().find(|route| matches(route.path, path));
    route.map_or(RouteRules::new(Inference), |route| route.rules)
}

/// Whether `path` is one of those that `template` stands for.
fn matches(template: &str, path: &str) -> bool {
    let (mut expected, mut found) = (template.split('/'), path.split('/'));
    loop {
        match (expected.next(), found.next()) {
            (None, None) => return true,
            (Some(expected), _) if expected.starts_with("{*") => return true,
            (Some(expected), Some(found)) if expected.starts_with('{') || expected == found => {}
            _ => return false,
        }
    }
}

impl RouteRules {
    const fn new(class: RouteClass) -> Self {
        Self { class, compresses_response: false, streams_requests: false }
    }
}

impl RestRoute {
    const fn compressed(mut self) -> Self {
        self.rules.compresses_response = true;
        self
    }

    const fn on_admin_port(mut self) -> Self {
        self.is_on_admin_port = true;
        self
    }
}

impl GrpcRoute {
    const fn compressed(mut self) -> Self {
        self.rules.compresses_response = true;
        self
    }

    const fn streaming(mut self) -> Self {
        self.rules.streams_requests = true;
        self
    }
}

const fn get(endpoint: Endpoint, class: RouteClass, paths: &'static [&'static str]) -> RestRoute {
    RestRoute { endpoint, method: MethodFilter::GET, paths, rules: RouteRules::new(class), is_on_admin_port: false }
}

const fn post(endpoint: Endpoint, class: RouteClass, paths: &'static [&'static str]) -> RestRoute {
    RestRoute { endpoint, method: MethodFilter::POST, paths, rules: RouteRules::new(class), is_on_admin_port: false }
}

const fn grpc(path: &'static str, class: RouteClass) -> GrpcRoute {
    GrpcRoute { path, rules: RouteRules::new(class) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_probes_and_pages_are_public() {
        for (method, path, class) in [
            ("GET", "/v2/health/ready", Public),
            ("GET", "/v2/models/m/ready", Public),
            ("GET", "/v2/models/m/versions/1/ready", Public),
            ("GET", "/v2/models/ready", Metadata),
            ("GET", "/v2", Metadata),
            ("GET", "/docs/index.css", Public),
            ("GET", "/docs", Public),
            ("GET", "/", Public),
            ("HEAD", "/playground/app.js", Public),
            ("GET", "//v2", Metadata),
            ("POST", "/", Inference),
            ("GET", "/v2/models/m/stats", Metadata),
            ("GET", "/nowhere", Metadata),
            ("POST", "/nowhere", Inference),
            ("PUT", "/v2/repository/index", Inference),
            ("POST", "/v2/repository/index", Metadata),
            ("POST", "/v2/models/m/ready", Inference),
            ("POST", "/infer", Inference),
            ("GET", "/metrics", Metrics),
            ("POST", "/metrics", Inference),
            ("POST", "/v2/repository/models/m/load", Control),
            ("POST", "/v2/repository/models/m/unload", Control),
        ] {
            assert_eq!(rest_rules(&method.parse().unwrap(), path).class, class, "{method} {path}");
        }
        for (path, class) in [
            ("/grpc.health.v1.Health/Check", Public),
            ("/inference.GRPCInferenceService/ServerReady", Public),
            ("/inference.GRPCInferenceService/ModelStatistics", Metadata),
            ("/inference.GRPCInferenceService/ModelStreamInfer", Inference),
            ("/inference.GRPCInferenceService/RepositoryModelLoad", Control),
            ("/blip.v1.CaptionService/Caption", Inference),
            ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Metadata),
            ("/unknown.Service/Method", Inference),
        ] {
            assert_eq!(grpc_rules(path).class, class, "{path}");
        }
    }

    #[test]
    fn a_template_stands_for_one_segment_or_for_all_that_follow() {
        for (template, path, is_match) in [
            ("/a/{x}/b", "/a/1/b", true),
            ("/a/{x}/b", "/a//b", true),
            ("/a/{x}/b", "/a/1/2/b", false),
            ("/a/{x}", "/a", false),
            ("/a", "/a/1", false),
            ("/a", "/b", false),
            ("/a/{*x}", "/a", true),
            ("/a/{*x}", "/a/1/2", true),
            ("/a/{*x}", "/ab", false),
        ] {
            assert_eq!(matches(template, path), is_match, "{template} {path}");
        }
    }

    #[test]
    fn only_work_for_a_model_has_a_large_body() {
        assert_eq!(Inference.max_body_bytes(1 << 30), 1 << 30);
        for class in [Public, Metrics, Metadata, Control] {
            assert_eq!(class.max_body_bytes(1 << 30), 64 << 10, "{class:?}");
            assert_eq!(class.max_body_bytes(1000), 1000, "{class:?}");
        }
    }

    #[test]
    fn captions_and_the_playground_are_compressed() {
        let compressed = REST_ROUTES.iter().filter(|route| route.rules.compresses_response);
        let compressed: Vec<_> = compressed.map(|route| route.endpoint).collect();
        assert_eq!(compressed, [Endpoint::Infer, Endpoint::Generate, Endpoint::Captions, Endpoint::Playground]);
        for (path, is_compressed) in [
            ("/blip.v1.CaptionService/Caption", true),
            ("/blip.v1.CaptionService/StreamCaption", false),
            ("/blip.v1.CaptionService/CaptionMany", false),
            ("/inference.GRPCInferenceService/ModelInfer", true),
            ("/inference.GRPCInferenceService/ModelStreamInfer", false),
        ] {
            assert_eq!(grpc_rules(path).compresses_response, is_compressed, "{path}");
        }
    }

    #[test]
    fn the_administrators_port_has_health_and_metrics() {
        let served = REST_ROUTES.iter().filter(|route| route.is_on_admin_port).map(|route| route.endpoint);
        let expected = [Endpoint::ServerLive, Endpoint::ServerReady, Endpoint::ModelReady, Endpoint::Metrics];
        assert_eq!(served.collect::<Vec<_>>(), expected);
    }

    /// Package, service and methods of a file under `proto/`.
    fn grpc_methods(source: &str) -> Vec<(String, bool)> {
        let name = |line: &str, keyword: &str| {
            let rest = line.trim_start().strip_prefix(keyword)?.trim_start();
            Some(rest.split([' ', '(', ';']).next()?.to_owned())
        };
        let package = source.lines().find_map(|line| name(line, "package ")).unwrap();
        let service = source.lines().find_map(|line| name(line, "service ")).unwrap();
        let methods = source.lines().filter_map(|line| Some((line, name(line, "rpc ")?)));
        methods
            .map(|(line, method)| {
                (
                    format!("/{package}.{service}/{method}"),
                    line.split("returns").next().is_some_and(|request| request.contains("(stream")),
                )
            })
            .collect()
    }

    #[test]
    fn every_method_with_a_stream_of_requests_is_known_as_such() {
        let mut methods = grpc_methods(include_str!("../../proto/blip/v1/caption.proto"));
        methods.extend(grpc_methods(include_str!("../../proto/inference/grpc_service.proto")));
        methods.extend(grpc_methods(include_str!("../../proto/grpc/health/v1/health.proto")));
        methods.push(("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo".to_owned(), true));
        methods.push(("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo".to_owned(), true));
        assert!(methods.len() > 15, "{methods:?}");
        for (path, is_stream) in methods {
            assert_eq!(grpc_rules(&path).streams_requests, is_stream, "{path}");
            assert!(GRPC_ROUTES.iter().any(|route| matches(route.path, &path)), "{path}");
        }
    }
}
