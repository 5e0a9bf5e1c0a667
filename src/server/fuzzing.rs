//! Entry points for `fuzz/` to the parsers of requests: from bytes to the request for the captioner, or to the refusal.
//! Compiled by `make fuzz` only.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderValue, Request, header};
use prost::Message;

use crate::{
    caption::{CaptionRequest, ImageSource},
    error::CaptionError,
    fetch::decode_base64,
    server::{
        middleware::{
            context::{BINARY_HEADER, RequestContext},
            deadline::Deadline,
        },
        protocol::{
            ContentLimits, blip_v1,
            caption_json::{CaptionBody, GenerateBody},
            image,
            open_inference::{infer::CaptionBatch, request::InferRequest},
            pb::{blip, inference::ModelInferRequest},
        },
        rest,
    },
};

/// Largest image, in bytes: small, so that inputs exceed it.
pub const MAX_IMAGE_BYTES: usize = 2048;

const LIMITS: ContentLimits =
    ContentLimits { max_image_bytes: MAX_IMAGE_BYTES, max_images: 32, max_prompt_bytes: 16_384 };

/// A request of the Open Inference Protocol over REST, with the length of its JSON part in `header`.
pub fn infer(header: Option<&[u8]>, body: Bytes) -> Result<Vec<CaptionRequest>, CaptionError> {
    let header = header.and_then(|value| HeaderValue::from_bytes(value).ok());
    let headers = header.map(|value| (BINARY_HEADER, value)).into_iter().collect();
    batch(rest::infer::parse(&headers, body)?)
}

/// The same over gRPC; `None` if the bytes are not a message.
pub fn model_infer(message: Bytes) -> Option<Result<Vec<CaptionRequest>, CaptionError>> {
    let message = ModelInferRequest::decode(message).ok()?;
    Some(InferRequest::from_message(message).and_then(batch))
}

/// A request of `blip.v1`; `None` if the bytes are not a message.
pub fn caption(message: Bytes) -> Option<Result<CaptionRequest, CaptionError>> {
    let message = blip::CaptionRequest::decode(message).ok()?;
    Some(blip_v1::caption_request(message, LIMITS, deadline()))
}

/// The JSON of `/v1/captions`.
pub fn captions(body: &[u8]) -> Result<CaptionRequest, CaptionError> {
    CaptionBody::from_json(body)?.into_request(LIMITS, deadline())
}

/// A form to `/v1/captions`.
pub fn captions_form(boundary: &str, body: Bytes) -> Result<CaptionRequest, CaptionError> {
    let request =
        Request::builder().header(header::CONTENT_TYPE, format!("multipart/form-data; boundary={boundary}")).body(());
    let (head, ()) = request.map_err(|_| CaptionError::invalid("boundary", "cannot be in a header"))?.into_parts();
    // The whole body is in memory, so the future is ready at once.
    let form = rest::captions::form(head, body).now_or_never();
    let form = form.ok_or_else(|| CaptionError::internal("reading a form in memory is pending"))??;
    form.into_request(LIMITS, deadline())
}

/// The JSON of `generate`.
pub fn generate(body: &[u8]) -> Result<CaptionRequest, CaptionError> {
    GenerateBody::from_json(body)?.into_request("scenes".to_owned(), LIMITS, deadline())
}

/// The URL of an image.
pub fn image_url(text: &str) -> Result<ImageSource, CaptionError> {
    image::from_url(text, LIMITS)
}

/// Base64 as clients write it.
pub fn base64(text: &[u8]) -> Option<Bytes> {
    decode_base64(text)
}

/// HTTP status and text of a refusal over REST; it is also written for gRPC, which must not panic.
pub fn refusal(error: &CaptionError) -> (u16, String) {
    let [rest, grpc] = ["application/json", "application/grpc"].map(|content_type| {
        let mut request = Request::new(());
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        RequestContext::for_request(&request)
    });
    drop(grpc.response(error));
    (rest.response(error).status().as_u16(), rest.body(error).error)
}

fn batch(request: InferRequest) -> Result<Vec<CaptionRequest>, CaptionError> {
    Ok(CaptionBatch::new(request, "scenes", deadline(), LIMITS)?.requests)
}

fn deadline() -> Deadline {
    Deadline::new(None, Duration::ZERO, 0)
}
