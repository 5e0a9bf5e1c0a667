//! The middleware stack: the one chain of layers that every request of both transports passes.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Router,
    body::Body,
    middleware::{from_fn, from_fn_with_state},
    response::Response,
};
use http::Request;
use tower::{ServiceBuilder, ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_http::{compression::CompressionLayer, decompression::RequestDecompressionLayer};

use crate::server::{
    grpc::tonic_errors::rewrite_refusals,
    middleware::{
        admission, auth, body, compression,
        context::{RequestContext, Transport},
        cors, deadline,
        layer_state::LayerState,
        request_log,
    },
    routes::RouteClass,
};

/// Everything that one port serves, behind the middleware.
pub(crate) type Application = BoxCloneSyncService<Request<Body>, Response, Infallible>;

/// The routers behind the middleware. Those of gRPC differ in the largest message that they read.
#[derive(Clone)]
pub(crate) struct Routers {
    pub(crate) rest: Router,
    pub(crate) grpc_inference: Router,
    pub(crate) grpc_metadata: Router,
}

impl Routers {
    fn select(&self, context: &RequestContext) -> Router {
        match (context.transport, context.route.class) {
            (Transport::Rest, _) => self.rest.clone(),
            (Transport::Grpc, RouteClass::Inference) => self.grpc_inference.clone(),
            (Transport::Grpc, _) => self.grpc_metadata.clone(),
        }
    }
}

/// Wraps the routers in the layers; a request passes them from top to bottom, its response from bottom to top.
pub(crate) fn middleware_stack(state: &Arc<LayerState>, routers: Routers) -> Application {
    let routers = service_fn(move |request: Request<Body>| {
        routers.select(&RequestContext::from_extensions(request.extensions())).oneshot(request)
    });
    let stack = ServiceBuilder::new()
        // Outermost, so that refusals of every other layer, and panics, have an id, are logged and are counted once.
        .layer(from_fn_with_state(state.metrics.clone(), request_log::record))
        // Before the compression layer, which would answer 406 to a client that accepts none of its encodings.
        .map_request(compression::keep_known_encodings)
        .map_response(|response: http::Response<_>| response.map(Body::new))
        // Around every layer that creates responses; it compresses those that `negotiate` marks.
        .layer(CompressionLayer::new().compress_when(compression::is_compressible))
        // Before authentication, as browsers send preflights without a key; adds its headers to refusals too.
        .option_layer(cors::layer(&state.cors_origins))
        // Before everything that takes memory or a permit: an unknown client gets neither.
        .layer(from_fn_with_state(state.clone(), auth::authenticate))
        // Before admission: a body that is announced too large does not take a permit while it is drained.
        .layer(from_fn_with_state(state.clone(), body::limit_body))
        // Around admission and all that runs with its permit, so that tonic's refusals get the form of all others.
        .layer(from_fn(rewrite_refusals))
        // Before the deadline: a request is admitted or refused at once and never waits here.
        .layer(from_fn_with_state(state.clone(), admission::admit))
        // Around the reading of the body, so that a slow upload counts against the deadline.
        .layer(from_fn_with_state(state.clone(), deadline::enforce))
        // Before decompression, which would pass an unknown encoding to the handler.
        .layer(from_fn(compression::negotiate))
        .map_response(|response: http::Response<_>| response.map(Body::new))
        .layer(RequestDecompressionLayer::new())
        .map_request(|request: Request<_>| request.map(Body::new))
        // Innermost, so that bytes are counted as the handler gets them, decompressed.
        .layer(from_fn_with_state(state.clone(), body::meter_body));
    BoxCloneSyncService::new(stack.service(routers))
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use axum::extract::FromRequest;
    use http_body_util::BodyExt;

    use super::*;
    use crate::{
        config::{Origin, limits::Limits},
        server::middleware::{body::WholeBody, deadline::Deadline},
    };

    fn routers(rest: Router) -> Routers {
        let grpc = |name: &'static str| Router::new().fallback(move || async move { name });
        Routers { rest, grpc_inference: grpc("inference"), grpc_metadata: grpc("metadata") }
    }

    /// A handler that reads its body and answers with it.
    fn echo() -> Router {
        Router::new().fallback(|_: Deadline, request: axum::extract::Request| async move {
            WholeBody::from_request(request, &()).await.map(|WholeBody(bytes)| bytes)
        })
    }

    fn stack(state: LayerState, rest: Router) -> Application {
        middleware_stack(&Arc::new(state), routers(rest))
    }

    fn state(limits: Limits, keys: &[&str]) -> LayerState {
        LayerState::for_test(limits, keys)
    }

    fn post(headers: &[(&str, &str)], body: impl Into<Body>) -> Request<Body> {
        let request = Request::builder().method("POST").uri("/infer");
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(body.into()).unwrap()
    }

    async fn text(response: Response) -> String {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().into()).unwrap()
    }

    #[tokio::test]
    async fn a_request_reaches_the_router_of_its_transport_and_class() {
        let stack = stack(state(Limits::defaults(), &[]), echo());
        assert_eq!(text(stack.clone().oneshot(post(&[], "x")).await.unwrap()).await, "x");
        for (path, router) in
            [("/blip.v1.CaptionService/Caption", "inference"), ("/grpc.health.v1.Health/Check", "metadata")]
        {
            let mut request = post(&[("content-type", "application/grpc")], "");
            *request.uri_mut() = path.parse().unwrap();
            assert_eq!(text(stack.clone().oneshot(request).await.unwrap()).await, router);
        }
    }

    #[tokio::test]
    async fn a_request_that_breaks_every_rule_is_refused_by_the_outermost() {
        let limits = Limits { max_body_bytes: 5, queue_capacity: 0, ..Limits::defaults() };
        let wrong = [("content-length", "6"), ("x-request-timeout-ms", "soon"), ("content-encoding", "br")];
        let status = async |state: LayerState, headers: &[(&str, &str)]| {
            let response = stack(state, Router::new()).oneshot(post(headers, "")).await.unwrap();
            assert!(response.headers().contains_key("x-request-id"));
            response.status().as_u16()
        };
        assert_eq!(status(state(limits, &["key"]), &wrong).await, 401);
        assert_eq!(status(state(limits, &[]), &wrong).await, 413);
        assert_eq!(status(state(limits, &[]), &wrong[1..]).await, 429);
        let limits = Limits { queue_capacity: 1, ..limits };
        assert_eq!(status(state(limits, &[]), &wrong[1..]).await, 400);
        assert_eq!(status(state(limits, &[]), &wrong[2..]).await, 415);
        assert_eq!(status(state(limits, &[]), &[]).await, 404);
    }

    #[tokio::test]
    async fn a_preflight_needs_no_key_and_a_refusal_has_the_headers_of_cors() {
        let cors = || LayerState { cors_origins: vec![Origin::Any], ..state(Limits::defaults(), &["key"]) };
        let mut preflight = post(&[("origin", "https://a.example"), ("access-control-request-method", "POST")], "");
        *preflight.method_mut() = http::Method::OPTIONS;
        let response = stack(cors(), echo()).oneshot(preflight).await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["access-control-allow-origin"]),
            (200, &"*".parse().unwrap())
        );
        let response = stack(cors(), echo()).oneshot(post(&[("origin", "https://a.example")], "")).await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["access-control-allow-origin"]),
            (401, &"*".parse().unwrap())
        );
    }

    #[tokio::test]
    async fn a_handler_that_waits_for_its_body_is_answered_at_the_deadline() {
        let open = || Body::from_stream(futures_util::stream::pending::<Result<bytes::Bytes, Infallible>>());
        let response = stack(state(Limits::defaults(), &[]), echo());
        let response = response.oneshot(post(&[("x-request-timeout-ms", "1")], open())).await.unwrap();
        assert_eq!(response.status(), 504);
        let hanging = Router::new().fallback(pending::<Response>);
        let response = stack(state(Limits::defaults(), &[]), hanging);
        assert_eq!(response.oneshot(post(&[("x-request-timeout-ms", "1")], "")).await.unwrap().status(), 504);
    }

    #[tokio::test]
    async fn a_response_is_compressed_on_request_and_an_error_is_not() {
        let stack = stack(state(Limits { max_body_bytes: 5000, ..Limits::defaults() }, &[]), echo());
        let call =
            async |body: String| stack.clone().oneshot(post(&[("accept-encoding", "br, gzip")], body)).await.unwrap();
        assert_eq!(call("x".repeat(5000)).await.headers()["content-encoding"], "gzip");
        let refused = call("x".repeat(5001)).await;
        assert_eq!((refused.status().as_u16(), refused.headers().get("content-encoding")), (413, None));
        let plain =
            stack.clone().oneshot(post(&[("accept-encoding", "br, identity;q=0")], "x".repeat(5000))).await.unwrap();
        assert_eq!((plain.status().as_u16(), plain.headers().get("content-encoding")), (200, None));
    }

    #[tokio::test]
    async fn a_compressed_body_counts_as_large_as_it_is_decompressed() {
        let limits = Limits { max_body_bytes: 1000, max_inflight_bytes: 500, ..Limits::defaults() };
        let compressed = |bytes: usize| {
            use std::io::Write;
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(&vec![b'x'; bytes]).unwrap();
            post(&[("content-encoding", "gzip")], encoder.finish().unwrap())
        };
        let stack = stack(state(limits, &[]), echo());
        assert_eq!(text(stack.clone().oneshot(compressed(500)).await.unwrap()).await, "x".repeat(500));
        assert_eq!(stack.clone().oneshot(compressed(501)).await.unwrap().status(), 429);
    }
}
