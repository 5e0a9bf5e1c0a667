//! `POST .../infer`: the template's request, and any other of the Open Inference Protocol in JSON.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};

use crate::{
    caption::{CaptionRequest, ImageSource},
    error::CaptionError,
    generation::GenerationParameters,
    server::{
        body,
        context::{Deadline, RequestContext},
        convert::{infer::Inference, oip::InferRequest},
        house::{House, cancelled_on_drop},
        json,
        rest::{ModelPath, answer},
        status::json_response,
    },
};

/// Where the binary tensor extension announces the length of the JSON part.
const BINARY_HEADER: &str = "inference-header-content-length";

/// Captions the images of one request. No content type is demanded: several clients send none.
pub(super) async fn infer(
    State(house): State<Arc<House>>,
    path: ModelPath,
    context: RequestContext,
    deadline: Deadline,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let result = async {
        let body = body::read(body, house.max_body_bytes).await?;
        check_encoding(&head.headers, &body)?;
        caption(&house, &path, deadline, &body).await
    };
    answer(&context, result.await)
}

async fn caption(house: &House, path: &ModelPath, deadline: Deadline, body: &[u8]) -> Result<Response, CaptionError> {
    let model = house.captioner.registry().resolve(path.model.as_deref(), path.version.as_deref())?.clone();
    let (cancelled, _guard) = cancelled_on_drop();
    let envelope = CaptionRequest {
        model: Some(model.name.clone()),
        version: Some(model.version.clone()),
        // Every request has its own picture; this one is never looked at.
        image: ImageSource::Bytes { bytes: Bytes::new(), field: "image" },
        prompt: None,
        parameters: GenerationParameters::default(),
        deadline: Some(deadline.0),
        cancelled,
    };
    let request = InferRequest::parse(json::parse(body)?)?;
    let (requests, form) = Inference::new(request, &envelope, house.limits)?.into_parts();
    let replies = house.caption_all(requests).await?;
    Ok(json_response(StatusCode::OK, &form.response(&model.name, &model.version, replies)))
}

fn check_encoding(headers: &HeaderMap, body: &[u8]) -> Result<(), CaptionError> {
    let encoding = headers.get(header::CONTENT_ENCODING).map_or(&b"identity"[..], |value| value.as_bytes());
    if !encoding.eq_ignore_ascii_case(b"identity") {
        return Err(CaptionError::UnsupportedMediaType("content-encoding: the body must be sent uncompressed"));
    }
    let json_length =
        headers.get(BINARY_HEADER).map(|value| value.to_str().ok().and_then(|text| text.parse::<usize>().ok()));
    match json_length {
        None => Ok(()),
        Some(Some(length)) if length == body.len() => Ok(()),
        Some(_) => Err(CaptionError::invalid(BINARY_HEADER, "binary tensors are not offered, send the data as JSON")),
    }
}
