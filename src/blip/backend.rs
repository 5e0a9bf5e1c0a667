//! The engine's [`Backend`] on ONNX Runtime: a model and the cache of the images that decode.

use std::{sync::Arc, time::Duration};

use ndarray::ArrayView2;

use crate::blip::{
    kv::{cache::KvCache, cross_attention::EncodedImage},
    model::{BlipModel, RunError},
    text_decoder::{Logits, Prefill},
    vision_encoder::Abort,
};
use crate::engine::{AbortHandle, Backend};
use generation::TokenId;
use image_processor::PixelValues;

/// A model with its key-value cache.
#[derive(Debug)]
pub struct OnnxBackend {
    model: BlipModel,
    cache: KvCache,
}

impl From<BlipModel> for OnnxBackend {
    fn from(model: BlipModel) -> Self {
        let cache = model.new_cache();
        Self { model, cache }
    }
}

impl Backend for OnnxBackend {
    type EncodedImage = EncodedImage;
    type Prefill = Prefill;
    type Logits = Logits;
    type Abort = Abort;
    type Error = RunError;

    fn abort_handle(&self) -> Result<Abort, RunError> {
        Abort::new()
    }

    fn encode(&mut self, images: Vec<PixelValues>, abort: &Abort) -> Result<Vec<Arc<EncodedImage>>, RunError> {
        self.model.encode(images, abort)
    }

    fn prefill(&mut self, image: &EncodedImage, prompt: &[TokenId]) -> Result<Prefill, RunError> {
        self.model.prefill(image, prompt)
    }

    fn prefill_logits(prefill: &Prefill) -> Result<ArrayView2<'_, f32>, RunError> {
        prefill.logits.view()
    }

    fn join(&mut self, image: Arc<EncodedImage>, past: Option<Prefill>, rows: usize) -> Result<(), RunError> {
        match past {
            Some(prefill) => self.model.join(image, prefill, rows, &mut self.cache),
            None => self.model.join_without_past(image, &mut self.cache),
        }
    }

    fn swap_remove(&mut self, index: usize) {
        self.cache.swap_remove(index);
    }

    fn reorder(&mut self, index: usize, beam_idx: &[usize]) -> Result<(), RunError> {
        self.cache.reorder(index, beam_idx)
    }

    fn step(&mut self, input_ids: &[TokenId]) -> Result<Logits, RunError> {
        let input_ids: Vec<i64> = input_ids.iter().copied().map(i64::from).collect();
        self.model.step(&mut self.cache, &input_ids)
    }

    fn logits(logits: &Logits) -> Result<ArrayView2<'_, f32>, RunError> {
        logits.view()
    }

    fn release(&mut self) {
        self.cache.release();
    }

    fn clear(&mut self) {
        self.cache = self.model.new_cache();
    }

    fn take_run_time(&mut self) -> Duration {
        self.model.take_run_time()
    }
}

impl AbortHandle for Abort {
    fn abort(&self) {
        self.abort();
    }
}
