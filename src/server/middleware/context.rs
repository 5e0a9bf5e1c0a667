//! What the layers learn about a request before it reaches a handler: its transport, its id and its kind.
//!
//! Layers and handlers find a [`RequestContext`] in the request's extensions and answer failures through it (`status.rs`),
//! so that every failure looks the same wherever it was found.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{FromRequestParts, MatchedPath},
    response::Response,
};
use http::{HeaderMap, HeaderName, Method, Request, header, request::Parts};

use crate::{error::CaptionError, server::middleware::request_record::Notes};

/// Header and gRPC metadata key of the request id, both ways.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Where the time of a request went, for its client.
pub(crate) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Where the binary tensor extension announces the length of the JSON part, both ways.
pub(crate) const BINARY_HEADER: HeaderName = HeaderName::from_static("inference-header-content-length");

/// A client's request id above this length is replaced.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// The protocol a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// `content-type: application/grpc*`.
    Grpc,
    /// Everything else.
    Rest,
}

/// What a request is for: decides whether it needs a key and a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RouteClass {
    /// Probes and pages: neither key nor place. Kubelets carry no key and must be answered under load.
    Public,
    /// Metadata and reflection: a key, no place.
    Metadata,
    /// Changes of the models: a key and the right to it, no place.
    Control,
    /// Work for the model, and everything unknown: a key and a place.
    Inference,
}

/// One request as the layers see it.
#[derive(Clone, Debug)]
pub(crate) struct RequestContext {
    /// How to answer.
    pub(crate) transport: Transport,
    /// What it is for.
    pub(crate) route_class: RouteClass,
    /// The client's own id if it sent a sane one, else ours; visible ASCII.
    pub(crate) request_id: Arc<str>,
    /// What becomes known on the way, for the counts and the answer's head.
    pub(crate) notes: Arc<Notes>,
}

/// When the answer must be there, and whom it is for; an extension set by the deadline layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    /// No later than that.
    pub(crate) at: Instant,
    /// Who waits, as a number.
    pub(crate) caller: u64,
    asked: Option<Instant>,
    limit: Duration,
}

impl Deadline {
    /// What the client asked for, within the server's limit.
    pub(crate) fn new(asked: Option<Duration>, limit: Duration, caller: u64) -> Self {
        let now = Instant::now();
        // A deadline beyond the clock is none.
        let asked = asked.and_then(|asked| now.checked_add(asked));
        Self { asked, limit, caller, at: now }.renewed()
    }

    /// For the next request of a stream, which has the server's whole limit but ends with the stream.
    pub(crate) fn renewed(self) -> Self {
        let at = Instant::now() + self.limit;
        Self { at: self.asked.map_or(at, |asked| asked.min(at)), ..self }
    }
}

impl RequestContext {
    /// Reads the head of a request.
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        let transport = transport(request.headers());
        let route_class = match transport {
            Transport::Grpc => grpc_kind(request.uri().path()),
            Transport::Rest => rest_kind(request.method(), request.uri().path()),
        };
        Self { transport, route_class, request_id: request_id(request.headers()), notes: Arc::default() }
    }

    /// The context of a request that went through the chain; a fresh one for any other.
    pub(crate) fn from_extensions(extensions: &http::Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_else(|| Self::of(&Request::new(())))
    }
}

impl<S: Sync> FromRequestParts<S> for RequestContext {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let context = Self::from_extensions(&parts.extensions);
        if let Some(route) = parts.extensions.get::<MatchedPath>() {
            context.notes.route(route);
        }
        Ok(context)
    }
}

impl<S: Sync> FromRequestParts<S> for Deadline {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        let missing = || CaptionError::internal("the deadline layer did not run");
        let context = || RequestContext::from_extensions(&parts.extensions);
        parts.extensions.get::<Self>().copied().ok_or_else(|| context().response(&missing()))
    }
}

fn transport(headers: &HeaderMap) -> Transport {
    let content_type = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let prefix = b"application/grpc";
    // application/grpc-web is another protocol.
    let is_grpc = content_type.split_at_checked(prefix.len()).is_some_and(|(start, rest)| {
        start.eq_ignore_ascii_case(prefix) && matches!(rest.first(), None | Some(b'+' | b';'))
    });
    if is_grpc { Transport::Grpc } else { Transport::Rest }
}

fn grpc_kind(path: &str) -> RouteClass {
    let segments: Vec<&str> = path.split('/').skip(1).take(3).collect();
    match segments[..] {
        ["grpc.health.v1.Health", _]
        | ["inference.GRPCInferenceService", "ServerLive" | "ServerReady" | "ModelReady"] => RouteClass::Public,
        ["grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection", _] => RouteClass::Metadata,
        ["inference.GRPCInferenceService", "RepositoryModelLoad" | "RepositoryModelUnload"] => RouteClass::Control,
        ["inference.GRPCInferenceService", method] if !method.ends_with("Infer") => RouteClass::Metadata,
        _ => RouteClass::Inference,
    }
}

