//! Compression: which request bodies are decompressed, and which responses are compressed.

use axum::{extract::Request, middleware::Next, response::Response};
use http::{Extensions, HeaderMap, HeaderValue, StatusCode, Version, header};

use crate::{
    error::CaptionError,
    server::middleware::{
        body::refuse,
        context::{RequestContext, Transport},
    },
};

/// Reduces `accept-encoding` to what the compression layer offers. A client that accepts nothing of it, and no plain
/// response either, gets a plain one all the same.
pub(crate) fn keep_known_encodings(mut request: Request) -> Request {
    let headers = request.headers_mut();
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let known = values.flat_map(|value| value.split(',')).map(str::trim);
    let known: Vec<&str> = known.filter(|one| one.starts_with("gzip") || one.starts_with("deflate")).collect();
    let known = HeaderValue::from_str(&known.join(", "));
    headers.remove(header::ACCEPT_ENCODING);
    if let Ok(known) = known {
        headers.insert(header::ACCEPT_ENCODING, known);
    }
    request
}

/// Refuses bodies in an encoding that the decompression layer lacks, and marks responses that may be compressed.
pub(crate) async fn negotiate(mut request: Request, next: Next) -> Response {
    let context = RequestContext::from_extensions(request.extensions());
    let Ok(encoding) = content_encoding(request.headers(), context.transport) else {
        let error = CaptionError::UnsupportedMediaType("content-encoding: must be gzip, deflate or identity");
        return refuse(request, &context, &error).await;
    };
    // Spelled as the decompression layer expects it, and hidden where it must not decompress.
    request.headers_mut().remove(header::CONTENT_ENCODING);
    if let Some(encoding) = encoding {
        request.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    if !context.route.compresses_response {
        request.headers_mut().remove("grpc-accept-encoding");
    }
    let mut response = next.run(request).await;
    if context.route.compresses_response && response.status() == StatusCode::OK {
        response.extensions_mut().insert(Compressible);
    }
    response
}

/// The encoding of a request body; none if it is plain.
fn content_encoding(headers: &HeaderMap, transport: Transport) -> Result<Option<&'static str>, UnknownEncoding> {
    let values = headers.get_all(header::CONTENT_ENCODING).iter();
    let encodings: Vec<_> = values.map(|value| value.as_bytes().to_ascii_lowercase()).collect();
    let encodings: Vec<&[u8]> = encodings.iter().map(Vec::as_slice).collect();
    match encodings[..] {
        [] | [b"" | b"identity"] => Ok(None),
        [b"gzip"] => Ok(Some("gzip")),
        [b"deflate"] => Ok(Some("deflate")),
        // gRPC compresses messages, not bodies.
        _ if transport == Transport::Grpc => Ok(None),
        _ => Err(UnknownEncoding),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct UnknownEncoding;

/// Marks a response that may be compressed. Errors are not: some clients accept compression but cannot undo it there.
#[derive(Clone, Copy, Debug)]
struct Compressible;

/// Whether the compression layer may compress a response.
pub(crate) fn is_compressible(_: StatusCode, _: Version, _: &HeaderMap, extensions: &Extensions) -> bool {
    extensions.get::<Compressible>().is_some()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::{body::Body, middleware::from_fn};
    use tower::{Layer, ServiceExt, service_fn};

    use super::*;

    fn headers(name: &header::HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn only_encodings_of_the_server_are_kept() {
        for (accepted, kept) in [
            (&["gzip"][..], "gzip"),
            (&["br, gzip;q=0.5 , deflate"], "gzip;q=0.5, deflate"),
            (&["br", "deflate"], "deflate"),
            (&["identity;q=0", "*;q=0"], ""),
            (&[], ""),
        ] {
            let mut request = Request::new(Body::empty());
            *request.headers_mut() = headers(&header::ACCEPT_ENCODING, accepted);
            let request = keep_known_encodings(request);
            let values: Vec<_> = request.headers().get_all(header::ACCEPT_ENCODING).iter().collect();
            assert_eq!(values, [kept], "{accepted:?}");
        }
    }

    #[test]
    fn a_body_is_plain_gzip_or_deflate() {
        for (values, encoding) in [
            (&[][..], Ok(None)),
            (&[""], Ok(None)),
            (&["Identity"], Ok(None)),
            (&["GZIP"], Ok(Some("gzip"))),
            (&["deflate"], Ok(Some("deflate"))),
            (&["br"], Err(UnknownEncoding)),
            (&["gzip", "gzip"], Err(UnknownEncoding)),
        ] {
            let headers = headers(&header::CONTENT_ENCODING, values);
            assert_eq!(content_encoding(&headers, Transport::Rest), encoding, "{values:?}");
            assert_eq!(content_encoding(&headers, Transport::Grpc), encoding.or(Ok(None)), "{values:?}");
        }
    }

    /// The response of a handler with this status, and the two headers of encodings that it received.
    async fn negotiated(request: http::request::Builder, status: u16) -> (Response, [Option<HeaderValue>; 2]) {
        let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let handler = service_fn(move |request: Request| {
            let sender = sender.clone();
            async move {
                let names = ["content-encoding", "grpc-accept-encoding"];
                sender.send(names.map(|name| request.headers().get(name).cloned())).unwrap();
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                Ok::<_, Infallible>(response)
            }
        });
        let mut request = request.method("POST").body(Body::empty()).unwrap();
        let context = RequestContext::for_request(&request);
        request.extensions_mut().insert(context);
        let response = from_fn(negotiate).layer(handler).oneshot(request).await.unwrap();
        (response, seen.try_recv().unwrap_or_default())
    }

    fn compresses(response: &Response) -> bool {
        is_compressible(response.status(), response.version(), response.headers(), response.extensions())
    }

    #[tokio::test]
    async fn successful_responses_of_some_routes_are_compressible() {
        let request = |path: &str| Request::builder().uri(path);
        assert!(compresses(&negotiated(request("/infer"), 200).await.0));
        assert!(!compresses(&negotiated(request("/infer"), 400).await.0));
        assert!(!compresses(&negotiated(request("/v2/repository/index"), 200).await.0));
    }

    #[tokio::test]
    async fn the_handler_sees_a_known_encoding_only() {
        let request = |encoding: &str| Request::builder().uri("/infer").header("content-encoding", encoding);
        let (_, [encoding, _]) = negotiated(request("GZip"), 200).await;
        assert_eq!(encoding.unwrap(), "gzip");
        let (_, [encoding, _]) = negotiated(request("identity"), 200).await;
        assert_eq!(encoding, None);
        let (response, _) = negotiated(request("br"), 200).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["accept-encoding"]),
            (415, &HeaderValue::from_static("gzip, deflate"))
        );
    }

    #[tokio::test]
    async fn a_stream_of_small_messages_is_not_compressed() {
        for (method, is_compressed) in [("Caption", true), ("StreamCaption", false), ("CaptionMany", false)] {
            let request = Request::builder().uri(format!("/blip.v1.CaptionService/{method}"));
            let request = request.header("content-type", "application/grpc").header("grpc-accept-encoding", "gzip");
            let (_, [_, accepted]) = negotiated(request, 200).await;
            assert_eq!(accepted.is_some(), is_compressed, "{method}");
        }
    }
}
