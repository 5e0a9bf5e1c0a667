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
        protocol::{
            caption_json::{Fields, Route},
            echo, json,
            open_inference::request::MAX_ENTRIES,
        },
        rest::{answer, schema},
        state::AppState,
    },
};

/// The captions of one image.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CaptionResponse {
    /// As it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    id: Option<String>,
    /// The model that answered.
    model: String,
    /// Its version.
    model_version: String,
    /// `num_return_sequences` captions, best first with beams.
    captions: Vec<CaptionBody>,
}

/// One caption.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Caption)]
struct CaptionBody {
    /// Prompt included.
    text: String,
    /// Start token, prompt, generated ids, end token if it came.
    token_ids: Vec<u32>,
    /// Beams: the score of the sequence; else the sum of the log-probabilities / n ^ length_penalty.
    score: f32,
    /// `eos` or `length`.
    #[schema(pattern = "^(eos|length)$")]
    finish_reason: &'static str,
}

/// Captions one image.
#[utoipa::path(
    post, path = "/v1/captions", tag = "captions",
    request_body(content((schema::CaptionRequest = "application/json"), (schema::CaptionForm = "multipart/form-data"))),
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
        let is_form = is_form(&head);
        let mut fields = if is_form { form(head, body).await? } else { Fields::from_json(json::parse(&body)?)? };
        let (id, model) = (fields.take_id()?, fields.take_text("model")?);
        let route = Route { prompt: "prompt", flat_parameters: is_form };
        let request = fields.into_request(route, model, state.limits, deadline)?;
        let model = state.resolve(&request)?;
        Ok(json_response(StatusCode::OK, &CaptionResponse::new(id, state.caption(&context, &model, request).await?)))
    };
    answer(&context, outcome.await)
}

impl CaptionResponse {
    fn new(id: Option<String>, reply: CaptionReply) -> Self {
        let caption = |caption: Caption| CaptionBody {
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

/// Reads a form; `image` is a file, everything else is text.
pub(in crate::server) async fn form(head: Parts, body: Bytes) -> Result<Fields, CaptionError> {
    let malformed = || CaptionError::invalid("body", "is no multipart form as its content-type announces it");
    let request = Request::from_parts(head, Body::from(body));
    let mut form = Multipart::from_request(request, &()).await.map_err(|_| malformed())?;
    let mut fields = Fields::default();
    let mut count = 0;
    while let Some(field) = form.next_field().await.map_err(|_| malformed())? {
        count += 1;
        if count > MAX_ENTRIES {
            return Err(CaptionError::invalid("body", format!("has more than {MAX_ENTRIES} fields")));
        }
        let Some(name) = field.name().filter(|name| !name.is_empty()).map(str::to_owned) else {
            return Err(CaptionError::invalid("body", "has a field without a name"));
        };
        let bytes = field.bytes().await.map_err(|_| malformed())?;
        if name == "image" {
            fields.add_file(bytes)?;
            continue;
        }
        let text = String::from_utf8(bytes.into());
        let text =
            text.map_err(|_| CaptionError::invalid(echo(&name), "is not UTF-8; a file goes into the field image"))?;
        if name == "parameters" {
            fields.add_parameters(
                json::parse(text.as_bytes()).map_err(|error| CaptionError::invalid("parameters", error.to_string()))?,
            )?;
        } else {
            fields.add_text(&name, text)?;
        }
    }
    Ok(fields)
}
