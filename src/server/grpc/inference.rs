//! `inference.GRPCInferenceService`: the Open Inference Protocol with Triton's extensions.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use tonic::{Request, Response, Status, Streaming};

use super::{
    deadline,
    incoming::{Ending, Incoming, REQUESTS_AT_ONCE, messages},
    reservation,
};
use crate::{
    caption::CaptionEvent,
    error::CaptionError,
    registry::ServedModel,
    server::{
        context::{Deadline, RequestContext},
        control,
        convert::{answer::AnswerForm, describe, echo, form::InferRequest, grpc::response, infer::flag},
        house::House,
        inference,
        layers::FULL_OF_BYTES,
        pb::inference::{self as pb, InferParameter, infer_parameter::ParameterChoice},
    },
};

/// Metadata with which a client asks for a stream that ends at the first error.
const GRPC_ERROR: &str = "triton_grpc_error";

/// Parameters of a request and of its responses.
const EMPTY_FINAL_RESPONSE: &str = "triton_enable_empty_final_response";
const FINAL_RESPONSE: &str = "triton_final_response";

pub(super) struct Handler {
    pub(super) house: Arc<House>,
}

#[tonic::async_trait]
impl pb::grpc_inference_service_server::GrpcInferenceService for Handler {
    async fn server_live(&self, _: Request<pb::ServerLiveRequest>) -> Result<Response<pb::ServerLiveResponse>, Status> {
        Ok(Response::new(pb::ServerLiveResponse { live: self.house.is_live() }))
    }

    async fn server_ready(
        &self,
        _: Request<pb::ServerReadyRequest>,
    ) -> Result<Response<pb::ServerReadyResponse>, Status> {
        Ok(Response::new(pb::ServerReadyResponse { ready: self.house.is_ready() }))
    }

