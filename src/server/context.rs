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

use crate::{error::CaptionError, server::notes::Notes};

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
pub(crate) enum Wire {
    /// `content-type: application/grpc*`.
    Grpc,
    /// Everything else.
    Rest,
}

/// What a request is for: decides whether it needs a key and a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Probes and pages: neither key nor place. Kubelets carry no key and must be answered under load.
    Open,
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
    pub(crate) wire: Wire,
    /// What it is for.
    pub(crate) kind: Kind,
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
        let wire = wire(request.headers());
        let kind = match wire {
            Wire::Grpc => grpc_kind(request.uri().path()),
            Wire::Rest => rest_kind(request.method(), request.uri().path()),
        };
        Self { wire, kind, request_id: request_id(request.headers()), notes: Arc::default() }
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

fn wire(headers: &HeaderMap) -> Wire {
    let content_type = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let prefix = b"application/grpc";
    // application/grpc-web is another protocol.
    let is_grpc = content_type.split_at_checked(prefix.len()).is_some_and(|(start, rest)| {
        start.eq_ignore_ascii_case(prefix) && matches!(rest.first(), None | Some(b'+' | b';'))
    });
    if is_grpc { Wire::Grpc } else { Wire::Rest }
}

fn grpc_kind(path: &str) -> Kind {
    let segments: Vec<&str> = path.split('/').skip(1).take(3).collect();
    match segments[..] {
        ["grpc.health.v1.Health", _]
        | ["inference.GRPCInferenceService", "ServerLive" | "ServerReady" | "ModelReady"] => Kind::Open,
        ["grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection", _] => Kind::Metadata,
        ["inference.GRPCInferenceService", "RepositoryModelLoad" | "RepositoryModelUnload"] => Kind::Control,
        ["inference.GRPCInferenceService", method] if !method.ends_with("Infer") => Kind::Metadata,
        _ => Kind::Inference,
    }
}

fn rest_kind(method: &Method, path: &str) -> Kind {
    if method != Method::GET && method != Method::HEAD {
        return match path.strip_prefix("/v2/repository/") {
            Some("index") => Kind::Metadata,
            Some(path) if path.ends_with("/load") || path.ends_with("/unload") => Kind::Control,
            _ => Kind::Inference,
        };
    }
    let segments: Vec<&str> = path.split('/').skip(1).take(7).collect();
    match segments[..] {
        // The pages tell nothing that the source does not, and a browser has no key before it has the page.
        ["v2", "health", _]
        | ["v2", "models", _, "ready"]
        | ["v2", "models", _, "versions", _, "ready"]
        | [""]
        | ["docs" | "openapi.json" | "playground", ..] => Kind::Open,
        _ => Kind::Metadata,
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
        for (method, path, kind) in [
            ("GET", "/v2/health/ready", Kind::Open),
            ("GET", "/v2/models/m/ready", Kind::Open),
            ("GET", "/v2/models/m/versions/1/ready", Kind::Open),
            ("GET", "/v2/models/ready", Kind::Metadata),
            ("GET", "/v2", Kind::Metadata),
            ("GET", "/docs/index.css", Kind::Open),
            ("GET", "/", Kind::Open),
            ("HEAD", "/playground/app.js", Kind::Open),
            ("GET", "//v2", Kind::Metadata),
            ("POST", "/", Kind::Inference),
            ("GET", "/v2/models/m/stats", Kind::Metadata),
            ("POST", "/v2/repository/index", Kind::Metadata),
            ("POST", "/v2/models/m/ready", Kind::Inference),
            ("POST", "/infer", Kind::Inference),
            ("GET", "/metrics", Kind::Metadata),
            ("POST", "/v2/repository/models/m/load", Kind::Control),
            ("POST", "/v2/repository/models/m/unload", Kind::Control),
        ] {
            assert_eq!(context(method, path, &[]).kind, kind, "{method} {path}");
        }
    }

    #[test]
    fn the_content_type_decides_the_transport() {
        for (value, wire) in [
            ("application/grpc", Wire::Grpc),
            ("Application/GRPC+proto", Wire::Grpc),
            ("application/json", Wire::Rest),
            ("application/gr", Wire::Rest),
            ("application/grpc-web", Wire::Rest),
        ] {
            assert_eq!(context("POST", "/infer", &[("content-type", value)]).wire, wire, "{value}");
        }
        for (path, kind) in [
            ("/grpc.health.v1.Health/Check", Kind::Open),
            ("/inference.GRPCInferenceService/ServerReady", Kind::Open),
            ("/inference.GRPCInferenceService/ModelStatistics", Kind::Metadata),
            ("/inference.GRPCInferenceService/ModelStreamInfer", Kind::Inference),
            ("/inference.GRPCInferenceService/RepositoryModelLoad", Kind::Control),
            ("/blip.v1.CaptionService/Caption", Kind::Inference),
            ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Kind::Metadata),
        ] {
            assert_eq!(context("POST", path, &[("content-type", "application/grpc")]).kind, kind, "{path}");
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
