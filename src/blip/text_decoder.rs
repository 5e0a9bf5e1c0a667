//! The decoder graph: token ids and a [`KvCache`] in, logits and the new keys and values out.

use std::{
    borrow::Cow,
    path::Path,
    time::{Duration, Instant},
};

use ndarray::{Array2, Array4, ArrayView2};
use ort::{
    session::{Session, SessionInputValue, SessionOutputs},
    value::{DynValue, TensorRef},
};

use crate::blip::{
    kv::{
        cache::{KvCache, PromptPast},
        cross_attention::EncodedImage,
        device::Device,
        shape::KvShape,
    },
    manifest::{BundleError, Manifest},
    runtime::Runtime,
    session::{Graph, SessionConfig, TensorSpec, memory_info, new_builder, open},
    tensor::view,
};
use crate::config::catalogue::ExecutionProvider;
use generation::TokenId;

/// The decoder graph.
pub(super) struct TextDecoder {
    session: Session,
    names: Names,
    shape: KvShape,
    provider: ExecutionProvider,
    /// Holds the caches, if they are not in the CPU's memory.
    device: Option<Device>,
    /// Time inside ONNX Runtime since it was last taken.
    pub(super) run_time: Duration,
}

/// Input and output names, layer by layer, key before value.
struct Names {
    past_decoder: Vec<String>,
    past_encoder: Vec<String>,
    present: Vec<String>,
}

/// `[rows, vocab_size]`, f32.
pub struct Logits(DynValue);

/// What a prompt leaves: the logits of its last position and the keys and values of all positions.
pub struct Prefill {
    /// `[1, vocab_size]`.
    pub logits: Logits,
    pub(super) past: PromptPast,
}

type Inputs<'a> = Vec<(Cow<'a, str>, SessionInputValue<'a>)>;

impl TextDecoder {
    pub(super) fn open(
        runtime: &Runtime,
        bundle: &Path,
        manifest: &Manifest,
        config: &SessionConfig,
    ) -> Result<Self, BundleError> {
        let shape = KvShape::from_manifest(manifest);
        let names = Names::new(shape.layers);
        let mut inputs = vec![
            TensorSpec::i64("input_ids", [None, None]),
            TensorSpec::i64("past_lengths", [None]),
            TensorSpec::i64("image_rows", [None, None]),
            TensorSpec::i64("row_slots", [None]),
        ];
        let mut outputs = vec![TensorSpec::f32("logits", [None, Some(manifest.text.vocab_size)])];
        let [heads, head_dim] = [shape.heads, shape.head_dim].map(Some);
        for index in 0..shape.tensors() {
            inputs.push(TensorSpec::cross_attention(&names.past_encoder[index], shape, index));
            inputs.push(TensorSpec::f32(&names.past_decoder[index], [None, heads, None, head_dim]));
            outputs.push(TensorSpec::f32(&names.present[index], [None, heads, None, head_dim]));
        }
        let graph = Graph::new(bundle, manifest, "text_decoder.onnx");
        let path = graph.path.clone();
        let (session, provider) = open(runtime, graph, config, &inputs, &outputs)?;
        let on_device = provider == ExecutionProvider::Cuda || config.caches_on_device;
        let device = on_device.then(|| {
            let memory = memory_info(provider, config)?;
            Device::new(&session, memory, || new_builder(provider, runtime, config), shape.tensors())
        });
        let failed = |error: ort::Error| BundleError::Session { path, reason: error.to_string() };
        let device = device.transpose().map_err(failed)?;
        Ok(Self { session, names, shape, provider, device, run_time: Duration::ZERO })
    }

    /// The execution provider that the graph runs on.
    pub(super) fn execution_provider(&self) -> ExecutionProvider {
        self.provider
    }

    /// Makes an empty cache.
    pub(super) fn new_cache(&self) -> KvCache {
        KvCache::new(self.shape, self.device.is_some())
    }

    /// The device that holds encoded images, if that is not the CPU.
    pub(super) fn device(&mut self) -> Option<&mut Device> {
        self.device.as_mut()
    }

