//! Admission: an inference request runs with one of `queue_capacity` permits, or is refused at once.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use futures_util::{FutureExt, StreamExt};
use http_body_util::{BodyStream, StreamBody};
use tokio::sync::watch;

use crate::server::{
    health::Phase,
    middleware::{
        auth::caller_number,
        body::refuse,
        capacity::{GuardedBody, QUEUE_FULL},
        context::RequestContext,
        layer_state::LayerState,
    },
    routes::RouteClass,
};

/// Takes a permit for an inference request and keeps it until the response is sent; refuses the request if none is left.
pub(crate) async fn admit(State(state): State<Arc<LayerState>>, request: Request, next: Next) -> Response {
    let context = RequestContext::from_extensions(request.extensions());
    if context.route.class != RouteClass::Inference {
        let is_stream = context.route.streams_requests;
        let request = if is_stream { request.map(|body| until_draining(body, state.phase.clone())) } else { request };
        return next.run(request).await;
    }
    let share = state.api_keys.borrow().has_several();
    match state.concurrency.try_acquire(caller_number(&request), share) {
        Some(permit) => next.run(request).await.map(|body| Body::new(GuardedBody::new(body, permit))),
        None => refuse(request, &context, &QUEUE_FULL).await,
    }
}

/// Ends a stream of requests without a permit when the server drains: its service would wait for the next one.
fn until_draining(body: Body, mut phase: watch::Receiver<Phase>) -> Body {
    let end = async move {
        phase.wait_for(|phase| *phase == Phase::Draining).await.ok();
    };
    Body::new(StreamBody::new(BodyStream::new(body).take_until(end.boxed())))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::middleware::from_fn_with_state;
    use bytes::Bytes;
    use futures_util::stream;
    use tower::{Layer, ServiceExt, service_fn};

    use super::*;
    use crate::{config::limits::Limits, server::middleware::body};

    fn state(capacity: u32) -> LayerState {
        LayerState::for_test(Limits { queue_capacity: capacity, ..Limits::defaults() }, &[])
    }

    fn request(method: &str, path: &str, content_type: &str, body: Body) -> Request {
        let request = Request::builder().method(method).uri(path).header("content-type", content_type);
        let mut request = request.body(body).unwrap();
        let context = RequestContext::for_request(&request);
        request.extensions_mut().insert(context);
        request
    }

    /// The response of a handler that answers with the body of its request.
    async fn call(state: &Arc<LayerState>, request: Request) -> Response {
        let echo = service_fn(|request: Request| async { Ok::<_, Infallible>(Response::new(request.into_body())) });
        from_fn_with_state(state.clone(), admit).layer(echo).oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn an_inference_request_keeps_its_permit_until_its_response_is_sent() {
        let state = Arc::new(state(1));
        let infer = || request("POST", "/infer", "application/json", Body::from("x"));
        let first = call(&state, infer()).await;
        assert_eq!(first.status(), 200);
        let refused = call(&state, infer()).await;
        assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().unwrap()), (429, "1"));
        let text = body::read(refused.into_body(), 1000).await.unwrap();
        assert!(text.starts_with(br#"{"error":"the server is at its capacity (queue_capacity)"#), "{text:?}");
        drop(first);
        assert_eq!(call(&state, infer()).await.status(), 200);
    }

    #[tokio::test]
    async fn a_request_without_inference_needs_no_permit() {
        let state = Arc::new(state(0));
        for (method, path) in [("GET", "/v2"), ("GET", "/v2/health/live"), ("POST", "/v2/repository/models/m/load")] {
            assert_eq!(call(&state, request(method, path, "application/json", Body::empty())).await.status(), 200);
        }
        assert_eq!(call(&state, request("POST", "/infer", "application/json", Body::empty())).await.status(), 429);
    }

    #[tokio::test]
    async fn a_stream_of_metadata_requests_ends_when_the_server_drains() {
        let (sender, phase) = watch::channel(Phase::Serving);
        let state = Arc::new(LayerState { phase, ..state(1) });
        let open = || Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
        let mut streaming = call(&state, request("POST", reflection, "application/grpc", open())).await.into_body();
        let mut unary = call(&state, request("GET", "/v2", "application/json", open())).await.into_body();
        let mut next = body_frame(&mut streaming);
        assert!(next.as_mut().now_or_never().is_none());
        sender.send_replace(Phase::Terminating);
        assert!(next.as_mut().now_or_never().is_none());
        sender.send_replace(Phase::Draining);
        assert!(next.await.is_none());
        assert!(body_frame(&mut unary).now_or_never().is_none());
    }

    fn body_frame(body: &mut Body) -> futures_util::future::BoxFuture<'_, Option<()>> {
        use http_body_util::BodyExt;
        async { body.frame().await.map(drop) }.boxed()
    }
}
