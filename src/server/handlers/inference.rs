//! Open Inference requests from the parsed form to the response, the same over REST and gRPC.

use std::sync::Arc;

use futures_util::stream::BoxStream;

use crate::{
    caption::CaptionEvent,
    error::CaptionError,
    registry::ServedModel,
    server::{
        middleware::{context::RequestContext, deadline::Deadline},
        protocol::open_inference::{
            infer::{CaptionBatch, gather},
            request::InferRequest,
            response::{InferenceResponse, ResponseSpec},
        },
        state::AppState,
    },
};

/// Maximum number of concurrent images of one call; the rest wait, so that one call cannot fill the queue.
pub(crate) const MAX_CONCURRENT_IMAGES: usize = 8;

/// A request, and its context from the transport.
pub(crate) struct Inference<'a> {
    pub(crate) context: &'a RequestContext,
    pub(crate) model: &'a Arc<ServedModel>,
    pub(crate) deadline: Deadline,
    pub(crate) request: InferRequest,
}

/// A caption while it is generated, and how to write its responses.
pub(crate) struct InferenceStream {
    pub(crate) events: BoxStream<'static, Result<CaptionEvent, CaptionError>>,
    pub(crate) response_spec: ResponseSpec,
}

/// Captions at most `concurrency` images of one request concurrently; an error names those that failed.
pub(crate) async fn infer(
    state: &AppState,
    inference: Inference<'_>,
    concurrency: usize,
) -> Result<InferenceResponse, CaptionError> {
    let Inference { context, model, deadline, request } = inference;
    let CaptionBatch { requests, response_spec } = CaptionBatch::new(request, &model.name, deadline, state.limits)?;
    let replies = gather(state.caption_all(context, model, requests, concurrency).await?.into_iter())?;
    Ok(response_spec.response(model, replies))
}

/// Captions the one image of a request; events come as the text is decided.
pub(crate) fn stream(state: &AppState, inference: Inference<'_>) -> Result<InferenceStream, CaptionError> {
    let Inference { context, model, deadline, request } = inference;
    let CaptionBatch { mut requests, response_spec } = CaptionBatch::new(request, &model.name, deadline, state.limits)?;
    match (requests.pop(), requests.len()) {
        (Some(request), 0) => Ok(InferenceStream { events: state.stream(context, model, request)?, response_spec }),
        (_, more) => Err(CaptionError::invalid("stream", format!("takes one image, got {}", more + 1))),
    }
}
