//! `POST .../infer`: any request of the Open Inference Protocol, with or without binary tensors.

use std::{collections::BTreeMap, sync::Arc};

use axum::{body::Body, extract::State, response::Response};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    error::CaptionError,
    server::{
        error_response::{json_response, to_json},
        handlers::inference::{self, Inference, MAX_CONCURRENT_IMAGES},
        middleware::{
            body::WholeBody,
            context::{BINARY_HEADER, RequestContext},
            deadline::Deadline,
        },
        protocol::{
            json,
            open_inference::{
                request,
                response::{InferenceResponse, OutputData, OutputTensor},
            },
        },
        rest::extract::{ModelPath, answer},
        state::AppState,
    },
};

/// Captions the images of one request. A content type is not required, as several clients send none.
///
/// Without a JSON part (`inference-header-content-length: 0`) the body is one image file.
#[utoipa::path(
    post, path = "infer", tag = "infer",
    request_body(content((InferRequest = "application/json"))),
    responses(
        (status = 200, description = "The captions; as octet-stream, JSON and binary tensors", content(
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
        let inference = Inference { context: &context, model: &model, deadline, request };
        inference::infer(&state, inference, MAX_CONCURRENT_IMAGES).await
    };
    answer(&context, outcome.await.map(response))
}

/// Parses the body, which is JSON up to the length in the header, or all of it without the header.
pub(in crate::server) fn parse(headers: &HeaderMap, mut body: Bytes) -> Result<request::InferRequest, CaptionError> {
    let Some(length) = headers.get(BINARY_HEADER) else {
        return request::InferRequest::parse(json::parse("body", &body)?, Bytes::new());
    };
    let length = length.to_str().ok().and_then(|text| text.parse().ok()).filter(|length| *length <= body.len());
    let length: usize = length.ok_or_else(|| {
        let reason = format!("must be the bytes of the JSON part, at most those of the body, {}", body.len());
        CaptionError::invalid(BINARY_HEADER.to_string(), reason)
    })?;
    if length == 0 {
        return Ok(request::InferRequest::from_raw_image(body));
    }
    let head = body.split_to(length);
    request::InferRequest::parse(json::parse("body", &head)?, body)
}

/// An Open Inference Protocol request. Unknown keys are tolerated.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `request::InferRequest::parse` reads")]
struct InferRequest {
    /// Returned unchanged in the response.
    #[schema(nullable = false, max_length = 1024)]
    id: Option<String>,
    /// Generation parameters; `binary_data_output` requests the outputs as bytes after the JSON.
    #[schema(nullable = false)]
    parameters: Option<BTreeMap<String, Value>>,
    /// `img_url` (alias `image_url`) or `image` (base64); `text` (alias `prompt`), optional; any generation parameter.
    #[schema(min_items = 1, max_items = 32)]
    inputs: Vec<InferInput>,
    /// Which outputs: `generated_output` (the default), `token_ids`, `score`, `finish_reason`.
    #[schema(nullable = false, max_items = 4)]
    outputs: Option<Vec<InferRequestedOutput>>,
}

/// An input tensor.
#[derive(ToSchema)]
#[expect(dead_code, reason = "see InferRequest")]
struct InferInput {
    #[schema(example = "img_url")]
    name: String,
    #[schema(example = "BYTES")]
    datatype: String,
    /// `[N]` or `[N, 1]`.
    #[schema(min_items = 1, max_items = 2, example = json!([1]))]
    shape: Vec<u32>,
    /// `binary_data_size`, instead of `data`: bytes of this tensor after the JSON.
    #[schema(nullable = false)]
    parameters: Option<BTreeMap<String, Value>>,
    /// Row-major, flat or nested as the shape.
    #[schema(nullable = false, example = json!(["https://example.com/cat.jpg"]))]
    data: Option<Vec<Value>>,
}

/// A requested output.
#[derive(ToSchema)]
#[expect(dead_code, reason = "see InferRequest")]
struct InferRequestedOutput {
    #[schema(example = "score")]
    name: String,
    /// `binary_data`: whether it is sent as bytes after the JSON.
    #[schema(nullable = false)]
    parameters: Option<BTreeMap<String, Value>>,
}

/// The JSON of a response; keys in the order in which other servers write them.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InferResponse {
    /// The request's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    id: Option<String>,
    /// Name of the model.
    model_name: String,
    /// Version of the model.
    model_version: String,
    /// `generated_output` first.
    outputs: Vec<InferOutput>,
}

/// One output tensor: `data`, or `parameters` with the number of its bytes after the JSON.
#[derive(Debug, Serialize, ToSchema)]
struct InferOutput {
    name: &'static str,
    datatype: &'static str,
    shape: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    parameters: Option<BinaryData>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Value>>, nullable = false)]
    data: Option<OutputData>,
}

#[derive(Debug, Serialize, ToSchema)]
struct BinaryData {
    binary_data_size: usize,
}

/// The response as JSON, followed by the outputs that are sent as bytes.
fn response(response: InferenceResponse) -> Response {
    let mut binary = BytesMut::new();
    let has_binary = response.outputs.iter().any(|output| output.is_binary);
    let head = InferResponse {
        id: response.id,
        model_name: response.model_name,
        model_version: response.model_version,
        outputs: response.outputs.into_iter().map(|output| tensor(output, &mut binary)).collect(),
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

/// One output, whose bytes are appended to `binary` if it is a binary one.
fn tensor(output: OutputTensor, binary: &mut BytesMut) -> InferOutput {
    let OutputTensor { name, datatype, shape, data, is_binary } = output;
    let bytes = is_binary.then(|| data.to_bytes());
    let parameters = bytes.as_ref().map(|bytes| BinaryData { binary_data_size: bytes.len() });
    binary.extend_from_slice(&bytes.unwrap_or_default());
    InferOutput { name, datatype, shape, parameters, data: (!is_binary).then_some(data) }
}
