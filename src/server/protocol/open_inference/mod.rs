//! The Open Inference Protocol, as JSON with or without binary tensors and as gRPC messages.

pub(crate) mod grpc;
pub(crate) mod infer;
pub(crate) mod json;
pub(crate) mod metadata;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod tensor;
