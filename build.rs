//! Compiles the protos with protox (no protoc needed), keeps the descriptor set for gRPC reflection, and compiles the
//! inverse DCT that makes damaged JPEG files decode as they do in Pillow.

#![allow(clippy::disallowed_methods, reason = "cargo speaks to build scripts through the environment")]

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

/// For messages that REST gives as JSON too.
const DESCRIBED: &str = "#[derive(serde::Serialize, utoipa::ToSchema)]";

fn main() -> Result<(), Box<dyn Error>> {
    compile_protos()?;
    compile_idct()
}

fn compile_protos() -> Result<(), Box<dyn Error>> {
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

/// On x86-64, the inverse DCT that stands in for libjpeg's SIMD code, which would need nasm.
fn compile_idct() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=src/image/decode/jpeg/idct.c");
    if env::var("CARGO_CFG_TARGET_ARCH")? != "x86_64" || env::var("CARGO_CFG_TARGET_OS")? != "linux" {
        return Ok(());
    }
    let include = env::var_os("DEP_JPEG_INCLUDE").ok_or("mozjpeg-sys does not say where its headers are")?;
    cc::Build::new()
        .file("src/image/decode/jpeg/idct.c")
        .includes(env::split_paths(&include))
        .opt_level(3)
        .link_lib_modifier("+whole-archive")
        .compile("blip_idct");
    println!("cargo:rustc-link-arg=-Wl,--wrap=jsimd_can_idct_islow,--wrap=jsimd_idct_islow");
    Ok(())
}
