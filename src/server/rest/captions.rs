//! `POST /v1/captions`: one image, as JSON or as a form with a file.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{FromRequest, Multipart, Request, State},
    response::Response,
};
use bytes::Bytes;
use http::{StatusCode, header, request::Parts};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    caption::{Caption, CaptionReply},
    error::CaptionError,
    server::{
        error_response::json_response,
        middleware::{body::WholeBody, context::RequestContext, deadline::Deadline},
        protocol::caption_json::{CaptionBody, CaptionForm, FormParts},
        rest::extract::answer,
        state::AppState,
    },
};

/// The captions of one image.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CaptionResponse {
    /// The request's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    id: Option<String>,
    /// Name of the model.
    model: String,
    /// Version of the model.
    model_version: String,
    /// `num_return_sequences` captions, best first with beams.
    captions: Vec<ReturnedCaption>,
}

/// One caption.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Caption)]
struct ReturnedCaption {
    /// The text, prompt included.
    text: String,
    /// Start token, prompt, generated ids, and the end token if it was generated.
    token_ids: Vec<u32>,
    /// Beams: the score of the sequence; else the sum of the log-probabilities / n ^ length_penalty.
    score: f32,
    /// `eos` or `length`.
    #[schema(pattern = "^(eos|length)$")]
    finish_reason: &'static str,
}

/// Captions one image.
#[utoipa::path(
    post, path = "captions", tag = "captions",
    request_body(content((CaptionBody = "application/json"), (CaptionForm = "multipart/form-data"))),
    responses((status = 200, description = "The captions", body = CaptionResponse)),
)]
pub(super) async fn captions(
    State(state): State<Arc<AppState>>,
    context: RequestContext,
    deadline: Deadline,
    head: Parts,
    WholeBody(body): WholeBody,
) -> Response {
    let outcome = async {
        let (id, request) = if is_form(&head) {
            let mut form = form(head, body).await?;
            (form.id.take(), form.into_request(state.limits, deadline)?)
        } else {
            let mut body = CaptionBody::from_json(&body)?;
            (body.id.take(), body.into_request(state.limits, deadline)?)
        };
        let model = state.resolve(&request)?;
        Ok(json_response(StatusCode::OK, &CaptionResponse::new(id, state.caption(&context, &model, request).await?)))
    };
    answer(&context, outcome.await)
}

impl CaptionResponse {
    fn new(id: Option<String>, reply: CaptionReply) -> Self {
        let caption = |caption: Caption| ReturnedCaption {
            text: caption.text,
            token_ids: caption.token_ids,
            score: caption.score,
            finish_reason: caption.finish_reason.as_str(),
        };
        let captions = reply.captions.into_iter().map(caption).collect();
        Self { id, model: reply.model, model_version: reply.model_version, captions }
    }
}

fn is_form(head: &Parts) -> bool {
    let content_type = head.headers.get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let prefix = b"multipart/form-data";
    content_type.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Reads a form, whose `image` is a file.
pub(in crate::server) async fn form(head: Parts, body: Bytes) -> Result<CaptionForm, CaptionError> {
    let malformed = || CaptionError::invalid("body", "is not a valid multipart form of its content-type");
    let request = Request::from_parts(head, Body::from(body));
    let mut form = Multipart::from_request(request, &()).await.map_err(|_| malformed())?;
    let mut parts = FormParts::default();
    while let Some(part) = form.next_field().await.map_err(|_| malformed())? {
        let Some(name) = part.name().filter(|name| !name.is_empty()).map(str::to_owned) else {
            return Err(CaptionError::invalid("body", "has a field without a name"));
        };
        parts.add(&name, part.bytes().await.map_err(|_| malformed())?)?;
    }
    parts.into_form()
}
