//! Triton's generate extension: one image, plain fields instead of tensors; all at once or as server-sent events.

use std::{convert::Infallible, sync::Arc};

use axum::{body::Body, extract::State, response::Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    caption::{CaptionEvent, CaptionReply, CaptionRequest},
    error::CaptionError,
    registry::ServedModel,
    server::{
        error_response::{json_response, to_json},
        middleware::{body::WholeBody, context::RequestContext, deadline::Deadline},
        protocol::{
            caption_json::{Fields, Route},
            json,
        },
        rest::{ModelPath, answer, schema},
        state::AppState,
    },
};

const ROUTE: Route = Route { prompt: "text_input", flat_parameters: true };

/// One answer of `generate`, or one event of `generate_stream`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct GenerateResponse {
    /// As it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    id: Option<String>,
    /// The model that answered.
    model_name: String,
    /// Its version.
    model_version: String,
    /// The caption; in an event, the next piece of it.
    text_output: Several<String>,
    /// In the last event: the whole caption.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    caption: Option<Several<String>>,
    /// `eos` or `length`; not in the events before the last, as `score`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    finish_reason: Option<Several<String>>,
    /// See `/v1/captions`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    score: Option<Several<f32>>,
}

/// A value, or a list of them if there are `num_return_sequences` captions.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum Several<T> {
    One(T),
    Many(Vec<T>),
}

/// Captions one image.
#[utoipa::path(
    post, path = "/v2/models/{model}/generate", tag = "generate",
    params(("model" = String, Path, description = "Name or alias")),
    request_body = schema::GenerateRequest,
    responses((status = 200, description = "The caption", body = GenerateResponse)),
)]
pub(super) async fn generate(
    State(state): State<Arc<AppState>>,
    path: ModelPath,
    context: RequestContext,
    deadline: Deadline,
    body: WholeBody,
) -> Response {
    let outcome = async {
        let (head, streams, (model, request)) = read(&state, &path, deadline, &body)?;
        if streams == Some(true) {
            return Err(CaptionError::invalid("stream", "must be false here: post to generate_stream"));
        }
        let reply = state.caption(&context, &model, request).await?;
        Ok(json_response(StatusCode::OK, &GenerateResponse { caption: None, ..head.end(&reply, false) }))
    };
    answer(&context, outcome.await)
}

/// Captions one image; events come as the text is decided.
#[utoipa::path(
    post, path = "/v2/models/{model}/generate_stream", tag = "generate",
    params(("model" = String, Path, description = "Name or alias")),
    request_body = schema::GenerateRequest,
    responses((
        status = 200, content_type = "text/event-stream", body = schema::Event,
        description = "Events `data: {...}`, each with a piece of the caption in `text_output`; the last has `caption` and \
            `finish_reason`. A failure after the first is an event with `error`.",
    )),
)]
pub(super) async fn generate_stream(
    State(state): State<Arc<AppState>>,
    path: ModelPath,
    context: RequestContext,
    deadline: Deadline,
    body: WholeBody,
) -> Response {
    let outcome = async {
        let (head, _, (model, request)) = read(&state, &path, deadline, &body)?;
        let mut events = state.stream(&context, &model, request)?;
        // The status is decided by what comes first.
        let first = events.next().await.transpose()?;
        let events = stream::iter(first.map(Ok)).chain(events);
        Ok(event_stream(head, events, context.clone()))
    };
    let outcome = outcome.await;
    answer(&context, outcome)
}

/// The part of the answer that is known, whether `stream` was asked for, and the request itself.
fn read(
    state: &AppState,
    path: &ModelPath,
    deadline: Deadline,
    WholeBody(body): &WholeBody,
) -> Result<(GenerateResponse, Option<bool>, (Arc<ServedModel>, CaptionRequest)), CaptionError> {
    let model = path.resolve(state)?;
    let mut fields = Fields::from_json(json::parse(body)?)?;
    let (id, streams) = (fields.take_id()?, fields.take_flag("stream")?);
    let request = fields.into_request(ROUTE, Some(model.name.clone()), state.limits, deadline)?;
    Ok((GenerateResponse::empty(id, &model), streams, (model, request)))
}

fn event_stream(
    head: GenerateResponse,
    events: impl Stream<Item = Result<CaptionEvent, CaptionError>> + Send + 'static,
    context: RequestContext,
) -> Response {
    let mut told = false;
    let events = events.map(move |event| {
        let data = match event {
            Ok(CaptionEvent::Piece(piece)) => {
                told = true;
                to_json(&GenerateResponse { text_output: Several::One(piece), ..head.clone() })
            }
            Ok(CaptionEvent::Reply(reply)) => to_json(&head.clone().end(&reply, told)),
            Err(error) => to_json(&context.error_body(&error)),
        };
        Ok::<_, Infallible>(Bytes::from([b"data: ", &data[..], b"\n\n"].concat()))
    });
    let mut response = Response::new(Body::from_stream(events));
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
        // nginx would keep the events until its buffer is full.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

impl GenerateResponse {
    fn empty(id: Option<String>, model: &ServedModel) -> Self {
        Self {
            id,
            model_name: model.name.clone(),
            model_version: model.version.clone(),
            text_output: Several::Many(vec![]),
            caption: None,
            finish_reason: None,
            score: None,
        }
    }

    /// The last event; what was `told` is not repeated as a piece.
    fn end(self, reply: &CaptionReply, told: bool) -> Self {
        let caption = Several::of(reply.captions.iter().map(|caption| caption.text.clone()));
        Self {
            text_output: if told { Several::One(String::new()) } else { caption.clone() },
            caption: Some(caption),
            finish_reason: Some(Several::of(
                reply.captions.iter().map(|caption| caption.finish_reason.as_str().to_owned()),
            )),
            score: Some(Several::of(reply.captions.iter().map(|caption| caption.score))),
            ..self
        }
    }
}

impl<T> Several<T> {
    fn of(values: impl Iterator<Item = T>) -> Self {
        let mut values: Vec<T> = values.collect();
        match values.pop() {
            Some(one) if values.is_empty() => Self::One(one),
            last => {
                values.extend(last);
                Self::Many(values)
            }
        }
    }
}
