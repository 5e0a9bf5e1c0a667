//! Compiles the protos with protox (no protoc needed), keeps the descriptor set for gRPC reflection, and compiles the
//! SIMD parts of JPEG, one of which also makes damaged files decode as they do in Pillow.

#![allow(clippy::disallowed_methods, reason = "cargo speaks to build scripts through the environment")]

use std::{
    env,
    error::Error,
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use prost::Message;

/// The functions of libjpeg that the C files in `src/image/decode/jpeg` stand in for.
const REPLACED: [(&str, &[&str]); 3] = [
    ("idct", &["jsimd_can_idct_islow", "jsimd_idct_islow"]),
    (
        "upsample",
        &[
            "jsimd_can_h2v1_fancy_upsample",
            "jsimd_h2v1_fancy_upsample",
            "jsimd_can_h2v2_fancy_upsample",
            "jsimd_h2v2_fancy_upsample",
        ],
    ),
    ("colour", &["jsimd_can_ycc_rgb", "jsimd_ycc_rgb_convert"]),
];

/// For messages that REST gives as JSON too.
const DESCRIBED: &str = "#[derive(serde::Serialize, utoipa::ToSchema)]";

fn main() -> Result<(), Box<dyn Error>> {
    compile_protos()?;
    compile_jpeg()
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

/// On x86-64, the SIMD code that stands in for libjpeg's own, which would need nasm; with `simd-jpeg`, that is there.
fn compile_jpeg() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=src/image/decode/jpeg");
    if env::var("CARGO_CFG_TARGET_ARCH")? != "x86_64" || env::var("CARGO_CFG_TARGET_OS")? != "linux" {
        return Ok(());
    }
    if env::var_os("CARGO_FEATURE_SIMD_JPEG").is_some() {
        // mozjpeg-sys would only warn, and give plain C.
        let nasm = Command::new("nasm").arg("-v").stdout(Stdio::null()).status();
        return if nasm.is_ok_and(|status| status.success()) { Ok(()) } else { Err("simd-jpeg needs nasm".into()) };
    }
    let include = env::var_os("DEP_JPEG_INCLUDE").ok_or("mozjpeg-sys does not say where its headers are")?;
    cc::Build::new()
        .files(REPLACED.map(|(file, _)| format!("src/image/decode/jpeg/{file}.c")))
        .includes(env::split_paths(&include))
        .opt_level(3)
        .link_lib_modifier("+whole-archive")
        .compile("blip_jpeg");
    let wraps = REPLACED.iter().flat_map(|(_, functions)| *functions).map(|function| format!(",--wrap={function}"));
    println!("cargo:rustc-link-arg=-Wl{}", wraps.collect::<String>());
    Ok(())
}
