//! `ModelStreamInfer`: one request after another over one call, and for each as many responses as it asks for.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use tonic::{Request, Response, Status, Streaming};

use crate::server::grpc::{
    deadline,
    incoming::{Ending, Incoming, REQUESTS_AT_ONCE, messages},
    reservation, resolve,
};
use crate::{
    caption::CaptionEvent,
    error::CaptionError,
    registry::ServedModel,
    server::{
        middleware::{capacity::INFLIGHT_BYTES_FULL, context::RequestContext, deadline::Deadline},
        protocol::{
            open_inference::{grpc::response, handler, infer::flag, request::InferRequest, response::AnswerForm},
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

/// Answers each request of the stream, several at a time, in the order asked.
pub(super) fn infer(
    state: &Arc<AppState>,
    request: Request<Streaming<pb::ModelInferRequest>>,
) -> Result<Response<Responses>, Status> {
    let context = RequestContext::from_extensions(request.extensions());
    let deadline = deadline(&request).map_err(|error| context.status(&error))?;
    let bytes = reservation(&request).map_err(|error| context.status(&error))?;
    let ends_at_error = request.metadata().get(GRPC_ERROR).is_some_and(|value| value.as_bytes() == b"true");
    let (state, ending, whole) = (state.clone(), Ending::default(), context.clone());
    let responses = messages(state.clone(), request.into_inner(), deadline, (bytes, ending.clone()))
        .map(move |incoming| {
            let (state, context) = (state.clone(), context.clone());
            async move {
                let (id, of_failure) = (incoming.0.id.clone(), context.clone());
                let failed = move |(error, is_final)| {
                    let status = of_failure.status(&error);
                    if ends_at_error { Err(status) } else { Ok(failure(id.clone(), &status, is_final)) }
                };
                responses_to(&state, &context, incoming).await.map(move |response| response.or_else(&failed))
            }
        })
        // Several at a time, but answered in the order asked: not every client sends ids.
        .buffered(REQUESTS_AT_ONCE)
        .flatten();
    Ok(Response::new(ending.after(responses, whole).boxed()))
}

/// The responses to one request of a stream; of a failure, also whether it is the last.
async fn responses_to(
    state: &Arc<AppState>,
    context: &RequestContext,
    (message, deadline, bytes): Incoming<pb::ModelInferRequest>,
) -> BoxStream<'static, Result<pb::ModelStreamInferResponse, (CaptionError, bool)>> {
    let id = message.id.clone();
    let asked = if bytes.fault().is_some() { Err(INFLIGHT_BYTES_FULL) } else { read(state, message) };
    let (ends_empty, responses) = match asked {
        Err(error) => (false, stream::iter([Err(error)]).boxed()),
        Ok(asked) => (asked.ends_empty, answers(state, context, asked, deadline).await),
    };
    // Streamed, the picture is held until the last piece.
    let responses = responses.inspect(move |_| {
        let _held = &bytes;
    });
    let last = ends_empty.then(|| Ok(marked(pb::ModelInferResponse { id, ..Default::default() }, true)));
    let responses = responses.map(move |response| response.map_err(|error| (error, !ends_empty)));
    responses.chain(stream::iter(last)).boxed()
}

fn read(state: &AppState, message: pb::ModelInferRequest) -> Result<Asked, CaptionError> {
    let model = resolve(state, &message.model_name, &message.model_version)?;
    let mut request = InferRequest::from_message(message)?;
    let ends_empty = flag(&mut request, EMPTY_FINAL_RESPONSE)?;
    let is_streamed = flag(&mut request, "stream")?;
    Ok(Asked { model, request, ends_empty, is_streamed })
}

async fn answers(
    state: &Arc<AppState>,
    context: &RequestContext,
    asked: Asked,
    deadline: Deadline,
) -> BoxStream<'static, Result<pb::ModelStreamInferResponse, CaptionError>> {
    let Asked { model, request, ends_empty, is_streamed } = asked;
    if !is_streamed {
        // Several requests are worked on at a time, so one image of each.
        let answer = handler::infer(state, context, &model, deadline, (request, 1)).await;
        return stream::iter([answer.map(|answer| marked(response(answer), !ends_empty))]).boxed();
    }
    let (state, context) = (state.clone(), context.clone());
    // Begun when its turn comes, which is when its time begins.
    let events = async move {
        let (events, form) = handler::stream(&state, &context, &model, deadline.renewed(), request)?;
        let mut told = false;
        Ok::<_, CaptionError>(events.map(move |event| Ok(event_message(&form, &model, event?, &mut told, !ends_empty))))
    };
    stream::once(events).try_flatten().boxed()
}

/// One request of a stream.
struct Asked {
    model: Arc<ServedModel>,
    request: InferRequest,
    ends_empty: bool,
    is_streamed: bool,
}

/// What is new, as `generated_output`; the last message has the other outputs, and the whole caption in its parameters.
fn event_message(
    form: &AnswerForm,
    model: &ServedModel,
    event: CaptionEvent,
    told: &mut bool,
    is_final: bool,
) -> pb::ModelStreamInferResponse {
    match event {
        CaptionEvent::Piece(piece) => {
            *told = true;
            marked(response(form.piece(model, piece)), false)
        }
        CaptionEvent::Reply(mut reply) => {
            let caption = reply.captions.first_mut().map(|caption| {
                let rest = if *told { String::new() } else { caption.text.clone() };
                (std::mem::replace(&mut caption.text, rest), caption.finish_reason.as_str().to_owned())
            });
            let mut message = response(form.clone().answer(model, vec![reply]));
            let (caption, finish_reason) = caption.unwrap_or_default();
            for (name, text) in [("caption", caption), ("finish_reason", finish_reason)] {
                message.parameters.insert(name.to_owned(), parameter(ParameterChoice::StringParam(text)));
            }
            marked(message, is_final)
        }
    }
}

fn marked(mut response: pb::ModelInferResponse, is_final: bool) -> pb::ModelStreamInferResponse {
    response.parameters.insert(FINAL_RESPONSE.to_owned(), parameter(ParameterChoice::BoolParam(is_final)));
    pb::ModelStreamInferResponse { error_message: String::new(), infer_response: Some(response) }
}

fn failure(id: String, status: &Status, is_final: bool) -> pb::ModelStreamInferResponse {
    let response = marked(pb::ModelInferResponse { id, ..Default::default() }, is_final);
    pb::ModelStreamInferResponse { error_message: status.message().to_owned(), ..response }
}

fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter { parameter_choice: Some(choice) }
}
