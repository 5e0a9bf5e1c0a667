//! `pixel_values` -> the keys and values for the cross-attention of every decoder layer.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use ndarray::{Array4, ArrayView4, Axis};
use ort::{
    memory::MemoryInfo,
    session::{NoSelectedOutputs, RunOptions, Session},
    value::{DynValue, Tensor},
};

use crate::blip::{
    kv::{cross_attention::EncodedImage, device::Device, shape::KvShape},
    manifest::{BundleError, Manifest},
    runtime::Runtime,
    session::{Graph, SessionConfig, TensorSpec, memory_info, open},
    tensor::view,
};
use image_processor::PixelValues;

/// The vision graph.
pub(super) struct VisionEncoder {
    session: Session,
    /// Names of the outputs: key and value of layer 0, of layer 1, and so on.
    outputs: Vec<String>,
    /// The memory that the outputs are written to.
    memory: MemoryInfo<'static>,
    /// Time inside ONNX Runtime since it was last taken.
    pub(super) run_time: Duration,
}

/// Ends a run of the encoder from another thread, at the next node of the graph. It is for one run.
#[derive(Clone)]
pub struct Abort(Arc<RunOptions<NoSelectedOutputs>>);

impl VisionEncoder {
    pub(super) fn open(
        runtime: &Runtime,
        bundle: &Path,
        manifest: &Manifest,
        config: &SessionConfig,
    ) -> Result<Self, BundleError> {
        let shape = KvShape::from_manifest(manifest);
        let (height, width) = manifest.preprocessor.size();
        let inputs = [TensorSpec::f32("pixel_values", [None, Some(3), Some(height), Some(width)])];
        let names =
            (0..shape.layers).flat_map(|layer| ["key", "value"].map(|part| format!("present.{layer}.encoder.{part}")));
        let outputs: Vec<TensorSpec> =
            names.enumerate().map(|(index, name)| TensorSpec::cross_attention(name, shape, index)).collect();
        let graph = Graph::new(bundle, manifest, "vision_encoder.onnx");
        let path = graph.path.clone();
        let (session, provider) = open(runtime, graph, config, &inputs, &outputs)?;
        let failed = |error: ort::Error| BundleError::Session { path, reason: error.to_string() };
        let memory = memory_info(provider, config).map_err(failed)?;
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
        let count = images.len();
        if count == 0 {
            return Ok(Vec::new());
        }
        let mut binding = self.session.create_binding()?;
        binding.bind_input("pixel_values", &Tensor::from_array(stack_images(images)?)?)?;
        for name in &self.outputs {
            binding.bind_output_to_device(name, &self.memory)?;
        }
        let start = Instant::now();
        let results = self.session.run_binding_with_options(&binding, &abort.0);
        self.run_time += start.elapsed();
        let mut results = results?;
        let missing = || ort::Error::new("the vision encoder has not returned an expected output");
        let tensors = self.outputs.iter().map(|name| results.remove(name).ok_or_else(missing));
        let tensors = tensors.collect::<ort::Result<Vec<_>>>()?;
        match device {
            _ if count == 1 => Ok(vec![EncodedImage { tensors }]),
            Some(device) => (0..count as i64)
                .map(|image| Ok(EncodedImage { tensors: device.gather(&tensors, &[image])? }))
                .collect(),
            None => (0..count).map(|image| copy_image(&tensors, image)).collect(),
        }
    }
}

/// `pixel_values` of all images: `[batch, 3, height, width]`. A single image is not copied.
fn stack_images(images: Vec<PixelValues>) -> ort::Result<Array4<f32>> {
    match <[PixelValues; 1]>::try_from(images) {
        Ok([image]) => Ok(image.into_array().insert_axis(Axis(0))),
        Err(images) => {
            let views: Vec<_> = images.iter().map(PixelValues::view).collect();
            ndarray::stack(Axis(0), &views).map_err(ort::Error::wrap)
        }
    }
}

/// Copies one of the images of a run, in the CPU's memory.
fn copy_image(tensors: &[DynValue], image: usize) -> ort::Result<EncodedImage> {
    let copy = |tensor| {
        let images: ArrayView4<'_, f32> = view(tensor)?;
        let image = images.index_axis_move(Axis(0), image).insert_axis(Axis(0));
        Ok(Tensor::from_array(image.to_owned())?.into_dyn())
    };
    Ok(EncodedImage { tensors: tensors.iter().map(copy).collect::<ort::Result<_>>()? })
}

impl Abort {
    /// Makes the handle of one run.
    ///
    /// # Errors
    /// ONNX Runtime cannot allocate it.
    pub fn new() -> ort::Result<Self> {
        RunOptions::new().map(|options| Self(Arc::new(options)))
    }

    /// Ends the run in progress, or else the next one.
    pub fn abort(&self) {
        if let Err(error) = self.0.terminate() {
            tracing::warn!(%error, "a run of the vision encoder could not be aborted");
        }
    }
}

impl std::fmt::Debug for Abort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Abort")
    }
}
