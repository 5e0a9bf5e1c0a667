//! The record of every request: its id, its span and trace, its one line in the log and its count in the metrics.
//!
//! Attributes have the names of OpenTelemetry's conventions for HTTP and RPC servers, or those of the log. Nothing of a
//! query, a header or a body is recorded.

use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header, uri::Authority};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tracing::{Instrument, Span, debug, error_span, field::Empty, info};

use crate::{
    error::{CaptionError, ErrorCode},
    observability::{
        self, Attribute, RequestEnd,
        prometheus::{Metrics, RequestLabels},
    },
    server::{
        error_response::{StatusCodes, reason, shorten},
        middleware::context::{Failure, REQUEST_ID, RequestContext, SERVER_TIMING, Transport},
        routes::RouteClass,
    },
};

/// Target of the log lines.
const TARGET: &str = "blip_serve::access";

/// Longest path or host that is recorded, in bytes.
const MAX_TEXT_BYTES: usize = 256;

/// Gives a request its context, its span and its trace, records its end, and turns a panic into an internal error.
pub(crate) async fn record(State(metrics): State<Metrics>, mut request: Request, next: Next) -> Response {
    let context = RequestContext::for_request(&request);
    let span = error_span!("request", request_id = &*context.request_id, trace_id = Empty);
    let info = RequestInfo::begin(&request, &context, &span);
    let guard = RequestGuard::new(metrics, context.clone(), info, span.clone());
    request.extensions_mut().insert(context.clone());
    let handled = async {
        let outcome = AssertUnwindSafe(next.run(request)).catch_unwind().await;
        let mut response = outcome.unwrap_or_else(|_| context.response(&CaptionError::internal("a handler panicked")));
        if let Ok(id) = HeaderValue::from_str(&context.request_id) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        if let Some(times) = context.record.server_timing() {
            response.headers_mut().insert(SERVER_TIMING, times);
        }
        guard.track(response)
    };
    handled.instrument(span).await
}

/// What a request asked for.
#[derive(Debug)]
struct RequestInfo {
    method: Method,
    uri: Uri,
    transport: Transport,
    class: RouteClass,
}

/// How a request ended.
#[derive(Debug)]
struct ResponseInfo<'a> {
    /// None if the client did not wait for it.
    status: Option<StatusCode>,
    grpc_status: Option<i64>,
    elapsed: Duration,
    route: Option<&'a MatchedPath>,
    model: &'a str,
    /// Label of the client's key.
    key: &'a str,
    outcome: &'static str,
    reason: &'static str,
    /// Whether the server is at fault, according to the status.
    is_server_error: bool,
}

impl RequestInfo {
    /// Begins the trace of a request.
    fn begin(request: &Request, context: &RequestContext, span: &Span) -> Self {
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let info = Self { method, uri, transport: context.transport, class: context.route.class };
        observability::begin_request(span, request.headers(), || {
            let mut attributes = info.attributes();
            attributes.push(("request_id", context.request_id.to_string().into()));
            attributes.extend(server_attributes(request.uri(), request.headers()));
            attributes
        });
        info
    }

    /// Logs the request and ends its trace.
    fn end(&self, span: &Span, response: &ResponseInfo) {
        self.log(response);
        observability::end_request(span, || RequestEnd {
            name: self.span_name(response),
            attributes: response.attributes(self.transport),
            is_server_error: response.is_server_error,
        });
    }

    fn log(&self, response: &ResponseInfo) {
        let status = response.status.map(|status| status.as_u16());
        let elapsed_ms = response.elapsed.as_micros() as f64 / 1e3;
        let ResponseInfo { grpc_status, outcome, reason, .. } = *response;
        let (model, key) = (non_empty(response.model), non_empty(response.key));
        // A macro, as tracing needs the level at compile time.
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
        if self.class == RouteClass::Public { line!(debug) } else { line!(info) }
    }

    fn path(&self) -> String {
        shorten(self.uri.path(), MAX_TEXT_BYTES)
    }

