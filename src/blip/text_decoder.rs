//! The decoder graph: token ids and a [`KvCache`] in, logits and the new keys and values out.

use std::{
    borrow::Cow,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use ndarray::ArrayView2;
use ort::{
    session::{Session, SessionInputValue, SessionOutputs},
    value::{DynValue, TensorRef},
};

use crate::blip::{
    kv::{
        cache::{KvCache, KvShape},
        device::Device,
    },
    manifest::{BundleError, Manifest},
    runtime::Runtime,
    session::{Expected, Graph, SessionConfig, builder_for, memory_of, open},
    vision_encoder::EncodedImage,
};
use crate::config::catalogue::ExecutionProvider;
use generation::TokenId;

/// The decoder graph.
pub(super) struct TextDecoder {
    session: Session,
    names: Names,
    shape: KvShape,
    provider: ExecutionProvider,
    /// Where caches are, if that is not the CPU's memory.
    device: Option<Device>,
    /// Time inside ONNX Runtime since it was last asked for.
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

/// What a prompt leaves: the logits of its last position and the keys and values of all.
pub struct Prefill {
    /// `[1, vocab_size]`.
    pub logits: Logits,
    /// Ids in the prompt.
    prompt_len: usize,
    /// `[layers * 2][1, heads, prompt_len, head_dim]`.
    present: Vec<DynValue>,
}

type Inputs<'a> = Vec<(Cow<'a, str>, SessionInputValue<'a>)>;

impl TextDecoder {
    pub(super) fn open(
        runtime: &Runtime,
        bundle: &Path,
        manifest: &Manifest,
        config: &SessionConfig,
    ) -> Result<Self, BundleError> {
        let shape = KvShape::of(manifest);
        let names = Names::new(shape.layers);
        let (heads, head_dim, tokens) = (shape.heads as i64, shape.head_dim as i64, shape.image_tokens as i64);
        let mut inputs = vec![
            Expected::i64("input_ids", &[-1, -1]),
            Expected::i64("past_lengths", &[-1]),
            Expected::i64("image_rows", &[-1, -1]),
            Expected::i64("row_slots", &[-1]),
        ];
        let mut outputs = vec![Expected::f32("logits", &[-1, manifest.text.vocab_size as i64])];
        for index in 0..shape.layers * 2 {
            let cross = if index % 2 == 0 { [-1, heads, head_dim, tokens] } else { [-1, heads, tokens, head_dim] };
            let decoder = [-1, heads, -1, head_dim];
            inputs.push(Expected::f32(&names.past_encoder[index], &cross));
            inputs.push(Expected::f32(&names.past_decoder[index], &decoder));
            outputs.push(Expected::f32(&names.present[index], &decoder));
        }
        let graph = Graph::of(bundle, manifest, "text_decoder.onnx");
        let path = graph.path.clone();
        let (session, provider) = open(runtime, graph, config, &inputs, &outputs)?;
        let on_device = provider == ExecutionProvider::Cuda || config.caches_on_device;
        let device = on_device.then(|| {
            let memory = memory_of(provider, config)?;
            Device::new(&session, memory, || builder_for(provider, runtime, config), shape.layers * 2)
        });
        let failed = |error: ort::Error| BundleError::Session { path, reason: error.to_string() };
        let device = device.transpose().map_err(failed)?;
        Ok(Self { session, names, shape, provider, device, run_time: Duration::ZERO })
    }

    /// Where it runs.
    pub(super) fn execution_provider(&self) -> ExecutionProvider {
        self.provider
    }

    /// An empty cache.
    pub(super) fn new_cache(&self) -> KvCache {
        KvCache::new(self.shape, self.device.is_some())
    }

    /// Where encoded images go.
    pub(super) fn device(&mut self) -> Option<&mut Device> {
        self.device.as_mut()
    }

    /// Runs a prompt, alone: its result never depends on company.
    pub(super) fn prefill(&mut self, image: &EncodedImage, prompt: &[TokenId]) -> ort::Result<Prefill> {
        let prompt_len = prompt.len();
        let input_ids: Vec<i64> = prompt.iter().map(|id| i64::from(*id)).collect();
        let past_shape = [1, self.shape.heads, prompt_len, self.shape.head_dim];
        let past = vec![0.0_f32; past_shape.iter().product()];
        let mut inputs: Inputs<'_> = vec![
            ("input_ids".into(), TensorRef::from_array_view(([1, prompt_len], input_ids.as_slice()))?.into()),
            ("past_lengths".into(), TensorRef::from_array_view(([1], [0_i64].as_slice()))?.into()),
            ("image_rows".into(), TensorRef::from_array_view(([1, 1], [0_i64].as_slice()))?.into()),
            ("row_slots".into(), TensorRef::from_array_view(([1], [0_i64].as_slice()))?.into()),
        ];
        for (name, cross) in self.names.past_encoder.iter().zip(&image.cross) {
            inputs.push((name.into(), cross.into()));
        }
        for name in &self.names.past_decoder {
            inputs.push((name.into(), TensorRef::from_array_view((past_shape, past.as_slice()))?.into()));
        }
        let start = Instant::now();
        let mut outputs = self.session.run(inputs)?;
        self.run_time += start.elapsed();
        let logits = Logits(outputs.remove("logits").ok_or_else(missing)?);
        Ok(Prefill { logits, prompt_len, present: self.names.take_present(&mut outputs)? })
    }

    /// One step of every row in `cache`, whatever their past lengths; `input_ids` is `[rows]`.
    pub(super) fn step(&mut self, cache: &mut KvCache, input_ids: &[i64]) -> ort::Result<Logits> {
        cache.arrange(self.device.as_mut())?;
        let rows = cache.layout.past_lengths.len();
        let layout = &cache.layout;
        let image_rows_shape = [layout.image_rows.len() / layout.beams.max(1), layout.beams];
        let mut inputs: Inputs<'_> = vec![
            ("input_ids".into(), TensorRef::from_array_view(([rows, 1], input_ids))?.into()),
            ("past_lengths".into(), TensorRef::from_array_view(([rows], layout.past_lengths.as_slice()))?.into()),
            ("image_rows".into(), TensorRef::from_array_view((image_rows_shape, layout.image_rows.as_slice()))?.into()),
            ("row_slots".into(), TensorRef::from_array_view(([rows], layout.row_slots.as_slice()))?.into()),
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
            cache.self_attention.stay(present, options);
        }
        cache.advance();
        Ok(logits)
    }
}

fn missing() -> ort::Error {
    ort::Error::new("the text decoder gave no tensor of this name")
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

impl Prefill {
    /// Adds the image with `rows` rows to `cache`.
    pub(super) fn join(self, image: Arc<EncodedImage>, rows: usize, cache: &mut KvCache) -> ort::Result<()> {
        cache.push(image, (self.present, self.prompt_len), rows)
    }
}

impl Logits {
    /// `[rows, vocab_size]`, contiguous in row-major order.
    pub fn view(&self) -> ort::Result<ArrayView2<'_, f32>> {
        let logits = self.0.try_extract_array::<f32>()?;
        logits.into_dimensionality().map_err(|error| ort::Error::new(error.to_string()))
    }
}

impl std::fmt::Debug for Logits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Logits")
    }
}

impl std::fmt::Debug for Prefill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prefill").field("prompt_len", &self.prompt_len).finish_non_exhaustive()
    }
}
