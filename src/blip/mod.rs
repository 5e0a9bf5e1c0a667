//! BLIP on ONNX Runtime: the only module that uses `ort`.
//!
//! A bundle (see `scripts/export_onnx.py`) holds two graphs. The vision encoder turns an image into the keys and values
//! of every cross-attention, once; the text decoder takes those and the self-attention cache and returns logits. Which
//! token follows is decided in `generation`, which images share a step in `engine`.

mod backend;
mod digest;
mod graph_cache;
mod kv;
mod manifest;
mod model;
mod runtime;
mod session;
mod tensor;
mod text_decoder;
mod tokenizer;
mod vision_encoder;

pub use backend::OnnxBackend;
pub use kv::{cache::KvCache, cross_attention::EncodedImage};
pub use manifest::{BundleError, Manifest};
pub use model::{BlipModel, RunError};
pub use runtime::{Runtime, RuntimeError};
pub use session::SessionConfig;
pub use text_decoder::{Logits, Prefill};
pub use tokenizer::{TokenizeError, Tokenizer};
pub use vision_encoder::Abort;
