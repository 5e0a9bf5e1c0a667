//! BLIP on ONNX Runtime: the only room that knows `ort`.
//!
//! A bundle (see `scripts/export_onnx.py`) holds two graphs. The vision encoder turns an image into the keys and values
//! of every cross-attention, once; the text decoder takes those and the self-attention cache and gives logits. Which
//! token follows is decided elsewhere (`generation`), and which images share a step too (`engine`).

mod kv_cache;
mod manifest;
mod runtime;
mod session;
mod text_decoder;
mod tokenizer;
mod vision_encoder;

use std::path::Path;

pub use kv_cache::{BatchKey, KvCache};
pub use manifest::{BundleError, Manifest};
pub use runtime::{Runtime, RuntimeError};
pub use session::SessionConfig;
pub use text_decoder::{Logits, Prefill};
pub use tokenizer::{TokenizeError, Tokenizer};
pub use vision_encoder::EncodedImage;

use crate::{
    generation::{TokenId, Vocabulary},
    image::PixelValues,
};
use kv_cache::KvShape;
use text_decoder::TextDecoder;
use vision_encoder::VisionEncoder;

/// A failed run of a graph; for the log.
pub type RunError = ort::Error;

/// The two graphs of a bundle, loaded. Owned by one thread: a run takes `&mut self`.
pub struct BlipModel {
    vision_encoder: VisionEncoder,
    text_decoder: TextDecoder,
    kv_shape: KvShape,
    vocabulary: Vocabulary,
}

impl BlipModel {
    /// Opens both graphs of a bundle whose files were verified.
    ///
    /// # Errors
    /// ONNX Runtime refuses a graph, its inputs or outputs are not the manifest's, or no execution provider is there.
    pub fn load(
        runtime: &Runtime,
        bundle: &Path,
        manifest: &Manifest,
        config: &SessionConfig,
    ) -> Result<Self, BundleError> {
        Ok(Self {
            vision_encoder: VisionEncoder::open(runtime, bundle, manifest, config)?,
            text_decoder: TextDecoder::open(runtime, bundle, manifest, config)?,
            kv_shape: KvShape::of(manifest),
            vocabulary: Vocabulary {
                size: manifest.text.vocab_size,
                eos_token_id: manifest.text.eos_token_id,
                pad_token_id: manifest.text.pad_token_id,
            },
        })
    }

    /// Width of the logits and the special ids.
    pub fn vocabulary(&self) -> Vocabulary {
        self.vocabulary
    }

    /// Runs the vision encoder on one image.
    ///
    /// # Errors
    /// The run failed.
    pub fn encode(&mut self, pixel_values: &PixelValues) -> Result<EncodedImage, RunError> {
        self.vision_encoder.encode(pixel_values)
    }

    /// Runs a prompt (at least one id) on an encoded image.
    ///
    /// # Errors
    /// The run failed.
    pub fn prefill(&mut self, image: &EncodedImage, prompt: &[TokenId]) -> Result<Prefill, RunError> {
        self.text_decoder.prefill(image, prompt)
    }

    /// An empty cache for images of this key.
    pub fn new_cache(&self, key: BatchKey) -> KvCache {
        KvCache::new(self.kv_shape, key)
    }

    /// Adds an image to the end of `cache`, all its rows with the past that the prompt left.
    ///
    /// # Errors
    /// A tensor of the prefill is not readable.
    pub fn join(&self, image: &EncodedImage, prefill: &Prefill, cache: &mut KvCache) -> Result<(), RunError> {
        prefill.join(image, cache)
    }

    /// One decoder step for all rows of `cache`; `input_ids` is `[rows]`.
    ///
    /// # Errors
    /// The run failed; the cache may be half-written.
    pub fn step(&mut self, cache: &mut KvCache, input_ids: &[i64]) -> Result<Logits, RunError> {
        self.text_decoder.step(cache, input_ids)
    }
}

impl std::fmt::Debug for BlipModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlipModel").field("vocabulary", &self.vocabulary).finish_non_exhaustive()
    }
}
