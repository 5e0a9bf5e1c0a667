//! The encoded images that decode together: keys and values of every cross-attention.
//!
//! A lone image is used as the encoder left it. In company the images lie one behind the other, so that each is copied once
//! when it comes and at most one is moved when another leaves.

use std::sync::Arc;

use ort::{session::SessionInputValue, value::TensorRef};

use super::{kv_cache::KvShape, vision_encoder::EncodedImage};

/// Keys and values of the images in a cache, by slot.
pub(super) struct CrossAttention {
    shape: KvShape,
    images: usize,
    alone: Option<Arc<EncodedImage>>,
    /// `[layers * 2][images, heads, head_dim, tokens]` (key) and `[images, heads, tokens, head_dim]` (value).
    together: Vec<Vec<f32>>,
}

impl CrossAttention {
    pub(super) fn new(shape: KvShape) -> Self {
        Self { shape, images: 0, alone: None, together: vec![Vec::new(); shape.layers * 2] }
    }

    /// Takes in an image and says its slot.
    pub(super) fn push(&mut self, image: Arc<EncodedImage>) -> ort::Result<usize> {
        if self.images == 0 {
            self.alone = Some(image);
        } else {
            if let Some(first) = self.alone.take() {
                self.append(&first)?;
            }
            self.append(&image)?;
        }
        self.images += 1;
        Ok(self.images - 1)
    }

    /// Takes out the image of a slot; that of the last slot moves there.
    pub(super) fn swap_remove(&mut self, slot: usize) {
        self.images -= 1;
        self.alone = None;
        let len = self.shape.encoder_len();
        for tensor in &mut self.together {
            if self.images == 0 {
                // An idle server keeps no caches.
                *tensor = Vec::new();
            } else {
                tensor.copy_within(self.images * len.., slot * len);
                tensor.truncate(self.images * len);
            }
        }
    }

    /// Tensor `index` (key, value of layer 0, 1, ...) as the decoder takes it.
    pub(super) fn input(&self, index: usize) -> ort::Result<SessionInputValue<'_>> {
        if let Some(image) = &self.alone {
            return Ok((&image.cross[index]).into());
        }
        let KvShape { heads, head_dim, image_tokens, .. } = self.shape;
        let [a, b] = if index.is_multiple_of(2) { [head_dim, image_tokens] } else { [image_tokens, head_dim] };
        let shape = [self.images, heads, a, b];
        Ok(TensorRef::from_array_view((shape, self.together[index].as_slice()))?.into())
    }

    fn append(&mut self, image: &EncodedImage) -> ort::Result<()> {
        for (tensor, value) in self.together.iter_mut().zip(&image.cross) {
            let (_, data) = value.try_extract_tensor::<f32>()?;
            tensor.reserve_exact(data.len());
            tensor.extend_from_slice(data);
        }
        Ok(())
    }
}
