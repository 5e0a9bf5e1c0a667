//! An Open Inference request from its form to its answer: the same for both transports.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::{
    caption::{CaptionEvent, CaptionRequest, ImageSource},
    error::CaptionError,
    registry::ServedModel,
    server::{
        middleware::{context::RequestContext, deadline::Deadline},
        protocol::open_inference::{
            infer::{Inference, gather},
            request::InferRequest,
            response::{Answer, AnswerForm},
        },
        state::AppState,
    },
};
use generation::GenerationParameters;

/// Images of one call that are worked on at the same time; the rest wait, so that one cannot fill the state.
pub(crate) const IMAGES_AT_ONCE: usize = 8;

/// Captions the images of one request, `at_once` at a time; an error names those that failed.
pub(crate) async fn infer(
    state: &AppState,
    context: &RequestContext,
    model: &ServedModel,
    deadline: Deadline,
    (request, at_once): (InferRequest, usize),
) -> Result<Answer, CaptionError> {
    let (requests, form) = Inference::new(request, &envelope(model, deadline), state.limits)?.into_parts();
    let replies = gather(state.caption_all(context, model, requests, at_once).await?.into_iter())?;
    Ok(form.answer(model, replies))
}

/// Captions the one image of a request; events come as the text is decided.
pub(crate) fn stream(
    state: &AppState,
    context: &RequestContext,
    model: &Arc<ServedModel>,
    deadline: Deadline,
    request: InferRequest,
) -> Result<(BoxStream<'static, Result<CaptionEvent, CaptionError>>, AnswerForm), CaptionError> {
    let (mut requests, form) = Inference::new(request, &envelope(model, deadline), state.limits)?.into_parts();
    match (requests.pop(), requests.len()) {
        (Some(request), 0) => Ok((state.stream(context, model, request)?, form)),
        (_, more) => Err(CaptionError::invalid("stream", format!("takes one image, got {}", more + 1))),
    }
}

/// All that the request does not say itself.
fn envelope(model: &ServedModel, deadline: Deadline) -> CaptionRequest {
    CaptionRequest {
        model: Some(model.name.clone()),
        version: Some(model.version.clone()),
        // Every request has its own picture; this one is never looked at.
        image: ImageSource::Bytes { bytes: Bytes::new(), field: "image" },
        prompt: None,
        parameters: GenerationParameters::default(),
        deadline: Some(deadline.at),
        caller: deadline.caller,
        cancelled: tokio_util::sync::CancellationToken::new(),
    }
}
