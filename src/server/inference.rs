//! An Open Inference request from its form to its answer: the same for both transports.

use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use crate::{
    caption::{CaptionEvent, CaptionRequest, ImageSource},
    error::CaptionError,
    generation::GenerationParameters,
    registry::ServedModel,
    server::{
        context::Deadline,
        convert::{
            answer::{Answer, AnswerForm},
            infer::{Inference, gather},
            oip::InferRequest,
        },
        house::{House, cancelled_on_drop},
    },
};

/// Captions the images of one request; an error names those that failed.
pub(crate) async fn infer(
    house: &House,
    model: &ServedModel,
    deadline: Deadline,
    request: InferRequest,
) -> Result<Answer, CaptionError> {
    let (cancelled, _guard) = cancelled_on_drop();
    let envelope = CaptionRequest { cancelled, ..envelope(model, deadline) };
    let (requests, form) = Inference::new(request, &envelope, house.limits)?.into_parts();
    let replies = gather(house.captioner()?.caption_all(requests).await.into_iter())?;
    Ok(form.answer(model, replies))
}

/// Captions the one image of a request; events come as the text is decided.
pub(crate) fn stream(
    house: &House,
    model: &ServedModel,
    deadline: Deadline,
    request: InferRequest,
) -> Result<(impl Stream<Item = Result<CaptionEvent, CaptionError>> + Send + use<>, AnswerForm), CaptionError> {
    let (cancelled, guard) = cancelled_on_drop();
    let envelope = CaptionRequest { cancelled, ..envelope(model, deadline) };
    let (mut requests, form) = Inference::new(request, &envelope, house.limits)?.into_parts();
    match (requests.pop(), requests.len()) {
        (Some(request), 0) => {
            let events = house.captioner()?.stream(request)?;
            let held = move |event| {
                // Cancels the work when the stream goes.
                let _guard = &guard;
                event
            };
            Ok((events.map(held), form))
        }
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
        cancelled: tokio_util::sync::CancellationToken::new(),
    }
}