    async fn model_ready(
        &self,
        request: Request<pb::ModelReadyRequest>,
    ) -> Result<Response<pb::ModelReadyResponse>, Status> {
        if !self.house.is_ready() {
            return Ok(Response::new(pb::ModelReadyResponse { ready: false }));
        }
        let asked = request.get_ref();
        let ready = match self.resolve(&asked.name, &asked.version) {
            // Known, and not loaded.
            Err(CaptionError::Unavailable(_)) => Ok(false),
            model => model.map(|model| model.is_serving()),
        };
        answer(&request, ready.map(|ready| pb::ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<pb::ServerMetadataRequest>,
    ) -> Result<Response<pb::ServerMetadataResponse>, Status> {
        Ok(Response::new(pb::ServerMetadataResponse {
            name: self.house.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: describe::EXTENSIONS.map(str::to_owned).into(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<pb::ModelMetadataRequest>,
    ) -> Result<Response<pb::ModelMetadataResponse>, Status> {
        let asked = request.get_ref();
        answer(&request, self.resolve(&asked.name, &asked.version).map(|model| describe::metadata(&model)))
    }

    async fn model_config(
        &self,
        request: Request<pb::ModelConfigRequest>,
    ) -> Result<Response<pb::ModelConfigResponse>, Status> {
        let asked = request.get_ref();
        let max_images = self.house.limits.max_images;
        let config = self.resolve(&asked.name, &asked.version).map(|model| describe::config(&model, max_images));
        answer(&request, config.map(|config| pb::ModelConfigResponse { config: Some(config) }))
    }

    async fn model_statistics(
        &self,
        request: Request<pb::ModelStatisticsRequest>,
    ) -> Result<Response<pb::ModelStatisticsResponse>, Status> {
        let asked = request.get_ref();
        let model_stats = match asked.name.as_str() {
            "" if asked.version.is_empty() => self
                .house
                .captioner()
                .map(|captioner| captioner.registry().models().iter().map(|m| describe::statistics(m)).collect()),
            name => self.resolve(name, &asked.version).map(|model| vec![describe::statistics(&model)]),
        };
        answer(&request, model_stats.map(|model_stats| pb::ModelStatisticsResponse { model_stats }))
    }

    async fn repository_index(
        &self,
        request: Request<pb::RepositoryIndexRequest>,
    ) -> Result<Response<pb::RepositoryIndexResponse>, Status> {
        let asked = request.get_ref();
        let captioner = one_repository(&asked.repository_name).and_then(|()| self.house.captioner());
        let models = captioner.map(|captioner| describe::index(captioner.registry(), asked.ready));
        answer(&request, models.map(|models| pb::RepositoryIndexResponse { models }))
    }

    async fn repository_model_load(
        &self,
        request: Request<pb::RepositoryModelLoadRequest>,
    ) -> Result<Response<pb::RepositoryModelLoadResponse>, Status> {
        let asked = request.get_ref();
        let outcome = async {
            one_repository(&asked.repository_name)?;
            if !asked.parameters.is_empty() {
                return Err(CaptionError::invalid(
                    "parameters",
                    "must be empty: models.toml says how a model is served",
                ));
            }
            control::load(&self.house, &asked.model_name).await
        };
        answer(&request, outcome.await.map(|()| pb::RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<pb::RepositoryModelUnloadRequest>,
    ) -> Result<Response<pb::RepositoryModelUnloadResponse>, Status> {
        let asked = request.get_ref();
        let outcome = async {
            one_repository(&asked.repository_name)?;
            control::unload(&self.house, &asked.model_name).await
        };
        answer(&request, outcome.await.map(|()| pb::RepositoryModelUnloadResponse {}))
    }

    async fn model_infer(
        &self,
        request: Request<pb::ModelInferRequest>,
    ) -> Result<Response<pb::ModelInferResponse>, Status> {
        let context = RequestContext::from_extensions(request.extensions());
        let outcome = async {
            let deadline = deadline(&request)?;
            let message = request.into_inner();
            let model = self.resolve(&message.model_name, &message.model_version)?;
            inference::infer(&self.house, &context, &model, deadline, InferRequest::from_message(message)?).await
        };
        outcome.await.map(|answer| Response::new(response(answer))).map_err(|error| context.status(&error))
    }

    type ModelStreamInferStream = Responses;

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<pb::ModelInferRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let context = RequestContext::from_extensions(request.extensions());
        let deadline = deadline(&request).map_err(|error| context.status(&error))?;
        let bytes = reservation(&request).map_err(|error| context.status(&error))?;
        let ends_at_error = request.metadata().get(GRPC_ERROR).is_some_and(|value| value.as_bytes() == b"true");
        let (house, ending, whole) = (self.house.clone(), Ending::default(), context.clone());
        let responses = messages(house.clone(), request.into_inner(), deadline, (bytes, ending.clone()))
            .map(move |incoming| {
                let (handler, context) = (Self { house: house.clone() }, context.clone());
                async move {
                    let (id, of_failure) = (incoming.0.id.clone(), context.clone());
                    let failed = move |(error, is_final)| {
                        let status = of_failure.status(&error);
                        if ends_at_error { Err(status) } else { Ok(failure(id.clone(), &status, is_final)) }
                    };
                    handler.responses(&context, incoming).await.map(move |response| response.or_else(&failed))
                }
            })
            // Several at a time, but answered in the order asked: not every client sends ids.
            .buffered(REQUESTS_AT_ONCE)
            .flatten();
        Ok(Response::new(ending.after(responses, whole).boxed()))
    }
}

type Responses = BoxStream<'static, Result<pb::ModelStreamInferResponse, Status>>;

impl Handler {
    /// A version, if one is asked for, is a number.
    fn resolve(&self, name: &str, version: &str) -> Result<Arc<ServedModel>, CaptionError> {
        if !version.bytes().all(|byte| byte.is_ascii_digit()) {
            let reason = format!("'{}' is no version, which is an integer > 0", echo(version));
            return Err(CaptionError::invalid("model_version", reason));
        }
        self.house.captioner()?.registry().resolve(Some(name), Some(version))
    }

    /// The responses to one request of a stream; of a failure, also whether it is the last.
    async fn responses(
        &self,
        context: &RequestContext,
        (message, deadline, bytes): Incoming<pb::ModelInferRequest>,
    ) -> BoxStream<'static, Result<pb::ModelStreamInferResponse, (CaptionError, bool)>> {
        let id = message.id.clone();
        let asked = if bytes.fault().is_some() { Err(FULL_OF_BYTES) } else { self.asked(message) };
        let (ends_empty, responses) = match asked {
            Err(error) => (false, stream::iter([Err(error)]).boxed()),
            Ok(asked) => (asked.ends_empty, self.answers(context, asked, deadline).await),
        };
        // Streamed, the picture is held until the last piece.
        let responses = responses.inspect(move |_| {
            let _held = &bytes;
        });
        let last = ends_empty.then(|| Ok(marked(pb::ModelInferResponse { id, ..Default::default() }, true)));
        let responses = responses.map(move |response| response.map_err(|error| (error, !ends_empty)));
        responses.chain(stream::iter(last)).boxed()
    }

    fn asked(&self, message: pb::ModelInferRequest) -> Result<Asked, CaptionError> {
        let model = self.resolve(&message.model_name, &message.model_version)?;
        let mut request = InferRequest::from_message(message)?;
        let ends_empty = flag(&mut request, EMPTY_FINAL_RESPONSE)?;
        let is_streamed = flag(&mut request, "stream")?;
        Ok(Asked { model, request, ends_empty, is_streamed })
    }

    async fn answers(
        &self,
        context: &RequestContext,
        asked: Asked,
        deadline: Deadline,
    ) -> BoxStream<'static, Result<pb::ModelStreamInferResponse, CaptionError>> {
        let Asked { model, request, ends_empty, is_streamed } = asked;
        if !is_streamed {
            let answer = inference::infer(&self.house, context, &model, deadline, request).await;
            return stream::iter([answer.map(|answer| marked(response(answer), !ends_empty))]).boxed();
        }
        let (house, context) = (self.house.clone(), context.clone());
        // Begun when its turn comes, which is when its time begins.
        let events = async move {
            let (events, form) = inference::stream(&house, &context, &model, deadline.renewed(), request)?;
            let mut told = false;
            Ok::<_, CaptionError>(
                events.map(move |event| Ok(event_message(&form, &model, event?, &mut told, !ends_empty))),
            )
        };
        stream::once(events).try_flatten().boxed()
    }
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

fn one_repository(name: &str) -> Result<(), CaptionError> {
    let error = || CaptionError::invalid("repository_name", "must be empty: there is one repository");
    name.is_empty().then_some(()).ok_or_else(error)
}

fn answer<Q, A>(request: &Request<Q>, result: Result<A, CaptionError>) -> Result<Response<A>, Status> {
    result.map(Response::new).map_err(|error| RequestContext::from_extensions(request.extensions()).status(&error))
}
