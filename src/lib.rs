//! blip-serve: image captions from BLIP, served over REST and gRPC on ONNX Runtime.
//!
//! # Map
//!
//! The modules in the order that a request passes them. None imports one before it in this list, except that `blip`
//! implements the trait `Backend` of `engine`:
//!
//! - [`cli`]: the commands; `serve` starts the server, `caption` works without it.
//! - [`server`]: HTTP and gRPC. It converts wire formats to the types of [`caption`] and [`error`] to statuses.
//! - [`captioner`]: the path of a request in one function.
//! - [`registry`]: the served models, with their caches and their reload.
//! - [`engine`]: one thread per instance of a model, which decodes all admitted images together.
//! - [`blip`]: the graphs of one model; the only module that uses ONNX Runtime.
//!
//! The modules beside them, which import none of the above:
//!
//! - [`fetch`]: from an untrusted image URL to bytes.
//! - [`config`]: every setting.
//! - [`observability`]: metrics, statistics, logs and traces.
//! - [`caption`], [`error`]: the types of requests, replies and failures.
//!
//! Two crates do not depend on the service: `image-processor`, from an image file to `pixel_values` as Pillow and
//! transformers compute them, and `generation`, from logits to token ids as transformers' `generate` chooses them.
//! `tests/it/layering` checks these rules.

pub mod blip;
pub mod caption;
pub mod captioner;
pub mod cli;
pub mod config;
pub mod engine;
pub mod error;
pub mod fetch;
pub mod observability;
pub mod registry;
pub mod server;
