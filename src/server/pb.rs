//! The messages and services that `build.rs` generates from `proto/`.
//!
//! They never leave the server room: `convert` turns them into the domain's types.
#![allow(missing_docs, unreachable_pub, clippy::pedantic)]

tonic::include_proto!("blip.v1");

/// Encoded `FileDescriptorSet` of every proto under `proto/`, for reflection.
pub(crate) const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