    /// Runs a prompt separately, so that its result never depends on other requests.
    pub(super) fn prefill(&mut self, image: &EncodedImage, prompt: &[TokenId]) -> ort::Result<Prefill> {
        let length = prompt.len();
        let input_ids: Vec<i64> = prompt.iter().map(|id| i64::from(*id)).collect();
        let past = Array4::<f32>::zeros(self.shape.self_attention(1, length));
        let first_row = Array2::<i64>::zeros((1, 1));
        let mut inputs: Inputs<'_> = vec![
            ("input_ids".into(), TensorRef::from_array_view(([1, length], input_ids.as_slice()))?.into()),
            ("past_lengths".into(), TensorRef::from_array_view(first_row.row(0))?.into()),
            ("image_rows".into(), TensorRef::from_array_view(&first_row)?.into()),
            ("row_slots".into(), TensorRef::from_array_view(first_row.row(0))?.into()),
        ];
        for (name, tensor) in self.names.past_encoder.iter().zip(&image.tensors) {
            inputs.push((name.into(), tensor.into()));
        }
        for name in &self.names.past_decoder {
            inputs.push((name.into(), TensorRef::from_array_view(&past)?.into()));
        }
        let start = Instant::now();
        let mut outputs = self.session.run(inputs)?;
        self.run_time += start.elapsed();
        let logits = Logits(outputs.remove("logits").ok_or_else(missing)?);
        let past = PromptPast { tensors: self.names.take_present(&mut outputs)?, length };
        Ok(Prefill { logits, past })
    }

    /// Runs one step of every row in `cache`, whatever their past lengths; `input_ids` is `[rows]`.
    pub(super) fn step(&mut self, cache: &mut KvCache, input_ids: &[i64]) -> ort::Result<Logits> {
        cache.arrange(self.device.as_mut())?;
        let layout = &cache.layout;
        let input_ids = TensorRef::from_array_view(([layout.past_lengths.len(), 1], input_ids))?;
        let mut inputs: Inputs<'_> = vec![
            ("input_ids".into(), input_ids.into()),
            ("past_lengths".into(), TensorRef::from_array_view(&layout.past_lengths)?.into()),
            ("image_rows".into(), TensorRef::from_array_view(&layout.image_rows)?.into()),
            ("row_slots".into(), TensorRef::from_array_view(&layout.row_slots)?.into()),
        ];
        for (index, name) in self.names.past_encoder.iter().enumerate() {
            inputs.push((name.into(), cache.cross_attention.input(index)?));
        }
        for (index, name) in self.names.past_decoder.iter().enumerate() {
            inputs.push((name.into(), cache.self_attention.input(index)?));
        }
        let host = self.session.allocator();
        let allocator = self.device.as_ref().map_or(host, |device| &device.allocator);
        let new = cache.self_attention.new_outputs(allocator, &self.names.present)?;
        let options = new.as_ref().or(cache.self_attention.options()).ok_or_else(missing)?;
        let start = Instant::now();
        let mut outputs = self.session.run_with_options(inputs, options)?;
        self.run_time += start.elapsed();
        let logits = Logits(outputs.remove("logits").ok_or_else(missing)?);
        let present = self.names.take_present(&mut outputs)?;
        drop(outputs);
        if let Some(options) = new {
            cache.self_attention.bind_in_place(present, options);
        }
        cache.advance();
        Ok(logits)
    }
}

fn missing() -> ort::Error {
    ort::Error::new("the text decoder has not returned an expected output")
}

impl Names {
    fn new(layers: usize) -> Self {
        let names = |prefix: &str, side: &str| {
            (0..layers)
                .flat_map(|layer| ["key", "value"].map(|part| format!("{prefix}.{layer}.{side}.{part}")))
                .collect()
        };
        Self {
            past_decoder: names("past_key_values", "decoder"),
            past_encoder: names("past_key_values", "encoder"),
            present: names("present", "decoder"),
        }
    }

    fn take_present(&self, outputs: &mut SessionOutputs<'_>) -> ort::Result<Vec<DynValue>> {
        self.present.iter().map(|name| outputs.remove(name).ok_or_else(missing)).collect()
    }
}

impl Logits {
    /// `[rows, vocab_size]`, contiguous in row-major order.
    pub fn view(&self) -> ort::Result<ArrayView2<'_, f32>> {
        view(&self.0)
    }
}

impl std::fmt::Debug for Logits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Logits")
    }
}

impl std::fmt::Debug for Prefill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prefill").field("length", &self.past.length).finish_non_exhaustive()
    }
}
