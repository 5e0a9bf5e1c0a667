//! blip-serve: image captions from BLIP, on ONNX Runtime.
//!
//! # Layout
//!
//! In the order a request passes them:
//!
//! - [`server`]: the only room that knows HTTP and gRPC; wire -> [`caption`] types, [`error`] -> statuses.
//! - [`captioner`]: the path of a request in one function.
//! - [`fetch`]: image URL -> bytes.
//! - [`image`]: bytes -> `pixel_values`, as Pillow and transformers do it.
//! - [`registry`]: the served models, from [`catalogue`] (`models.toml`).
//! - [`engine`]: one thread per model, decoding all admitted images together.
//! - [`blip`]: the graphs; the only room that knows ONNX Runtime.
//! - [`generation`]: which token comes next. Pure arithmetic.
//!
//! Around them: [`cli`], [`config`], [`limits`], [`fetch_config`] and [`api_keys`] (settings), [`telemetry`] (logs), [`statistics`] and
//! [`metrics`] (counts).

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
