//! Triton's generate extension: one image, plain fields instead of tensors; as one response or as server-sent events.

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
        protocol::caption_json::GenerateBody,
        rest::extract::{ModelPath, answer},
        state::AppState,
    },
};

/// The response of `generate`, or one event of `generate_stream`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct GenerateResponse {
    /// The request's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    id: Option<String>,
    /// Name of the model.
    model_name: String,
    /// Version of the model.
    model_version: String,
    /// The caption; in an event, the next piece of it.
    text_output: OneOrMany<String>,
    /// In the last event: the whole caption.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    caption: Option<OneOrMany<String>>,
    /// `eos` or `length`; not in the events before the last, as `score`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    finish_reason: Option<OneOrMany<String>>,
    /// See `/v1/captions`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    score: Option<OneOrMany<f32>>,
}

/// A server-sent event.
#[derive(ToSchema)]
#[expect(dead_code, reason = "events are written as text; this describes them")]
struct Event {
    /// The JSON of a `GenerateResponse`, or of an `Error`.
    #[schema(content_media_type = "application/json")]
    data: String,
}

/// A value, or a list if there is more than one caption.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

/// Captions one image.
#[utoipa::path(
    post, path = "generate", tag = "generate",
    request_body = GenerateBody,
    responses((status = 200, description = "The caption", body = GenerateResponse)),
)]
pub(super) async fn generate(
    State(state): State<Arc<AppState>>,
    path: ModelPath,
    context: RequestContext,
    deadline: Deadline,
    WholeBody(body): WholeBody,
) -> Response {
    let outcome = async {
        let call = Call::new(&state, &path, deadline, &body)?;
        if call.is_stream {
            return Err(CaptionError::invalid("stream", "must be false here: use generate_stream"));
        }
        let reply = state.caption(&context, &call.model, call.request).await?;
        Ok(json_response(StatusCode::OK, &GenerateResponse { caption: None, ..call.head.complete(&reply, false) }))
    };
    answer(&context, outcome.await)
}

/// Captions one image; events come as the text is decided.
#[utoipa::path(
    post, path = "generate_stream", tag = "generate",
    request_body = GenerateBody,
    responses((
        status = 200, content_type = "text/event-stream", body = Event,
        description = "Events `data: {...}`, each with a piece of the caption in `text_output`; the last has `caption` and \
            `finish_reason`. A failure after the first is an event with `error`.",
    )),
)]
pub(super) async fn generate_stream(
    State(state): State<Arc<AppState>>,
    path: ModelPath,
    context: RequestContext,
    deadline: Deadline,
    WholeBody(body): WholeBody,
) -> Response {
    let outcome = async {
        let call = Call::new(&state, &path, deadline, &body)?;
        let mut events = state.stream(&context, &call.model, call.request)?;
        // The first event decides the status.
        let first = events.next().await.transpose()?;
        let events = stream::iter(first.map(Ok)).chain(events);
        Ok(event_stream(call.head, events, context.clone()))
    };
    let outcome = outcome.await;
    answer(&context, outcome)
}

/// A request to `generate` or `generate_stream`.
struct Call {
    /// What is known of the response.
    head: GenerateResponse,
    is_stream: bool,
    model: Arc<ServedModel>,
    request: CaptionRequest,
}

impl Call {
    fn new(state: &AppState, path: &ModelPath, deadline: Deadline, body: &[u8]) -> Result<Self, CaptionError> {
        let model = path.resolve(state)?;
        let mut body = GenerateBody::from_json(body)?;
        Ok(Self {
            head: GenerateResponse::new(body.id.take(), &model),
            is_stream: body.stream == Some(true),
            request: body.into_request(model.name.clone(), state.limits, deadline)?,
            model,
        })
    }
}

fn event_stream(
    head: GenerateResponse,
    events: impl Stream<Item = Result<CaptionEvent, CaptionError>> + Send + 'static,
    context: RequestContext,
) -> Response {
    let mut has_pieces = false;
    let events = events.map(move |event| {
        let data = match event {
            Ok(CaptionEvent::Piece(piece)) => {
                has_pieces = true;
                to_json(&GenerateResponse { text_output: OneOrMany::One(piece), ..head.clone() })
            }
            Ok(CaptionEvent::Reply(reply)) => to_json(&head.clone().complete(&reply, has_pieces)),
            Err(error) => to_json(&context.error_body(&error)),
        };
        Ok::<_, Infallible>(Bytes::from([b"data: ", &data[..], b"\n\n"].concat()))
    });
    let mut response = Response::new(Body::from_stream(events));
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
        // Without this header nginx delays events until its buffer is full.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

impl GenerateResponse {
    fn new(id: Option<String>, model: &ServedModel) -> Self {
        Self {
            id,
            model_name: model.name.clone(),
            model_version: model.version.clone(),
            text_output: OneOrMany::Many(vec![]),
            caption: None,
            finish_reason: None,
            score: None,
        }
    }

    /// The last event; text that was sent in pieces is not repeated in `text_output`.
    fn complete(self, reply: &CaptionReply, has_pieces: bool) -> Self {
        let captions = &reply.captions;
        let caption: OneOrMany<_> = captions.iter().map(|caption| caption.text.clone()).collect();
        Self {
            text_output: if has_pieces { OneOrMany::One(String::new()) } else { caption.clone() },
            caption: Some(caption),
            finish_reason: Some(captions.iter().map(|caption| caption.finish_reason.as_str().to_owned()).collect()),
            score: Some(captions.iter().map(|caption| caption.score).collect()),
            ..self
        }
    }
}

impl<T> FromIterator<T> for OneOrMany<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        let mut values: Vec<T> = values.into_iter().collect();
        if values.len() == 1 { Self::One(values.remove(0)) } else { Self::Many(values) }
    }
}
