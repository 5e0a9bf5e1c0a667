//! `pixel_values` -> the keys and values that every decoder layer's cross-attention looks at.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use ort::{
    memory::MemoryInfo,
    session::{NoSelectedOutputs, RunOptions, Session},
    value::{DynValue, Tensor},
};

use crate::blip::{
    kv::device::Device,
    manifest::{BundleError, Manifest},
    runtime::Runtime,
    session::{Expected, Graph, SessionConfig, memory_of, open},
};
use image_processor::PixelValues;

/// The vision graph.
pub(super) struct VisionEncoder {
    session: Session,
    outputs: Vec<String>,
    /// Where the outputs go.
    memory: MemoryInfo<'static>,
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
        let graph = Graph::of(bundle, manifest, "vision_encoder.onnx");
        let path = graph.path.clone();
        let (session, provider) = open(runtime, graph, config, &inputs, &outputs)?;
        let failed = |error: ort::Error| BundleError::Session { path, reason: error.to_string() };
        let memory = memory_of(provider, config).map_err(failed)?;
        let outputs = outputs.into_iter().map(|output| output.name).collect();
        Ok(Self { session, outputs, memory, run_time: Duration::ZERO })
    }

    /// Runs the encoder once, on images of one size.
    pub(super) fn encode(
        &mut self,
        images: Vec<PixelValues>,
        abort: &Abort,
        device: Option<&mut Device>,
    ) -> ort::Result<Vec<EncodedImage>> {
        let Some(first) = images.first() else { return Ok(Vec::new()) };
        let shape = [images.len(), 3, first.height(), first.width()];
        let data = match <[PixelValues; 1]>::try_from(images) {
            Ok([image]) => image.into_array().into_raw_vec_and_offset().0,
            Err(images) => images.into_iter().flat_map(PixelValues::into_array).collect(),
        };
        let mut binding = self.session.create_binding()?;
        binding.bind_input("pixel_values", &Tensor::from_array((shape, data))?)?;
        for name in &self.outputs {
            binding.bind_output_to_device(name, &self.memory)?;
        }
        let start = Instant::now();
        let results = self.session.run_binding_with_options(&binding, &abort.0);
        self.run_time += start.elapsed();
        let mut results = results?;
        let missing = || ort::Error::new("the vision encoder gave no cross-attention tensor");
        let cross = self.outputs.iter().map(|name| results.remove(name).ok_or_else(missing));
        let cross = cross.collect::<ort::Result<Vec<_>>>()?;
        match (shape[0], device) {
            (1, _) => Ok(vec![EncodedImage { cross }]),
            (count, Some(device)) => {
                (0..count as i64).map(|image| Ok(EncodedImage { cross: device.gather(&cross, &[image])? })).collect()
            }
            (count, None) => (0..count).map(|image| EncodedImage::of_many(&cross, image)).collect(),
        }
    }
}

impl EncodedImage {
    /// One of the images of a run, in the CPU's memory.
    fn of_many(cross: &[DynValue], image: usize) -> ort::Result<Self> {
        let one = |tensor: &DynValue| {
            let (shape, data) = tensor.try_extract_tensor::<f32>()?;
            let len = shape[1..].iter().product::<i64>() as usize;
            let shape = [1, shape[1], shape[2], shape[3]];
            Ok(Tensor::from_array((shape, data[image * len..][..len].to_vec()))?.into_dyn())
        };
        Ok(Self { cross: cross.iter().map(one).collect::<ort::Result<_>>()? })
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
