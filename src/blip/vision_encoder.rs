//! `pixel_values` -> the keys and values that every decoder layer's cross-attention looks at.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use ort::{
    session::{NoSelectedOutputs, RunOptions, Session},
    value::{DynValue, TensorRef},
};

use super::{
    manifest::{BundleError, Manifest},
    runtime::Runtime,
    session::{Expected, Graph, SessionConfig, open},
};
use crate::image::PixelValues;

/// The vision graph.
pub(super) struct VisionEncoder {
    session: Session,
    outputs: Vec<String>,
    /// Time inside ONNX Runtime since it was last asked for.
    pub(super) run_time: Duration,
}

/// Ends a run of the encoder from another thread, at the next node of the graph.
#[derive(Clone)]
pub struct Abort(Arc<RunOptions<NoSelectedOutputs>>);

/// One image as the decoder sees it, computed once however many tokens and beams follow.
pub struct EncodedImage {
    /// Per layer key, value: `[1, heads, head_dim, tokens]`, `[1, heads, tokens, head_dim]`, f32.
    pub(super) cross: Vec<DynValue>,
}

impl VisionEncoder {
    pub(super) fn open(
        runtime: &Runtime,
        bundle: &Path,
        manifest: &Manifest,
        config: &SessionConfig,
    ) -> Result<Self, BundleError> {
        let text = &manifest.text;
        let (heads, head_dim) = (text.num_attention_heads as i64, text.head_dim as i64);
        let tokens = manifest.vision.num_tokens as i64;
        let (height, width) = manifest.preprocessor.size();
        let inputs = [Expected::f32("pixel_values", &[-1, 3, height as i64, width as i64])];
        let outputs: Vec<Expected> = (0..text.num_hidden_layers)
            .flat_map(|layer| {
                [
                    Expected::f32(format!("present.{layer}.encoder.key"), &[-1, heads, head_dim, tokens]),
                    Expected::f32(format!("present.{layer}.encoder.value"), &[-1, heads, tokens, head_dim]),
                ]
            })
            .collect();
        let session = open(runtime, Graph::of(bundle, manifest, "vision_encoder.onnx"), config, &inputs, &outputs)?;
        Ok(Self { session, outputs: outputs.into_iter().map(|output| output.name).collect(), run_time: Duration::ZERO })
    }

    /// Runs the encoder on one image, always alone: its result never depends on company.
    pub(super) fn encode(&mut self, pixel_values: &PixelValues, abort: &Abort) -> ort::Result<EncodedImage> {
        let shape = [1, 3, pixel_values.height, pixel_values.width];
        let input = TensorRef::from_array_view((shape, pixel_values.data.as_slice()))?;
        let start = Instant::now();
        let results = self.session.run_with_options(ort::inputs!["pixel_values" => input], &*abort.0);
        self.run_time += start.elapsed();
        let mut results = results?;
        let missing = || ort::Error::new("the vision encoder gave no cross-attention tensor");
        let cross = self.outputs.iter().map(|name| results.remove(name).ok_or_else(missing));
        Ok(EncodedImage { cross: cross.collect::<ort::Result<_>>()? })
    }
}

impl Abort {
    /// For one run.
    ///
    /// # Errors
    /// ONNX Runtime has no memory.
    pub fn new() -> ort::Result<Self> {
        RunOptions::new().map(|options| Self(Arc::new(options)))
    }

    /// Ends the run, or the next one if none is going on.
    pub fn abort(&self) {
        if let Err(error) = self.0.terminate() {
            tracing::warn!(%error, "a run of the encoder could not be ended");
        }
    }
}

impl std::fmt::Debug for Abort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Abort")
    }
}

impl std::fmt::Debug for EncodedImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EncodedImage")
    }
}
