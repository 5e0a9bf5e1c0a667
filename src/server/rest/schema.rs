//! Bodies of the wire. Those of requests are for `/openapi.json` alone: `convert` reads them by hand, so that a mistake
//! names its field.
#![allow(dead_code, clippy::struct_field_names, reason = "some are never constructed; the names are the wire's")]

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::server::protocol::open_inference::metadata;

/// The process is up.
#[derive(ToSchema)]
pub(super) struct Live {
    live: bool,
}

/// Whether requests are taken.
#[derive(Serialize, ToSchema)]
pub(super) struct Ready<'a> {
    /// Of the model asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) name: Option<&'a str>,
    pub(super) ready: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) error: Option<String>,
    /// As in every failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) request_id: Option<String>,
}

/// The server.
#[derive(Serialize, ToSchema)]
pub(super) struct ServerMetadata<'a> {
    pub(super) name: &'a str,
    pub(super) version: &'a str,
    pub(super) extensions: &'a [&'a str],
}

/// What models have done since the start of the server.
#[derive(ToSchema)]
pub(super) struct Statistics {
    model_stats: Vec<metadata::ModelCounts>,
}

/// Which models to list.
#[derive(ToSchema)]
pub(super) struct RepositoryIndexRequest {
    /// Only those that are ready.
    #[schema(nullable = false)]
    ready: Option<bool>,
}

/// An Open Inference Protocol request. Unknown keys are tolerated.
#[derive(ToSchema)]
pub(super) struct InferRequest {
    /// Returned as it came.
    #[schema(nullable = false, max_length = 1024)]
    id: Option<String>,
    /// Generation parameters; `binary_data_output` asks for the outputs as bytes behind the JSON.
    #[schema(nullable = false)]
    parameters: Option<BTreeMap<String, Value>>,
    /// `img_url` (alias `image_url`) or `image` (base64); `text` (alias `prompt`), optional; any generation parameter.
    #[schema(min_items = 1, max_items = 32)]
    inputs: Vec<InferInput>,
    /// Which outputs: `generated_output` (the default), `token_ids`, `score`, `finish_reason`.
    #[schema(nullable = false, max_items = 4)]
    outputs: Option<Vec<InferRequestedOutput>>,
}

/// A tensor.
#[derive(ToSchema)]
pub(super) struct InferInput {
    #[schema(example = "img_url")]
    name: String,
    #[schema(example = "BYTES")]
    datatype: String,
    /// `[N]` or `[N, 1]`.
    #[schema(min_items = 1, max_items = 2, example = json!([1]))]
    shape: Vec<u32>,
    /// `binary_data_size`, instead of `data`, says how many bytes behind the JSON are this tensor's.
    #[schema(nullable = false)]
    parameters: Option<BTreeMap<String, Value>>,
    /// Row-major, flat or nested as the shape.
    #[schema(nullable = false, example = json!(["https://example.com/cat.jpg"]))]
    data: Option<Vec<Value>>,
}

/// An output asked for.
#[derive(ToSchema)]
pub(super) struct InferRequestedOutput {
    #[schema(example = "score")]
    name: String,
    /// `binary_data`: as bytes behind the JSON.
    #[schema(nullable = false)]
    parameters: Option<BTreeMap<String, Value>>,
}

/// One image: `image_url` or `image`.
#[derive(ToSchema)]
pub(super) struct CaptionRequest {
    /// Returned as it came.
    #[schema(max_length = 1024)]
    id: Option<String>,
    /// Name or alias; the default model if not given.
    model: Option<String>,
    /// http, https or data: URL.
    #[schema(example = "https://example.com/cat.jpg")]
    image_url: Option<String>,
    /// The base64 of an image file.
    image: Option<String>,
    /// Text that the caption continues.
    #[schema(max_length = 16384)]
    prompt: Option<String>,
    parameters: Option<GenerationParameters>,
}

/// The same as a form: generation parameters are fields of their own, or together in `parameters` as JSON.
#[derive(ToSchema)]
pub(super) struct CaptionForm {
    /// An image file; or `image_url`.
    #[schema(nullable = false, format = Binary, content_media_type = "application/octet-stream")]
    image: Option<String>,
    /// http, https or data: URL.
    #[schema(nullable = false)]
    image_url: Option<String>,
    /// Text that the caption continues.
    #[schema(nullable = false)]
    prompt: Option<String>,
    /// Name or alias.
    #[schema(nullable = false)]
    model: Option<String>,
    #[schema(nullable = false, minimum = 1, maximum = 32)]
    num_beams: Option<u32>,
    /// Any other generation parameters, as JSON.
    #[schema(nullable = false)]
    parameters: Option<String>,
}

/// One image, `image_url` or `image`; any generation parameter may stand beside it too.
#[derive(ToSchema)]
pub(super) struct GenerateRequest {
    /// Returned as it came.
    #[schema(max_length = 1024)]
    id: Option<String>,
    /// http, https or data: URL.
    #[schema(example = "https://example.com/cat.jpg")]
    image_url: Option<String>,
    /// The base64 of an image file.
    image: Option<String>,
    /// Text that the caption continues.
    #[schema(max_length = 16384)]
    text_input: Option<String>,
    parameters: Option<GenerationParameters>,
}

/// A server-sent event.
#[derive(ToSchema)]
pub(super) struct Event {
    /// The JSON of a `GenerateResponse`, or of an `Error`.
    #[schema(content_media_type = "application/json")]
    data: String,
}

/// transformers' names and meanings.
#[derive(ToSchema)]
pub(super) struct GenerationParameters {
    /// New tokens at most, prompt not counted.
    #[schema(minimum = 1, maximum = 512)]
    max_new_tokens: Option<u32>,
    /// New tokens before the end token may come.
    min_new_tokens: Option<u32>,
    /// Tokens, prompt and start token counted, before the end token may come.
    min_length: Option<u32>,
    /// 1 is greedy, or sampling; more is beam search.
    #[schema(minimum = 1, maximum = 32)]
    num_beams: Option<u32>,
    /// Captions per image; with beams, at most as many.
    #[schema(minimum = 1, maximum = 32)]
    num_return_sequences: Option<u32>,
    /// Beam scores are divided by length ^ length_penalty.
    length_penalty: Option<f64>,
    /// `true`, `false` or `"never"`.
    early_stopping: Option<Value>,
    /// 1 does nothing.
    #[schema(exclusive_minimum = 0)]
    repetition_penalty: Option<f64>,
    /// No n-gram of this size comes twice; 0 does nothing.
    no_repeat_ngram_size: Option<u32>,
    /// Words that never come.
    #[schema(max_items = 1000)]
    bad_words: Option<Vec<String>>,
    /// Sample instead of taking the most probable token.
    do_sample: Option<bool>,
    /// With `do_sample`.
    #[schema(exclusive_minimum = 0)]
    temperature: Option<f64>,
    /// Sample from the k most probable tokens; 0 is off.
    top_k: Option<u32>,
    /// Sample from the smallest set of tokens with this probability.
    #[schema(minimum = 0, maximum = 1)]
    top_p: Option<f64>,
    /// Makes sampling reproducible.
    seed: Option<u64>,
}
