//! The messages and services that `build.rs` generates from `proto/`.
//!
//! They stay in the server: `protocol` converts them to the types of `caption`.
#![allow(missing_docs, unreachable_pub, clippy::pedantic, clippy::enum_variant_names, reason = "generated")]

/// `blip.v1`.
pub(crate) mod blip {
    tonic::include_proto!("blip.v1");
}

/// `inference`: the Open Inference Protocol.
pub(crate) mod inference {
    tonic::include_proto!("inference");
}

/// `grpc.health.v1`.
pub(crate) mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// Writes a `DataType` as its name, as JSON has it.
fn data_type_name<S: serde::Serializer>(number: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    let data_type = inference::DataType::try_from(*number).unwrap_or_default();
    serializer.serialize_str(data_type.as_str_name())
}

/// Encoded `FileDescriptorSet` of every proto under `proto/`, for reflection.
pub(crate) const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
