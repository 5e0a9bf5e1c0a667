//! The two graphs of a bundle, loaded.
//!
//! A model is owned by one thread. The caller decides which images share a step and which token follows.

use std::{path::Path, sync::Arc, time::Duration};

use crate::blip::{
    kv::{
        cache::{KvCache, PromptPast},
        cross_attention::EncodedImage,
        shape::KvShape,
    },
    manifest::{BundleError, Manifest},
    runtime::Runtime,
    session::SessionConfig,
    text_decoder::{Logits, Prefill, TextDecoder},
    vision_encoder::{Abort, VisionEncoder},
};
use crate::config::catalogue::ExecutionProvider;
use generation::{TokenId, Vocabulary};
use image_processor::PixelValues;

/// A failed run of a graph; for the log.
pub type RunError = ort::Error;

/// The vision encoder and the text decoder of a bundle.
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
    /// ONNX Runtime refuses a graph, its inputs or outputs are not the manifest's, or no execution provider works.
    pub fn load(
        runtime: &Runtime,
        bundle: &Path,
        manifest: &Manifest,
        config: &SessionConfig,
    ) -> Result<Self, BundleError> {
        Ok(Self {
            vision_encoder: VisionEncoder::open(runtime, bundle, manifest, config)?,
            text_decoder: TextDecoder::open(runtime, bundle, manifest, config)?,
            kv_shape: KvShape::from_manifest(manifest),
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

    /// Where the decoder, the longest part of the work, runs.
    pub fn execution_provider(&self) -> ExecutionProvider {
        self.text_decoder.execution_provider()
    }

    /// Memory of an encoded image in bytes.
    pub fn image_bytes(&self) -> u64 {
        self.kv_shape.image_bytes()
    }

    /// Runs the vision encoder once, on all of `images`.
    ///
    /// # Errors
    /// The run failed, or was aborted.
    pub fn encode(&mut self, images: Vec<PixelValues>, abort: &Abort) -> Result<Vec<Arc<EncodedImage>>, RunError> {
        let encoded = self.vision_encoder.encode(images, abort, self.text_decoder.device())?;
        Ok(encoded.into_iter().map(Arc::new).collect())
    }

    /// Runs a prompt on an encoded image. A prompt of only the start token needs no run before its first step, see
    /// [`Self::join_without_past`].
    ///
    /// # Errors
    /// The run failed.
    pub fn prefill(&mut self, image: &EncodedImage, prompt: &[TokenId]) -> Result<Prefill, RunError> {
        self.text_decoder.prefill(image, prompt)
    }

    /// Makes an empty cache.
    pub fn new_cache(&self) -> KvCache {
        self.text_decoder.new_cache()
    }

    /// Adds an image to the end of `cache`: `rows` rows with the past that the prompt left.
    ///
    /// # Errors
    /// A tensor of the image cannot be read.
    pub fn join(
        &self,
        image: Arc<EncodedImage>,
        prefill: Prefill,
        rows: usize,
        cache: &mut KvCache,
    ) -> Result<(), RunError> {
        cache.push(image, prefill.past, rows)
    }

    /// Adds an image to the end of `cache`: a single row that the next step feeds the start token.
    ///
    /// # Errors
    /// A tensor of the image cannot be read.
    pub fn join_without_past(&self, image: Arc<EncodedImage>, cache: &mut KvCache) -> Result<(), RunError> {
        cache.push(image, PromptPast::default(), 1)
    }

    /// Runs one decoder step for all rows of `cache`; `input_ids` is `[rows]`.
    ///
    /// # Errors
    /// The run failed; the cache may be half-written.
    pub fn step(&mut self, cache: &mut KvCache, input_ids: &[i64]) -> Result<Logits, RunError> {
        self.text_decoder.step(cache, input_ids)
    }

    /// Returns the time spent inside ONNX Runtime since the last call.
    pub fn take_run_time(&mut self) -> Duration {
        std::mem::take(&mut self.vision_encoder.run_time) + std::mem::take(&mut self.text_decoder.run_time)
    }
}

impl std::fmt::Debug for BlipModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlipModel").field("vocabulary", &self.vocabulary).finish_non_exhaustive()
    }
}