    fn attributes(&self) -> Vec<Attribute> {
        match self.transport {
            Transport::Rest => {
                vec![("http.request.method", known_method(&self.method).into()), ("url.path", self.path().into())]
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

    /// The name of the span. It has few values: an unknown path is not a name.
    fn span_name(&self, response: &ResponseInfo) -> String {
        match (self.transport, response.route) {
            (Transport::Rest, Some(route)) => format!("{} {}", known_method(&self.method), route.as_str()),
            (Transport::Rest, None) => known_method(&self.method).to_owned(),
            // A request without a key is refused before its method is looked up.
            (Transport::Grpc, _) if matches!(response.reason, "UNIMPLEMENTED" | "UNAUTHENTICATED") => {
                "unknown method".to_owned()
            }
            (Transport::Grpc, _) => self.path().trim_start_matches('/').to_owned(),
        }
    }
}

impl ResponseInfo<'_> {
    fn attributes(&self, transport: Transport) -> Vec<Attribute> {
        let mut attributes: Vec<Attribute> = vec![("outcome", self.outcome.into())];
        let texts =
            [("model", self.model), ("key", self.key), ("http.route", self.route.map_or("", MatchedPath::as_str))];
        let texts = texts.into_iter().filter(|(_, text)| !text.is_empty());
        attributes.extend(texts.map(|(name, text)| (name, text.to_owned().into())));
        let status = match transport {
            Transport::Rest => {
                self.status.map(|status| ("http.response.status_code", i64::from(status.as_u16()).into()))
            }
            Transport::Grpc => self.grpc_status.map(|status| ("rpc.grpc.status_code", status.into())),
        };
        attributes.extend(status);
        if self.outcome != "ok" {
            attributes.push(("reason", self.reason.into()));
        }
        if self.is_server_error {
            attributes.push(("error.type", self.reason.into()));
        }
        attributes
    }
}

/// Records a request when its response is sent or dropped.
struct RequestGuard {
    metrics: Metrics,
    context: RequestContext,
    info: RequestInfo,
    span: Span,
    status: Option<StatusCode>,
    grpc_status: Option<i64>,
    started: Instant,
    is_complete: bool,
}

impl RequestGuard {
    fn new(metrics: Metrics, context: RequestContext, info: RequestInfo, span: Span) -> Self {
        let (status, grpc_status) = (None, None);
        Self { metrics, context, info, span, status, grpc_status, started: Instant::now(), is_complete: false }
    }

    /// Tracks the response to its end.
    fn track(mut self, response: Response) -> Response {
        // A body of known size is a complete response, whether or not its client reads it.
        self.is_complete = response.body().size_hint().exact().is_some();
        self.status = Some(response.status());
        self.grpc_status = grpc_status(response.headers());
        response.map(|body| Body::new(TrackedBody { body, guard: self }))
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let _entered = self.span.enter();
        let elapsed = self.started.elapsed();
        let fields = self.context.record.fields();
        let cancelled = || Failure { code: ErrorCode::Cancelled, reason: reason(&CaptionError::Cancelled) };
        let failure = fields.failure.or_else(|| (!self.is_complete).then(cancelled));
        let (outcome, reason) = failure.map_or(("ok", "OK"), |failure| (outcome(failure.code), failure.reason));
        let response = ResponseInfo {
            status: self.status,
            grpc_status: self.grpc_status,
            elapsed,
            route: fields.route.as_ref(),
            model: &fields.model,
            key: &fields.key,
            outcome,
            reason,
            is_server_error: failure.is_some_and(|failure| StatusCodes::from(failure.code).http.is_server_error()),
        };
        self.info.end(&self.span, &response);
        // Probes and pages are not counted: no client waits for a model there.
        if self.info.class == RouteClass::Public {
            return;
        }
        let surface = match self.info.transport {
            Transport::Grpc => "grpc",
            Transport::Rest => "rest",
        };
        let labels = RequestLabels { surface, model: &fields.model, key: &fields.key, outcome, reason };
        self.metrics.record_request(&labels, elapsed);
    }
}

/// A response body whose end is recorded.
struct TrackedBody {
    body: Body,
    guard: RequestGuard,
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Self { body, guard: RequestGuard { span, is_complete, grpc_status: status, .. } } = &mut *self;
        // The work of a streamed response is done in this call.
        let _entered = span.enter();
        let frame = Pin::new(body).poll_frame(cx);
        match &frame {
            Poll::Ready(None) => *is_complete = true,
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    *is_complete = true;
                    *status = grpc_status(trailers);
                }
            }
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<i64> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// The label `outcome` of a failed request.
fn outcome(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Overloaded => "overloaded",
        ErrorCode::DeadlineExceeded => "deadline",
        ErrorCode::Cancelled => "cancelled",
        ErrorCode::Unavailable => "unavailable",
        ErrorCode::Internal => "error",
        ErrorCode::InvalidArgument
        | ErrorCode::TooLarge
        | ErrorCode::NotFound
        | ErrorCode::MethodNotAllowed
        | ErrorCode::Unimplemented
        | ErrorCode::UnsupportedMediaType
        | ErrorCode::Unauthenticated
        | ErrorCode::Forbidden => "client_error",
    }
}

/// The host and port that the client called.
fn server_attributes(uri: &Uri, headers: &HeaderMap) -> Vec<Attribute> {
    let host = || headers.get(header::HOST)?.to_str().ok()?.parse::<Authority>().ok();
    let Some(authority) = uri.authority().cloned().or_else(host) else { return vec![] };
    let port = authority.port_u16().map(|port| ("server.port", i64::from(port).into()));
    let address = ("server.address", shorten(authority.host(), MAX_TEXT_BYTES).into());
    [address].into_iter().chain(port).collect()
}

/// A method that HTTP defines; `_OTHER` for all others.
fn known_method(method: &Method) -> &'static str {
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

fn non_empty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use axum::middleware::from_fn_with_state;
    use http_body_util::{BodyExt, StreamBody};
    use tower::{Layer, ServiceExt, service_fn};

