//! Metadata, configuration and statistics of models, in the messages of the Open Inference Protocol and Triton's extensions.
//!
//! REST sends the same messages as JSON, with the names of their fields (`build.rs`).

use std::time::UNIX_EPOCH;

use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    observability::Total,
    registry::{ModelState, Registry, ServedModel},
    server::protocol::{
        open_inference::response::Output,
        pb::inference::{
            DataType, InferBatchStatistics, InferStatistics, ModelConfig, ModelDynamicBatching, ModelInput,
            ModelMetadataResponse, ModelOutput, ModelStatistics, ModelTransactionPolicy, StatisticDuration,
            model_metadata_response::TensorMetadata, repository_index_response::ModelIndex,
        },
    },
};

/// Extensions of the protocol that are served in full. Clients branch on these names.
pub(crate) const EXTENSIONS: [&str; 4] =
    ["binary_tensor_data", "model_configuration", "model_repository", "statistics"];

/// Name of an input, and whether it is optional.
const INPUTS: [(&str, bool); 3] = [("img_url", false), ("text", true), ("image", true)];

/// Inputs and outputs with the dimension of the images.
pub(crate) fn metadata(model: &ServedModel) -> ModelMetadataResponse {
    let tensor = |name: &str, (datatype, width): (&str, i64)| TensorMetadata {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: vec![-1, width],
    };
    ModelMetadataResponse {
        name: model.name.clone(),
        versions: vec![model.version.clone()],
        platform: "onnx_onnxv1".to_owned(),
        inputs: INPUTS.iter().map(|(name, _)| tensor(name, ("BYTES", 1))).collect(),
        outputs: Output::ALL.iter().map(|output| tensor(output.name(), output.row())).collect(),
    }
}

/// Inputs and outputs without the dimension of the images.
pub(crate) fn config(model: &ServedModel, max_images: usize) -> ModelConfig {
    let input = |(name, optional): &(&str, bool)| ModelInput {
        name: (*name).to_owned(),
        data_type: DataType::TypeString.into(),
        dims: vec![1],
        optional: *optional,
        ..ModelInput::default()
    };
    let output = |output: &Output| {
        let (datatype, width) = output.row();
        ModelOutput {
            name: output.name().to_owned(),
            data_type: data_type(datatype).into(),
            dims: vec![width],
            ..ModelOutput::default()
        }
    };
    ModelConfig {
        name: model.name.clone(),
        platform: "onnxruntime_onnx".to_owned(),
        backend: "onnxruntime".to_owned(),
        max_batch_size: max_images as i32,
        input: INPUTS.iter().map(input).collect(),
        output: Output::ALL.iter().map(output).collect(),
        // No preferred batch sizes or delays: rows join the decoder at any token.
        dynamic_batching: Some(ModelDynamicBatching::default()),
        model_transaction_policy: Some(ModelTransactionPolicy { decoupled: false }),
    }
}

/// Statistics of a model, with those that Triton does not have.
#[derive(Serialize, ToSchema)]
pub(crate) struct ModelCounts {
    #[serde(flatten)]
    triton: ModelStatistics,
    /// Images that the vision encoder processed.
    encoder_stats: StatisticDuration,
}

/// The statistics with those of the encoder, for REST, whose clients ignore unknown fields.
pub(crate) fn all_statistics(model: &ServedModel) -> ModelCounts {
    let encoder_stats = duration(model.recorder.statistics().encoder_runs);
    ModelCounts { triton: statistics(model), encoder_stats }
}

/// The statistics of a model since it was loaded.
pub(crate) fn statistics(model: &ServedModel) -> ModelStatistics {
    let counts = model.recorder.statistics();
    let runs = counts.decoder_runs.iter().map(|(rows, runs)| InferBatchStatistics {
        batch_size: *rows as u64,
        compute_input: Some(duration(runs.input)),
        compute_infer: Some(duration(runs.infer)),
        compute_output: Some(duration(runs.output)),
    });
    let last = counts.last_inference.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    ModelStatistics {
        name: model.name.clone(),
        version: model.version.clone(),
        last_inference: last.as_ref().map_or(0, |time| saturating(time.as_millis())),
        inference_count: counts.images,
        execution_count: counts.decoder_runs.values().map(|runs| runs.infer.count).sum(),
        inference_stats: Some(InferStatistics {
            success: Some(duration(counts.success)),
            fail: Some(duration(counts.fail)),
            queue: Some(duration(counts.queue)),
            compute_input: Some(duration(counts.compute_input)),
            compute_infer: Some(duration(counts.compute_infer)),
            compute_output: Some(duration(counts.compute_output)),
            cache_hit: Some(duration(counts.cache_hit)),
            cache_miss: Some(duration(counts.cache_miss)),
        }),
        batch_stats: runs.collect(),
    }
}

/// The index of the repository.
pub(crate) fn index(registry: &Registry, only_ready: bool) -> Vec<ModelIndex> {
    let states = registry.index().into_iter().filter(|model| model.problem.is_none() || !only_ready);
    states.map(index_entry).collect()
}

fn index_entry(model: ModelState) -> ModelIndex {
    let state = if model.problem.is_none() { "READY" } else { "UNAVAILABLE" };
    ModelIndex {
        name: model.name,
        version: model.version,
        state: state.to_owned(),
        reason: model.problem.unwrap_or_default().to_owned(),
    }
}

fn data_type(datatype: &str) -> DataType {
    match datatype {
        "INT64" => DataType::TypeInt64,
        "FP32" => DataType::TypeFp32,
        _ => DataType::TypeString,
    }
}

fn duration(total: Total) -> StatisticDuration {
    StatisticDuration { count: total.count, ns: saturating(total.time.as_nanos()) }
}

fn saturating(number: u128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
