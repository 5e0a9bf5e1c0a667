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
use http::{HeaderMap, HeaderName, Request, header, request::Parts};

use crate::{
    error::CaptionError,
    server::{
        middleware::request_record::Notes,
        routes::{RouteRules, grpc_rules, rest_rules},
    },
};

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

/// One request as the layers see it.
#[derive(Clone, Debug)]
pub(crate) struct RequestContext {
    /// How to answer.
    pub(crate) transport: Transport,
    /// How the layers treat it.
    pub(crate) route: RouteRules,
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
        let path = request.uri().path();
        let route = match transport {
            Transport::Grpc => grpc_rules(path),
            Transport::Rest => rest_rules(request.method(), path),
        };
        Self { transport, route, request_id: request_id(request.headers()), notes: Arc::default() }
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
    use crate::server::routes::RouteClass;

    fn context(method: &str, path: &str, headers: &[(&str, &str)]) -> RequestContext {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        RequestContext::of(&request.body(()).unwrap())
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
        let grpc = [("content-type", "application/grpc")];
        assert_eq!(context("POST", "/grpc.health.v1.Health/Check", &grpc).route.class, RouteClass::Public);
        assert_eq!(context("POST", "/grpc.health.v1.Health/Check", &[]).route.class, RouteClass::Inference);
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
