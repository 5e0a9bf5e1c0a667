//! `POST .../infer`: the template's request, and any other of the Open Inference Protocol, with or without binary tensors.

use std::sync::Arc;

use axum::{body::Body, extract::State, response::Response};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    error::CaptionError,
    server::{
        error_response::{json_response, to_json},
        middleware::{
            body::WholeBody,
            context::{BINARY_HEADER, RequestContext},
            deadline::Deadline,
        },
        protocol::{
            json,
            open_inference::{
                handler::{self, IMAGES_AT_ONCE},
                request::InferRequest,
                response::{Answer, OutputData, OutputTensor},
            },
        },
        rest::{ModelPath, answer, schema},
        state::AppState,
    },
};

/// Captions the images of one request. No content type is demanded: several clients send none.
///
/// Without a JSON part (`inference-header-content-length: 0`) the body is one picture.
#[utoipa::path(
    post, path = "/v2/models/{model}/infer", tag = "infer",
    params(("model" = String, Path, description = "Name or alias")),
    request_body(content((schema::InferRequest = "application/json"))),
    responses(
        (status = 200, description = "The captions; as octets, JSON and binary tensors", content(
            (InferResponse = "application/json"), (Vec<u8> = "application/octet-stream"),
        )),
    ),
)]
pub(super) async fn infer(
    State(state): State<Arc<AppState>>,
    path: ModelPath,
    context: RequestContext,
    deadline: Deadline,
    headers: HeaderMap,
    WholeBody(body): WholeBody,
) -> Response {
    let outcome = async {
        let model = path.resolve(&state)?;
        let request = parse(&headers, body)?;
        handler::infer(&state, &context, &model, deadline, (request, IMAGES_AT_ONCE)).await
    };
    answer(&context, outcome.await.map(response))
}

/// Splits the body where the header says; without one it is all JSON.
pub(in crate::server) fn parse(headers: &HeaderMap, mut body: Bytes) -> Result<InferRequest, CaptionError> {
    let Some(length) = headers.get(BINARY_HEADER) else {
        return InferRequest::parse(json::parse(&body)?, Bytes::new());
    };
    let length = length.to_str().ok().and_then(|text| text.parse().ok()).filter(|length| *length <= body.len());
    let length: usize = length.ok_or_else(|| {
        let reason = format!("must be the bytes of the JSON part, at most those of the body, {}", body.len());
        CaptionError::invalid(BINARY_HEADER.to_string(), reason)
    })?;
    if length == 0 {
        return Ok(InferRequest::of_picture(body));
    }
    let head = body.split_to(length);
    InferRequest::parse(json::parse(&head)?, body)
}

/// The JSON of an answer; keys in the order that other servers write them.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InferResponse {
    /// As it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    id: Option<String>,
    /// The model that answered.
    model_name: String,
    /// Its version.
    model_version: String,
    /// `generated_output` first.
    outputs: Vec<InferOutput>,
}

/// One output tensor: `data`, or in `parameters` how many bytes behind the JSON are its own.
#[derive(Debug, Serialize, ToSchema)]
struct InferOutput {
    name: &'static str,
    datatype: &'static str,
    shape: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    parameters: Option<BinaryData>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<serde_json::Value>>, nullable = false)]
    data: Option<OutputData>,
}

#[derive(Debug, Serialize, ToSchema)]
struct BinaryData {
    binary_data_size: usize,
}

/// The answer in the form asked: JSON, and behind it the outputs that go as bytes.
fn response(answer: Answer) -> Response {
    let mut binary = BytesMut::new();
    let has_binary = answer.outputs.iter().any(|output| output.binary);
    let head = InferResponse {
        id: answer.id,
        model_name: answer.model_name,
        model_version: answer.model_version,
        outputs: answer.outputs.into_iter().map(|output| tensor(output, &mut binary)).collect(),
    };
    if !has_binary {
        return json_response(StatusCode::OK, &head);
    }
    let head = to_json(&head);
    let length = head.len();
    let mut response = Response::new(Body::from([head, binary.into()].concat()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response.headers_mut().insert(BINARY_HEADER, length.into());
    response
}

/// One output; its bytes go to `binary` if it was asked for so.
fn tensor(output: OutputTensor, binary: &mut BytesMut) -> InferOutput {
    let OutputTensor { name, datatype, shape, data, binary: is_binary } = output;
    let bytes = is_binary.then(|| data.to_bytes());
    let parameters = bytes.as_ref().map(|bytes| BinaryData { binary_data_size: bytes.len() });
    binary.extend_from_slice(&bytes.unwrap_or_default());
    InferOutput { name, datatype, shape, parameters, data: (!is_binary).then_some(data) }
}
