//! Compiles the protos with protox, which needs no protoc, and writes the descriptor set for gRPC reflection.

#![allow(clippy::disallowed_methods, reason = "cargo passes values to build scripts through the environment")]

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

/// Attributes of messages that REST returns as JSON, too.
const JSON_MESSAGE: &str = "#[derive(serde::Serialize, utoipa::ToSchema)]";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let services = ["blip/v1/caption.proto", "inference/grpc_service.proto", "grpc/health/v1/health.proto"];
    let descriptors = protox::compile(services, ["proto"])?;
    let path = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(path, descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".")
        // REST returns these messages as JSON, too, with the names of their fields.
        .type_attribute("inference.ModelMetadataResponse", JSON_MESSAGE)
        .type_attribute("inference.ModelMetadataResponse.TensorMetadata", JSON_MESSAGE)
        .type_attribute("inference.ModelConfig", JSON_MESSAGE)
        .type_attribute("inference.ModelInput", JSON_MESSAGE)
        .type_attribute("inference.ModelOutput", JSON_MESSAGE)
        .type_attribute("inference.ModelDynamicBatching", JSON_MESSAGE)
        .type_attribute("inference.ModelTransactionPolicy", JSON_MESSAGE)
        .type_attribute("inference.ModelStatistics", JSON_MESSAGE)
        .type_attribute("inference.InferStatistics", JSON_MESSAGE)
        .type_attribute("inference.InferBatchStatistics", JSON_MESSAGE)
        .type_attribute("inference.StatisticDuration", JSON_MESSAGE)
        .type_attribute("inference.RepositoryIndexResponse.ModelIndex", JSON_MESSAGE)
        .field_attribute(
            "data_type",
            "#[serde(serialize_with = \"super::data_type_name\")] #[schema(value_type = String)]",
        )
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .compile_fds(descriptors)?;
    Ok(())
}