    use super::*;

    /// What the metrics count of requests, without labels that are empty.
    fn counts(metrics: &Metrics) -> Vec<String> {
        let page = metrics.render();
        let lines = page.lines().filter(|line| line.starts_with("blip_requests_total{"));
        lines.map(|line| line.trim_start_matches("blip_requests_total").replace('"', "")).collect()
    }

    fn request(path: &str, content_type: &str) -> Request {
        let request = Request::builder().method("POST").uri(path).header("content-type", content_type);
        request.header("x-request-id", "r1").body(Body::empty()).unwrap()
    }

    /// The response of a handler behind the layer.
    async fn call(metrics: &Metrics, request: Request, handler: fn(&RequestContext) -> Response) -> Response {
        let handler = service_fn(move |request: Request| async move {
            Ok::<_, Infallible>(handler(&RequestContext::from_extensions(request.extensions())))
        });
        from_fn_with_state(metrics.clone(), record).layer(handler).oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn a_request_is_counted_once_with_its_outcome() {
        let metrics = Metrics::new().unwrap();
        let response = call(&metrics, request("/infer", ""), |context| {
            context.record.set_model("m");
            context.record.set_key("k");
            Response::new(Body::from("x"))
        });
        let response = response.await;
        assert_eq!(response.headers()["x-request-id"], "r1");
        assert!(counts(&metrics).is_empty(), "it is counted when its response is sent");
        drop(response);
        assert_eq!(counts(&metrics), ["{key=k,model=m,outcome=ok,reason=OK,surface=rest} 1"]);
    }

    #[tokio::test]
    async fn the_first_failure_is_counted() {
        let metrics = Metrics::new().unwrap();
        let fail = |context: &RequestContext| {
            context.response(&CaptionError::DeadlineExceeded);
            context.response(&CaptionError::Cancelled)
        };
        drop(call(&metrics, request("/blip.v1.CaptionService/Caption", "application/grpc"), fail).await);
        let count = "{key=,model=,outcome=deadline,reason=DEADLINE_EXCEEDED,surface=grpc} 1";
        assert_eq!(counts(&metrics), [count]);
    }

    #[tokio::test]
    async fn probes_are_not_counted() {
        let metrics = Metrics::new().unwrap();
        let answer = |_: &RequestContext| Response::new(Body::empty());
        drop(call(&metrics, request("/grpc.health.v1.Health/Check", "application/grpc"), answer).await);
        assert!(counts(&metrics).is_empty());
    }

    #[tokio::test]
    async fn a_stream_that_is_not_read_to_its_end_is_cancelled() {
        let unread = "{key=,model=,outcome=cancelled,reason=CANCELLED,surface=rest} 1";
        let read = "{key=,model=,outcome=ok,reason=OK,surface=rest} 1";
        let pieces = |frames: Vec<Frame<Bytes>>| {
            Response::new(Body::new(StreamBody::new(futures_util::stream::iter(
                frames.into_iter().map(Ok::<_, Infallible>),
            ))))
        };
        let data = || Frame::data(Bytes::from_static(b"x"));
        let trailers =
            || Frame::trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), "5".parse().unwrap())]));
        for (frames, polls, count) in [
            (vec![data()], 0, unread),
            (vec![data()], 1, unread),
            (vec![data()], 2, read),
            (vec![data(), trailers()], 1, unread),
            (vec![data(), trailers()], 2, read),
        ] {
            let metrics = Metrics::new().unwrap();
            let (context, info) = {
                let request = request("/infer", "");
                let context = RequestContext::for_request(&request);
                let info = RequestInfo::begin(&request, &context, &Span::none());
                (context, info)
            };
            let guard = RequestGuard::new(metrics.clone(), context, info, Span::none());
            let mut response = guard.track(pieces(frames));
            for _ in 0..polls {
                drop(response.body_mut().frame().await);
            }
            drop(response);
            assert_eq!(counts(&metrics), [count], "{polls} polls");
        }
    }

    #[tokio::test]
    async fn a_tracked_body_has_the_size_and_the_end_of_the_inner_body() {
        let metrics = Metrics::new().unwrap();
        let full = call(&metrics, request("/infer", ""), |_| Response::new(Body::from("12345"))).await;
        assert_eq!((full.body().size_hint().exact(), full.body().is_end_stream()), (Some(5), false));
        let empty = call(&metrics, request("/infer", ""), |_| Response::new(Body::empty())).await;
        assert!(empty.body().is_end_stream());
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_error_on_both_transports() {
        // A condition that the compiler cannot evaluate, so that the block has a type.
        let panic = |_: &RequestContext| {
            assert!(std::hint::black_box(false), "secret");
            Response::new(Body::empty())
        };
        let metrics = Metrics::new().unwrap();
        let rest = call(&metrics, request("/infer", "application/json"), panic).await;
        assert_eq!((rest.status().as_u16(), &rest.headers()["x-request-id"]), (500, &HeaderValue::from_static("r1")));
        let body = axum::body::to_bytes(rest.into_body(), 1000).await.unwrap();
        assert_eq!(body, r#"{"error":"internal error","request_id":"r1"}"#);
        let grpc = call(&metrics, request("/infer", "application/grpc"), panic).await;
        let status = tonic::Status::from_header_map(grpc.headers()).unwrap();
        assert_eq!((status.code(), status.message()), (tonic::Code::Internal, "internal error"));
    }

    fn info(method: &str, path: &str, transport: Transport) -> RequestInfo {
        let (method, uri) = (method.parse().unwrap(), path.parse().unwrap());
        RequestInfo { method, uri, transport, class: RouteClass::Inference }
    }

    fn response<'a>(outcome: &'static str, reason: &'static str) -> ResponseInfo<'a> {
        ResponseInfo {
            status: Some(StatusCode::OK),
            grpc_status: Some(4),
            elapsed: Duration::from_micros(1500),
            route: None,
            model: "m",
            key: "",
            outcome,
            reason,
            is_server_error: outcome == "error",
        }
    }

    fn texts(attributes: Vec<Attribute>) -> Vec<String> {
        attributes.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    #[test]
    fn attributes_follow_the_conventions_of_their_transport() {
        let rest = info("FETCH", "/v2?secret", Transport::Rest);
        assert_eq!(texts(rest.attributes()), ["http.request.method=_OTHER", "url.path=/v2"]);
        let grpc = info("POST", "/blip.v1.CaptionService/Caption", Transport::Grpc);
        let expected = ["rpc.system=grpc", "rpc.service=blip.v1.CaptionService", "rpc.method=Caption"];
        assert_eq!(texts(grpc.attributes()), expected);
        let ok = response("ok", "OK");
        assert_eq!(texts(ok.attributes(Transport::Rest)), ["outcome=ok", "model=m", "http.response.status_code=200"]);
        assert_eq!(texts(ok.attributes(Transport::Grpc)), ["outcome=ok", "model=m", "rpc.grpc.status_code=4"]);
        let failed = texts(response("error", "INTERNAL").attributes(Transport::Grpc));
        assert_eq!(failed[3..], ["reason=INTERNAL", "error.type=INTERNAL"]);
        let refused = texts(response("client_error", "NOT_FOUND").attributes(Transport::Grpc));
        assert_eq!(refused[3..], ["reason=NOT_FOUND"]);
    }

    #[test]
    fn a_span_is_not_named_after_an_unknown_method_or_path() {
        let name = |method, path, transport, reason| {
            info(method, path, transport).span_name(&response("client_error", reason))
        };
        assert_eq!(name("GET", "/made/up", Transport::Rest, "NOT_FOUND"), "GET");
        assert_eq!(name("POST", "/a.B/C", Transport::Grpc, "NOT_FOUND"), "a.B/C");
        for reason in ["UNIMPLEMENTED", "UNAUTHENTICATED"] {
            assert_eq!(name("POST", "/a.B/C", Transport::Grpc, reason), "unknown method");
        }
    }

    #[test]
    fn every_method_of_http_has_its_name() {
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE"] {
            assert_eq!(known_method(&method.parse().unwrap()), method);
        }
    }

    #[test]
    fn the_server_is_the_host_that_the_client_called() {
        let host = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("example.org:8080"))]);
        let attributes = |uri: &str, headers: &HeaderMap| texts(server_attributes(&uri.parse().unwrap(), headers));
        assert_eq!(attributes("/v2", &host), ["server.address=example.org", "server.port=8080"]);
        assert_eq!(attributes("http://other/v2", &host), ["server.address=other"]);
        assert!(attributes("/v2", &HeaderMap::new()).is_empty());
    }

    #[test]
    fn every_failure_has_its_outcome() {
        for (code, expected) in [
            (ErrorCode::Overloaded, "overloaded"),
            (ErrorCode::DeadlineExceeded, "deadline"),
            (ErrorCode::Cancelled, "cancelled"),
            (ErrorCode::Unavailable, "unavailable"),
            (ErrorCode::Internal, "error"),
            (ErrorCode::NotFound, "client_error"),
        ] {
            assert_eq!(outcome(code), expected);
        }
    }

    #[test]
    fn the_status_of_grpc_is_a_number() {
        let headers = |value: &'static str| {
            HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static(value))])
        };
        assert_eq!(grpc_status(&headers("13")), Some(13));
        assert_eq!(grpc_status(&headers("thirteen")), None);
        assert_eq!(grpc_status(&HeaderMap::new()), None);
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_request_is_one_line_and_a_probe_only_in_a_debug_log() {
        let logged = |class: RouteClass| {
            let lines = Lines::default();
            let writer = lines.clone();
            let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
            tracing::subscriber::with_default(subscriber, || {
                let info = RequestInfo { class, ..info("POST", "/infer?secret", Transport::Rest) };
                info.end(&Span::none(), &response("ok", "OK"));
            });
            String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
        };
        let line = logged(RouteClass::Inference);
        let fields = "blip_serve::access: request ended method=\"POST\" path=\"/infer\" status=200 grpc_status=4 \
            elapsed_ms=1.5 model=\"m\" outcome=\"ok\" reason=\"OK\"\n";
        assert!(line.ends_with(fields), "{line}");
        assert_eq!(logged(RouteClass::Public), "");
    }
}
