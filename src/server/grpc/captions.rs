//! `blip.v1.CaptionService`.

use std::sync::Arc;

use futures_util::{StreamExt, stream::BoxStream};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    caption::CaptionEvent,
    error::CaptionError,
    server::{
        grpc::{
            incoming::{IncomingCall, IncomingMessage, MAX_CONCURRENT_REQUESTS},
            request::{deadline, message},
        },
        middleware::{capacity::INFLIGHT_BYTES_FULL, context::RequestContext, deadline::Deadline},
        protocol::{
            blip_v1,
            pb::blip::{
                CaptionManyResponse, CaptionRequest, CaptionResponse, StreamCaptionResponse,
                caption_many_response::Result as Outcome, caption_service_server::CaptionService,
                stream_caption_response::Event,
            },
        },
        state::AppState,
    },
};

pub(crate) struct Handler {
    pub(crate) state: Arc<AppState>,
}

#[tonic::async_trait]
impl CaptionService for Handler {
    async fn caption(&self, request: Request<CaptionRequest>) -> Result<Response<CaptionResponse>, Status> {
        let context = RequestContext::from_extensions(request.extensions());
        let outcome = async { caption(&self.state, &context, deadline(&request)?, message(request)?).await };
        outcome.await.map(Response::new).map_err(|error| context.status(&error))
    }

    type StreamCaptionStream = BoxStream<'static, Result<StreamCaptionResponse, Status>>;

    async fn stream_caption(
        &self,
        request: Request<CaptionRequest>,
    ) -> Result<Response<Self::StreamCaptionStream>, Status> {
        let context = RequestContext::from_extensions(request.extensions());
        let events = deadline(&request).and_then(|deadline| stream(&self.state, &context, deadline, message(request)?));
        let events = events.map_err(|error| context.status(&error))?;
        let events = events.map(move |event| event.map_err(|error| context.status(&error)));
        Ok(Response::new(events.boxed()))
    }

    type CaptionManyStream = BoxStream<'static, Result<CaptionManyResponse, Status>>;

    async fn caption_many(
        &self,
        request: Request<Streaming<CaptionRequest>>,
    ) -> Result<Response<Self::CaptionManyStream>, Status> {
        let call = IncomingCall::new(&self.state, request)?;
        let (state, context, termination) = (self.state.clone(), call.context.clone(), call.termination.clone());
        let results = call
            .messages()
            .map(move |incoming| {
                let (state, context) = (state.clone(), context.clone());
                async move { Ok(one_of_many(&state, &context, incoming).await) }
            })
            .buffer_unordered(MAX_CONCURRENT_REQUESTS);
        Ok(Response::new(termination.append_to(results).boxed()))
    }
}

async fn caption(
    state: &AppState,
    context: &RequestContext,
    deadline: Deadline,
    mut message: CaptionRequest,
) -> Result<CaptionResponse, CaptionError> {
    let id = std::mem::take(&mut message.id);
    let request = blip_v1::caption_request(message, state.limits, deadline)?;
    let model = state.resolve(&request)?;
    let reply = state.caption(context, &model, request).await?;
    Ok(blip_v1::caption_response(id, reply))
}

fn stream(
    state: &AppState,
    context: &RequestContext,
    deadline: Deadline,
    mut message: CaptionRequest,
) -> Result<BoxStream<'static, Result<StreamCaptionResponse, CaptionError>>, CaptionError> {
    let id = std::mem::take(&mut message.id);
    let request = blip_v1::caption_request(message, state.limits, deadline)?;
    let model = state.resolve(&request)?;
    let events = state.stream(context, &model, request)?;
    let events = events.map(move |event| {
        let event = match event? {
            CaptionEvent::Piece(piece) => Event::Piece(piece),
            CaptionEvent::Reply(reply) => Event::Response(blip_v1::caption_response(id.clone(), reply)),
        };
        Ok(StreamCaptionResponse { event: Some(event) })
    });
    Ok(events.boxed())
}

async fn one_of_many(
    state: &AppState,
    context: &RequestContext,
    incoming: IncomingMessage<CaptionRequest>,
) -> CaptionManyResponse {
    let IncomingMessage { message, deadline, bytes } = incoming;
    let id = message.id.clone();
    let outcome = match bytes.fault() {
        Some(_) => Err(INFLIGHT_BYTES_FULL),
        None => caption(state, context, deadline, message).await,
    };
    let result = match outcome {
        Ok(response) => Outcome::Response(response),
        Err(error) => Outcome::Error(context.status_message(&error)),
    };
    CaptionManyResponse { id, result: Some(result) }
}
