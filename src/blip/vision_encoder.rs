//! `pixel_values` -> the keys and values that every decoder layer's cross-attention looks at.

use std::path::Path;

use ort::{
    session::Session,
    value::{DynValue, TensorRef},
};

use super::{
    manifest::{BundleError, Manifest},
    runtime::Runtime,
    session::{Expected, SessionConfig, open},
};
use crate::image::PixelValues;

/// The vision graph.
pub(super) struct VisionEncoder {
    session: Session,
    outputs: Vec<String>,
}

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
        let session = open(runtime, bundle.join("vision_encoder.onnx"), config, &inputs, &outputs)?;
        Ok(Self { session, outputs: outputs.into_iter().map(|output| output.name).collect() })
    }

    /// Runs the encoder on one image, always alone: its result never depends on company.
    pub(super) fn encode(&mut self, pixel_values: &PixelValues) -> ort::Result<EncodedImage> {
        let shape = [1, 3, pixel_values.height, pixel_values.width];
        let input = TensorRef::from_array_view((shape, pixel_values.data.as_slice()))?;
        let mut results = self.session.run(ort::inputs!["pixel_values" => input])?;
        let missing = || ort::Error::new("the vision encoder gave no cross-attention tensor");
        let cross = self.outputs.iter().map(|name| results.remove(name).ok_or_else(missing));
        Ok(EncodedImage { cross: cross.collect::<ort::Result<_>>()? })
    }
}

impl std::fmt::Debug for EncodedImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EncodedImage")
    }
}
