//! Compiles the protos with protox (no protoc needed) and keeps the descriptor set for gRPC reflection.

#![allow(clippy::disallowed_methods, reason = "cargo speaks to build scripts through the environment")]

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

/// For messages that REST gives as JSON too.
const DESCRIBED: &str = "#[derive(serde::Serialize, utoipa::ToSchema)]";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let services = ["blip/v1/caption.proto", "inference/grpc_service.proto", "grpc/health/v1/health.proto"];
    let descriptors = protox::compile(services, ["proto"])?;
    let path = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(path, descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".")
        // REST gives the same descriptions as JSON, with the names of the messages' fields.
        .type_attribute("inference.ModelMetadataResponse", DESCRIBED)
        .type_attribute("inference.ModelMetadataResponse.TensorMetadata", DESCRIBED)
        .type_attribute("inference.ModelConfig", DESCRIBED)
        .type_attribute("inference.ModelInput", DESCRIBED)
        .type_attribute("inference.ModelOutput", DESCRIBED)
        .type_attribute("inference.ModelDynamicBatching", DESCRIBED)
        .type_attribute("inference.ModelTransactionPolicy", DESCRIBED)
        .type_attribute("inference.ModelStatistics", DESCRIBED)
        .type_attribute("inference.InferStatistics", DESCRIBED)
        .type_attribute("inference.InferBatchStatistics", DESCRIBED)
        .type_attribute("inference.StatisticDuration", DESCRIBED)
        .type_attribute("inference.RepositoryIndexResponse.ModelIndex", DESCRIBED)
        .field_attribute(
            "data_type",
            "#[serde(serialize_with = \"super::data_type_name\")] #[schema(value_type = String)]",
        )
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .compile_fds(descriptors)?;
    Ok(())
}