fn rest_kind(method: &Method, path: &str) -> RouteClass {
    if method != Method::GET && method != Method::HEAD {
        return match path.strip_prefix("/v2/repository/") {
            Some("index") => RouteClass::Metadata,
            Some(path) if path.ends_with("/load") || path.ends_with("/unload") => RouteClass::Control,
            _ => RouteClass::Inference,
        };
    }
    let segments: Vec<&str> = path.split('/').skip(1).take(7).collect();
    match segments[..] {
        // The pages tell nothing that the source does not, and a browser has no key before it has the page.
        ["v2", "health", _]
        | ["v2", "models", _, "ready"]
        | ["v2", "models", _, "versions", _, "ready"]
        | [""]
        | ["docs" | "openapi.json" | "playground", ..] => RouteClass::Public,
        _ => RouteClass::Metadata,
    }
}

fn request_id(headers: &HeaderMap) -> Arc<str> {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let is_sane = |id: &&str| {
        !id.is_empty() && id.len() <= MAX_REQUEST_ID_BYTES && id.bytes().all(|byte| byte.is_ascii_graphic())
    };
    given.filter(is_sane).map_or_else(|| format!("{:032x}", rand::random::<u128>()).into(), Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(method: &str, path: &str, headers: &[(&str, &str)]) -> RequestContext {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        RequestContext::of(&request.body(()).unwrap())
    }

    #[test]
    fn only_probes_and_pages_are_open() {
        for (method, path, route_class) in [
            ("GET", "/v2/health/ready", RouteClass::Public),
            ("GET", "/v2/models/m/ready", RouteClass::Public),
            ("GET", "/v2/models/m/versions/1/ready", RouteClass::Public),
            ("GET", "/v2/models/ready", RouteClass::Metadata),
            ("GET", "/v2", RouteClass::Metadata),
            ("GET", "/docs/index.css", RouteClass::Public),
            ("GET", "/", RouteClass::Public),
            ("HEAD", "/playground/app.js", RouteClass::Public),
            ("GET", "//v2", RouteClass::Metadata),
            ("POST", "/", RouteClass::Inference),
            ("GET", "/v2/models/m/stats", RouteClass::Metadata),
            ("POST", "/v2/repository/index", RouteClass::Metadata),
            ("POST", "/v2/models/m/ready", RouteClass::Inference),
            ("POST", "/infer", RouteClass::Inference),
            ("GET", "/metrics", RouteClass::Metadata),
            ("POST", "/v2/repository/models/m/load", RouteClass::Control),
            ("POST", "/v2/repository/models/m/unload", RouteClass::Control),
        ] {
            assert_eq!(context(method, path, &[]).route_class, route_class, "{method} {path}");
        }
    }

    #[test]
    fn the_content_type_decides_the_transport() {
        for (value, transport) in [
            ("application/grpc", Transport::Grpc),
            ("Application/GRPC+proto", Transport::Grpc),
            ("application/json", Transport::Rest),
            ("application/gr", Transport::Rest),
            ("application/grpc-web", Transport::Rest),
        ] {
            assert_eq!(context("POST", "/infer", &[("content-type", value)]).transport, transport, "{value}");
        }
        for (path, route_class) in [
            ("/grpc.health.v1.Health/Check", RouteClass::Public),
            ("/inference.GRPCInferenceService/ServerReady", RouteClass::Public),
            ("/inference.GRPCInferenceService/ModelStatistics", RouteClass::Metadata),
            ("/inference.GRPCInferenceService/ModelStreamInfer", RouteClass::Inference),
            ("/inference.GRPCInferenceService/RepositoryModelLoad", RouteClass::Control),
            ("/blip.v1.CaptionService/Caption", RouteClass::Inference),
            ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", RouteClass::Metadata),
        ] {
            assert_eq!(
                context("POST", path, &[("content-type", "application/grpc")]).route_class,
                route_class,
                "{path}"
            );
        }
    }

    #[test]
    fn a_sane_request_id_is_kept_and_any_other_replaced() {
        assert_eq!(&*context("GET", "/", &[("x-request-id", "abc-1")]).request_id, "abc-1");
        for bad in ["", "two words", &"x".repeat(MAX_REQUEST_ID_BYTES + 1)] {
            let id = context("GET", "/", &[("x-request-id", bad)]).request_id;
            assert_eq!(id.len(), 32, "{bad:?}");
        }
    }
}
