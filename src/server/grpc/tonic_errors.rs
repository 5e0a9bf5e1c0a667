//! Rewrites tonic's own refusals to the form and the texts of this server.

use axum::{body::Body, extract::Request, middleware::Next, response::Response};
use http::HeaderValue;
use tonic::{Code, Status};

use crate::{
    error::CaptionError,
    server::{
        error_response::shorten,
        middleware::{
            body::BodyLimit,
            context::{RequestContext, Transport},
        },
    },
};

/// Longest name of a method that an error repeats, in bytes.
const MAX_METHOD_BYTES: usize = 128;

/// Answers a gRPC request that tonic refuses as this server refuses requests: with details, a log line and a count.
pub(crate) async fn rewrite_refusals(request: Request, next: Next) -> Response {
    let context = RequestContext::from_extensions(request.extensions());
    if context.transport == Transport::Rest {
        return next.run(request).await;
    }
    let method = request.uri().path().trim_start_matches('/').to_owned();
    let limit = request.extensions().get::<BodyLimit>().map_or(0, |BodyLimit(limit)| *limit as u64);
    let response = next.run(request).await;
    match tonic_refusal(&response) {
        Some(Code::OutOfRange | Code::ResourceExhausted) => context.response(&CaptionError::BodyTooLarge { limit }),
        Some(Code::Internal | Code::Unknown) => {
            context.response(&CaptionError::invalid("message", "is not a valid gRPC message of this method"))
        }
        Some(Code::Unimplemented) if response.headers().contains_key("grpc-accept-encoding") => {
            let mut refusal = context.response(&CaptionError::Unimplemented("this grpc-encoding".to_owned()));
            refusal.headers_mut().insert("grpc-accept-encoding", HeaderValue::from_static("gzip,deflate,identity"));
            refusal
        }
        Some(Code::Unimplemented) => context.response(&CaptionError::Unimplemented(shorten(&method, MAX_METHOD_BYTES))),
        _ => response,
    }
}

/// The code of a refusal by tonic itself: those of this server carry details.
fn tonic_refusal(response: &Response<Body>) -> Option<Code> {
    if response.headers().contains_key("grpc-status-details-bin") {
        return None;
    }
    Status::from_header_map(response.headers()).map(|status| status.code())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::middleware::from_fn;
    use tonic_types::StatusExt;
    use tower::{Layer, ServiceExt, service_fn};

    use super::*;

    type Handler = fn(&RequestContext) -> Response;

    /// What a client of a method gets when its handler answers with this response.
    async fn rewritten(content_type: &str, response: Handler) -> Response {
        let handler = service_fn(move |request: Request| async move {
            Ok::<_, Infallible>(response(&RequestContext::from_extensions(request.extensions())))
        });
        let request = Request::builder().uri("/a.B/C").header("content-type", content_type);
        let mut request = request.body(Body::empty()).unwrap();
        let context = RequestContext::for_request(&request);
        request.extensions_mut().insert(context);
        request.extensions_mut().insert(BodyLimit(1000));
        from_fn(rewrite_refusals).layer(handler).oneshot(request).await.unwrap()
    }

    async fn status(response: Handler) -> Status {
        Status::from_header_map(rewritten("application/grpc", response).await.headers()).unwrap()
    }

    fn refusal(code: Code) -> Response {
        Status::new(code, "text of tonic").into_http()
    }

    #[tokio::test]
    async fn refusals_of_tonic_get_the_details_and_texts_of_this_server() {
        let cases: [(Handler, Code, &str); 5] = [
            (|_| refusal(Code::OutOfRange), Code::ResourceExhausted, "request body is larger than 1000 bytes"),
            (|_| refusal(Code::ResourceExhausted), Code::ResourceExhausted, "request body is larger than 1000 bytes"),
            (|_| refusal(Code::Internal), Code::InvalidArgument, "message: is not a valid gRPC message of this method"),
            (|_| refusal(Code::Unknown), Code::InvalidArgument, "message: is not a valid gRPC message of this method"),
            (|_| refusal(Code::Unimplemented), Code::Unimplemented, "a.B/C is not implemented"),
        ];
        for (response, code, message) in cases {
            let status = status(response).await;
            assert_eq!((status.code(), status.message()), (code, message));
            assert!(status.get_error_details().request_info().is_some());
        }
    }

    #[tokio::test]
    async fn an_unknown_compression_is_answered_with_the_known_ones() {
        let response = rewritten("application/grpc", |_| {
            let mut response = refusal(Code::Unimplemented);
            response.headers_mut().insert("grpc-accept-encoding", HeaderValue::from_static("gzip"));
            response
        });
        let response = response.await;
        assert_eq!(response.headers()["grpc-accept-encoding"], "gzip,deflate,identity");
        let status = Status::from_header_map(response.headers()).unwrap();
        assert_eq!(status.message(), "this grpc-encoding is not implemented");
    }

    #[tokio::test]
    async fn every_other_response_passes_unchanged() {
        let own = status(|context| context.response(&CaptionError::internal("x"))).await;
        assert_eq!((own.code(), own.message()), (Code::Internal, "internal error"));
        assert_eq!(status(|_| refusal(Code::NotFound)).await.message(), "text of tonic");
        let rest = rewritten("application/json", |_| refusal(Code::Internal)).await;
        assert_eq!(Status::from_header_map(rest.headers()).unwrap().message(), "text of tonic");
        let success = rewritten("application/grpc", |_| Response::new(Body::from("x"))).await;
        assert!(Status::from_header_map(success.headers()).is_none());
    }
}
