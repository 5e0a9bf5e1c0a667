//! `ModelStreamInfer`: requests one after another over one call, each answered by one or more responses.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    caption::{CaptionEvent, CaptionReply},
    error::CaptionError,
    registry::ServedModel,
    server::{
        grpc::{
            incoming::{IncomingCall, IncomingMessage, MAX_CONCURRENT_REQUESTS},
            request::resolve,
        },
        handlers::inference::{self, Inference, InferenceStream},
        middleware::{capacity::INFLIGHT_BYTES_FULL, context::RequestContext, deadline::Deadline},
        protocol::{
            open_inference::{grpc::to_message, infer::take_flag, request::InferRequest, response::ResponseSpec},
            pb::inference::{self as pb, InferParameter, infer_parameter::ParameterChoice},
        },
        state::AppState,
    },
};

/// Metadata with which a client asks for a stream that ends at the first error.
const GRPC_ERROR: &str = "triton_grpc_error";

/// Parameters of a request and of its responses.
const EMPTY_FINAL_RESPONSE: &str = "triton_enable_empty_final_response";
const FINAL_RESPONSE: &str = "triton_final_response";

pub(super) type Responses = BoxStream<'static, Result<pb::ModelStreamInferResponse, Status>>;

/// One request of a stream.
struct StreamedRequest {
    model: Arc<ServedModel>,
    request: InferRequest,
    /// Whether an empty response follows the last one.
    ends_empty: bool,
    /// Whether the caption comes in pieces.
    is_streamed: bool,
}

/// A request that failed.
struct Failure {
    error: CaptionError,
    /// Whether no response follows.
    is_final: bool,
}

/// Answers several requests of the stream concurrently, in their order.
pub(super) fn infer(
    state: &Arc<AppState>,
    request: Request<Streaming<pb::ModelInferRequest>>,
) -> Result<Response<Responses>, Status> {
    let ends_at_error = request.metadata().get(GRPC_ERROR).is_some_and(|value| value.as_bytes() == b"true");
    let call = IncomingCall::new(state, request)?;
    let (state, context, termination) = (state.clone(), call.context.clone(), call.termination.clone());
    let responses = call
        .messages()
        .map(move |incoming| {
            let (state, context) = (state.clone(), context.clone());
            async move {
                let (id, failed_context) = (incoming.message.id.clone(), context.clone());
                let failed = move |Failure { error, is_final }| {
                    let status = failed_context.status(&error);
                    if ends_at_error { Err(status) } else { Ok(failure(id.clone(), &status, is_final)) }
                };
                responses_to(&state, &context, incoming).await.map(move |response| response.or_else(&failed))
            }
        })
        // In the order of the requests: not every client sends ids.
        .buffered(MAX_CONCURRENT_REQUESTS)
        .flatten();
    Ok(Response::new(termination.append_to(responses).boxed()))
}

/// The responses to one request of a stream.
async fn responses_to(
    state: &Arc<AppState>,
    context: &RequestContext,
    incoming: IncomingMessage<pb::ModelInferRequest>,
) -> BoxStream<'static, Result<pb::ModelStreamInferResponse, Failure>> {
    let IncomingMessage { message, deadline, bytes } = incoming;
    let id = message.id.clone();
    let request = if bytes.fault().is_some() { Err(INFLIGHT_BYTES_FULL) } else { read(state, message) };
    let (ends_empty, responses) = match request {
        Err(error) => (false, stream::iter([Err(error)]).boxed()),
        Ok(request) => (request.ends_empty, answer(state, context, request, deadline).await),
    };
    // The image is in memory until the last piece.
    let responses = responses.inspect(move |_| {
        let _guard = &bytes;
    });
    let last = ends_empty.then(|| Ok(with_final_flag(pb::ModelInferResponse { id, ..Default::default() }, true)));
    let responses = responses.map(move |response| response.map_err(|error| Failure { error, is_final: !ends_empty }));
    responses.chain(stream::iter(last)).boxed()
}

fn read(state: &AppState, message: pb::ModelInferRequest) -> Result<StreamedRequest, CaptionError> {
    let model = resolve(state, &message.model_name, &message.model_version)?;
    let mut request = InferRequest::from_message(message)?;
    let ends_empty = take_flag(&mut request, EMPTY_FINAL_RESPONSE)?;
    let is_streamed = take_flag(&mut request, "stream")?;
    Ok(StreamedRequest { model, request, ends_empty, is_streamed })
}

async fn answer(
    state: &Arc<AppState>,
    context: &RequestContext,
    request: StreamedRequest,
    deadline: Deadline,
) -> BoxStream<'static, Result<pb::ModelStreamInferResponse, CaptionError>> {
    let StreamedRequest { model, request, ends_empty, is_streamed } = request;
    if !is_streamed {
        let inference = Inference { context, model: &model, deadline, request };
        // Several requests are in flight concurrently, so one image of each.
        let response = inference::infer(state, inference, 1).await;
        return stream::iter([response.map(|response| with_final_flag(to_message(response), !ends_empty))]).boxed();
    }
    let (state, context) = (state.clone(), context.clone());
    // Polled when its turn comes, which is when its deadline starts.
    let events = async move {
        let inference = Inference { context: &context, model: &model, deadline: deadline.renewed(), request };
        let InferenceStream { events, response_spec } = inference::stream(&state, inference)?;
        let mut has_pieces = false;
        Ok::<_, CaptionError>(events.map(move |event| match event? {
            CaptionEvent::Piece(piece) => {
                has_pieces = true;
                Ok(with_final_flag(to_message(response_spec.piece(&model, piece)), false))
            }
            CaptionEvent::Reply(reply) => {
                Ok(with_final_flag(last_message(&response_spec, &model, reply, has_pieces), !ends_empty))
            }
        }))
    };
    stream::once(events).try_flatten().boxed()
}

/// The last message of a caption: all outputs, and the whole caption in its parameters. Text that was sent in pieces is not
/// repeated in `generated_output`.
fn last_message(
    response_spec: &ResponseSpec,
    model: &ServedModel,
    mut reply: CaptionReply,
    has_pieces: bool,
) -> pb::ModelInferResponse {
    let caption = reply.captions.first_mut().map(|caption| {
        let text = if has_pieces { std::mem::take(&mut caption.text) } else { caption.text.clone() };
        (text, caption.finish_reason.as_str().to_owned())
    });
    let (caption, finish_reason) = caption.unwrap_or_default();
    let mut message = to_message(response_spec.clone().response(model, vec![reply]));
    for (name, text) in [("caption", caption), ("finish_reason", finish_reason)] {
        message.parameters.insert(name.to_owned(), parameter(ParameterChoice::StringParam(text)));
    }
    message
}

fn with_final_flag(mut response: pb::ModelInferResponse, is_final: bool) -> pb::ModelStreamInferResponse {
    response.parameters.insert(FINAL_RESPONSE.to_owned(), parameter(ParameterChoice::BoolParam(is_final)));
    pb::ModelStreamInferResponse { error_message: String::new(), infer_response: Some(response) }
}

fn failure(id: String, status: &Status, is_final: bool) -> pb::ModelStreamInferResponse {
    let response = with_final_flag(pb::ModelInferResponse { id, ..Default::default() }, is_final);
    pb::ModelStreamInferResponse { error_message: status.message().to_owned(), ..response }
}

fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter { parameter_choice: Some(choice) }
}
