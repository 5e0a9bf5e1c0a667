//! What is told of a request: the beginning and the end of its trace, and its one line in the log.
//!
//! Attributes have the names of OpenTelemetry's conventions for HTTP and RPC servers, or those of the log. Nothing of a query,
//! a header or a body is told.

use std::time::Duration;

use axum::{body::Body, extract::MatchedPath};
use http::{HeaderMap, Method, Request, StatusCode, Uri, header, uri::Authority};
use tracing::{Span, debug, info};

use crate::{
    observability::{self, Attribute, RequestEnd},
    server::{
        error_response::shorten,
        middleware::context::{RequestContext, Transport},
        routes::RouteClass,
    },
};

/// The log's name for these lines.
const TARGET: &str = "blip_serve::access";

/// Bytes of a path or a host that are told.
const MAX_TEXT_BYTES: usize = 256;

/// What was asked.
#[derive(Debug)]
pub(crate) struct Asked {
    method: Method,
    uri: Uri,
    transport: Transport,
    route_class: RouteClass,
}

/// What became of it.
#[derive(Debug)]
pub(crate) struct Told<'a> {
    /// None: nobody waited for it.
    pub(crate) status: Option<StatusCode>,
    /// Of gRPC.
    pub(crate) grpc_status: Option<i64>,
    pub(crate) elapsed: Duration,
    pub(crate) route: Option<&'a MatchedPath>,
    pub(crate) model: &'a str,
    /// The label of the client's key.
    pub(crate) key: &'a str,
    pub(crate) outcome: &'static str,
    pub(crate) reason: &'static str,
    /// By our fault, as far as a status can tell.
    pub(crate) is_failed: bool,
}

impl Asked {
    /// Begins the trace of a request.
    pub(crate) fn begin(request: &Request<Body>, context: &RequestContext, span: &Span) -> Self {
        let RequestContext { transport, route, .. } = *context;
        let route_class = route.class;
        let asked = Self { method: request.method().clone(), uri: request.uri().clone(), transport, route_class };
        observability::begin_request(span, request.headers(), || {
            let mut attributes = asked.attributes();
            attributes.push(("request_id", context.request_id.to_string().into()));
            attributes.extend(server(request.uri(), request.headers()));
            attributes
        });
        asked
    }

    /// Logs the request and ends its trace.
    pub(crate) fn end(&self, span: &Span, told: &Told) {
        self.log(told);
        observability::end_request(span, || RequestEnd {
            name: self.name(told),
            attributes: told.attributes(self.transport),
            is_server_error: told.is_failed,
        });
    }

    fn log(&self, told: &Told) {
        let status = told.status.map(|status| status.as_u16());
        let elapsed_ms = told.elapsed.as_micros() as f64 / 1e3;
        let Told { grpc_status, outcome, reason, .. } = *told;
        let (model, key) = (some(told.model), some(told.key));
        // The level is a part of each place that logs.
        macro_rules! line {
            ($level:ident) => {
                $level!(
                    target: TARGET,
                    method = self.method.as_str(), path = self.path(), status, grpc_status, elapsed_ms, model, key, outcome,
                    reason, "request ended"
                )
            };
        }
        // Probes come every few seconds.
        if self.route_class == RouteClass::Public { line!(debug) } else { line!(info) }
    }

    fn path(&self) -> String {
        shorten(self.uri.path(), MAX_TEXT_BYTES)
    }

    fn attributes(&self) -> Vec<Attribute> {
        match self.transport {
            Transport::Rest => {
                vec![("http.request.method", method(&self.method).into()), ("url.path", self.path().into())]
            }
            Transport::Grpc => {
                let path = self.path();
                let (service, method) = path.trim_start_matches('/').rsplit_once('/').unwrap_or_default();
                vec![
                    ("rpc.system", "grpc".into()),
                    ("rpc.service", service.to_owned().into()),
                    ("rpc.method", method.to_owned().into()),
                ]
            }
        }
    }

    /// Of few values: what clients make up is no name.
    fn name(&self, told: &Told) -> String {
        match (self.transport, told.route) {
            (Transport::Rest, Some(route)) => format!("{} {}", method(&self.method), route.as_str()),
            (Transport::Rest, None) => method(&self.method).to_owned(),
            // Without a key nobody looks whether there is such a method.
            (Transport::Grpc, _) if matches!(told.reason, "UNIMPLEMENTED" | "UNAUTHENTICATED") => {
                "unknown method".to_owned()
            }
            (Transport::Grpc, _) => self.path().trim_start_matches('/').to_owned(),
        }
    }
}

impl Told<'_> {
    fn attributes(&self, transport: Transport) -> Vec<Attribute> {
        let mut attributes: Vec<Attribute> = vec![("outcome", self.outcome.into())];
        let texts =
            [("model", self.model), ("key", self.key), ("http.route", self.route.map_or("", MatchedPath::as_str))];
        attributes.extend(texts.into_iter().filter_map(|(name, text)| Some((name, some(text)?.to_owned().into()))));
        match transport {
            Transport::Rest => {
                attributes
                    .extend(self.status.map(|status| ("http.response.status_code", i64::from(status.as_u16()).into())));
            }
            Transport::Grpc => {
                attributes.extend(self.grpc_status.map(|status| ("rpc.grpc.status_code", status.into())))
            }
        }
        if self.outcome != "ok" {
            attributes.push(("reason", self.reason.into()));
        }
        if self.is_failed {
            attributes.push(("error.type", self.reason.into()));
        }
        attributes
    }
}

/// The host that the client meant.
fn server(uri: &Uri, headers: &HeaderMap) -> Vec<Attribute> {
    let host = || headers.get(header::HOST)?.to_str().ok()?.parse::<Authority>().ok();
    let Some(authority) = uri.authority().cloned().or_else(host) else { return vec![] };
    let port = authority.port_u16().map(|port| ("server.port", i64::from(port).into()));
    let address = ("server.address", shorten(authority.host(), MAX_TEXT_BYTES).into());
    [address].into_iter().chain(port).collect()
}

/// A method that HTTP knows.
fn method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "PATCH" => "PATCH",
        "CONNECT" => "CONNECT",
        "TRACE" => "TRACE",
        _ => "_OTHER",
    }
}

fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}
