//! Compressed bodies: which are read, and which answers are written so.

use axum::{extract::Request, middleware::Next, response::Response};
use http::{Extensions, HeaderMap, HeaderValue, StatusCode, Version, header};

use crate::{
    error::CaptionError,
    server::middleware::{
        body::refuse,
        context::{RequestContext, Transport},
    },
};

/// Leaves of `accept-encoding` what the layer of compressed answers is to know: one that refuses plain answers gets one
/// all the same.
pub(crate) fn keep_known_encodings(headers: &mut HeaderMap) {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let known = values.flat_map(|value| value.split(',')).map(str::trim);
    let known: Vec<&str> = known.filter(|one| one.starts_with("gzip") || one.starts_with("deflate")).collect();
    let known = HeaderValue::from_str(&known.join(", "));
    headers.remove(header::ACCEPT_ENCODING);
    if let Ok(known) = known {
        headers.insert(header::ACCEPT_ENCODING, known);
    }
}

/// Refuses bodies in an encoding that the next layer does not undo, and settles whether the response is compressed.
pub(crate) async fn negotiate(mut request: Request, next: Next) -> Response {
    let context = RequestContext::from_extensions(request.extensions());
    let encodings: Vec<_> =
        request.headers().get_all(header::CONTENT_ENCODING).iter().map(|v| v.as_bytes().to_ascii_lowercase()).collect();
    let encodings: Vec<&[u8]> = encodings.iter().map(Vec::as_slice).collect();
    let known = match encodings[..] {
        [] | [b"" | b"identity"] => None,
        [b"gzip"] => Some("gzip"),
        [b"deflate"] => Some("deflate"),
        _ if context.transport == Transport::Grpc => None,
        _ => {
            let error = CaptionError::UnsupportedMediaType("content-encoding: must be gzip, deflate or identity");
            return refuse(request, &context, &error).await;
        }
    };
    if !context.route.compresses_response {
        request.headers_mut().remove("grpc-accept-encoding");
    }
    // Written as the next layer expects it; what it must not touch, it does not see.
    request.headers_mut().remove(header::CONTENT_ENCODING);
    if let Some(known) = known {
        request.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static(known));
    }
    let mut response = next.run(request).await;
    if context.route.compresses_response && response.status() == StatusCode::OK {
        response.extensions_mut().insert(Compressible);
    }
    response
}

/// Marks the responses that may be compressed. Real clients accept compression and cannot undo it on errors.
#[derive(Clone, Copy, Debug)]
struct Compressible;

/// Whether the compression layer may compress a response.
pub(crate) fn is_worth_compressing(_: StatusCode, _: Version, _: &HeaderMap, extensions: &Extensions) -> bool {
    extensions.get::<Compressible>().is_some()
}
