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

/// Calls whose answers are a few bytes each: compressed they would be longer.
const TALKATIVE: [&str; 3] = [
    "/blip.v1.CaptionService/StreamCaption",
    "/blip.v1.CaptionService/CaptionMany",
    "/inference.GRPCInferenceService/ModelStreamInfer",
];

/// Refuses bodies in an encoding that the next layer does not undo.
pub(crate) async fn check_encoding(mut request: Request, next: Next) -> Response {
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
    if TALKATIVE.contains(&request.uri().path()) {
        request.headers_mut().remove("grpc-accept-encoding");
    }
    // Written as the next layer expects it; what it must not touch, it does not see.
    request.headers_mut().remove(header::CONTENT_ENCODING);
    if let Some(known) = known {
        request.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static(known));
    }
    next.run(request).await
}

/// Marks the answers that a client may get compressed: captions. Real clients ask for compression and cannot undo it on
/// errors and descriptions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compressible;

/// What the layer of compressed answers asks.
pub(crate) fn is_worth_compressing(_: StatusCode, _: Version, _: &HeaderMap, extensions: &Extensions) -> bool {
    extensions.get::<Compressible>().is_some()
}
