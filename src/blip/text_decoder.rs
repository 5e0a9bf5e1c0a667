//! The decoder graph: token ids and a [`KvCache`] in, logits and the new keys and values out.

use std::{borrow::Cow, path::Path};

use ort::{
    session::{Session, SessionInputValue},
    value::{DynValue, TensorRef},
};

use super::{
    kv_cache::{KvCache, KvShape},
    manifest::{BundleError, Manifest},
    runtime::Runtime,
    session::{Expected, SessionConfig, open},
    vision_encoder::EncodedImage,
};
use crate::generation::TokenId;

/// The decoder graph.
pub(super) struct TextDecoder {
    session: Session,
    names: Names,
    /// `[1, heads, 1, head_dim]` of zeros: the past of a prompt, which is masked as a whole.
    no_past: Vec<f32>,
    no_past_shape: [usize; 4],
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
    pub prompt_len: usize,
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
        let mut inputs = vec![Expected::i64("input_ids", &[-1, -1]), Expected::i64("past_lengths", &[-1])];
        let mut outputs = vec![Expected::f32("logits", &[-1, manifest.text.vocab_size as i64])];
        for index in 0..shape.layers * 2 {
            let cross = if index % 2 == 0 { [-1, heads, head_dim, tokens] } else { [-1, heads, tokens, head_dim] };
            let decoder = [-1, heads, -1, head_dim];
            inputs.push(Expected::f32(&names.past_encoder[index], &cross));
            inputs.push(Expected::f32(&names.past_decoder[index], &decoder));
            outputs.push(Expected::f32(&names.present[index], &decoder));
        }
        let session = open(runtime, bundle.join("text_decoder.onnx"), config, &inputs, &outputs)?;
        let no_past_shape = [1, shape.heads, 1, shape.head_dim];
        Ok(Self { session, names, no_past: vec![0.0; shape.heads * shape.head_dim], no_past_shape })
    }

    /// Runs a prompt, alone: its result never depends on company.
    pub(super) fn prefill(&mut self, image: &EncodedImage, prompt: &[TokenId]) -> ort::Result<Prefill> {
        let input_ids: Vec<i64> = prompt.iter().map(|id| i64::from(*id)).collect();
        let mut inputs: Inputs<'_> = vec![
            ("input_ids".into(), TensorRef::from_array_view(([1, prompt.len()], input_ids.as_slice()))?.into()),
            ("past_lengths".into(), TensorRef::from_array_view(([1_usize], [0_i64].as_slice()))?.into()),
        ];
        for (name, cross) in self.names.past_encoder.iter().zip(&image.cross) {
            inputs.push((name.into(), cross.into()));
        }
        for name in &self.names.past_decoder {
            inputs
                .push((name.into(), TensorRef::from_array_view((self.no_past_shape, self.no_past.as_slice()))?.into()));
        }
        let mut outputs = self.session.run(inputs)?;
        let missing = || ort::Error::new("the text decoder gave no tensor of this name");
        let logits = Logits(outputs.remove("logits").ok_or_else(missing)?);
        let present = self.names.present.iter().map(|name| outputs.remove(name).ok_or_else(missing));
        Ok(Prefill { logits, prompt_len: prompt.len(), present: present.collect::<ort::Result<_>>()? })
    }

    /// One step of every row in `cache`, whatever their past lengths; `input_ids` is `[rows]`.
    pub(super) fn step(&mut self, cache: &mut KvCache, input_ids: &[i64]) -> ort::Result<Logits> {
        let rows = cache.rows();
        let mut inputs: Inputs<'_> = vec![
            ("input_ids".into(), TensorRef::from_array_view(([rows, 1], input_ids))?.into()),
            ("past_lengths".into(), TensorRef::from_array_view(([rows], cache.past_lengths()))?.into()),
        ];
        for (index, name) in self.names.past_encoder.iter().enumerate() {
            inputs.push((name.into(), TensorRef::from_array_view(cache.encoder_tensor(index))?.into()));
        }
        for (index, name) in self.names.past_decoder.iter().enumerate() {
            inputs.push((name.into(), TensorRef::from_array_view(cache.decoder_tensor(index))?.into()));
        }
        let mut outputs = self.session.run(inputs)?;
        for (index, name) in self.names.present.iter().enumerate() {
            let (_, present) = outputs[name.as_str()].try_extract_tensor::<f32>()?;
            cache.append(index, present);
        }
        cache.advance();
        outputs.remove("logits").map(Logits).ok_or_else(|| ort::Error::new("the text decoder gave no logits"))
    }
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
}

impl Prefill {
    /// Adds the image to `cache`.
    pub(super) fn join(&self, image: &EncodedImage, cache: &mut KvCache) -> ort::Result<()> {
        let present = self.present.iter().map(|value| Ok(value.try_extract_tensor::<f32>()?.1));
        cache.push(image, &present.collect::<ort::Result<Vec<_>>>()?, self.prompt_len)
    }
}

impl Logits {
    /// Row-major.
    pub fn as_slice(&self) -> ort::Result<&[f32]> {
        Ok(self.0.try_extract_tensor::<f32>()?.1)
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
