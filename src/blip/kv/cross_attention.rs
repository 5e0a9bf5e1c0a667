//! The encoded images that decode together: keys and values of every cross-attention.
//!
//! A lone image is used as the encoder left it. In company the images lie one behind the other, so that each is copied once
//! when it comes and at most one is moved when another leaves.

use std::sync::Arc;

use ort::{session::SessionInputValue, value::TensorRef};

use crate::blip::{
    kv::{
        cache::KvShape,
        device::{Device, DeviceImages},
    },
    vision_encoder::EncodedImage,
};

/// Keys and values of the images in a cache, by slot.
pub(crate) enum CrossAttention {
    Host(HostImages),
    Device(DeviceImages),
}

/// In the CPU's memory.
pub(crate) struct HostImages {
    shape: KvShape,
    images: usize,
    alone: Option<Arc<EncodedImage>>,
    /// `[layers * 2][images, heads, head_dim, tokens]` (key) and `[images, heads, tokens, head_dim]` (value).
    together: Vec<Vec<f32>>,
}

impl CrossAttention {
    pub(crate) fn new(shape: KvShape, on_device: bool) -> Self {
        if on_device { Self::Device(DeviceImages::default()) } else { Self::Host(HostImages::new(shape)) }
    }

    /// Takes in an image and says its slot.
    pub(crate) fn push(&mut self, image: Arc<EncodedImage>) -> ort::Result<usize> {
        match self {
            Self::Host(images) => images.push(image),
            Self::Device(images) => Ok(images.push(image)),
        }
    }

    /// Takes out the image of a slot; that of the last slot moves there.
    pub(crate) fn swap_remove(&mut self, slot: usize) {
        match self {
            Self::Host(images) => images.swap_remove(slot),
            Self::Device(images) => images.swap_remove(slot),
        }
    }

    /// Carries out what has changed.
    pub(crate) fn arrange(&mut self, device: Option<&mut Device>) -> ort::Result<()> {
        match (self, device) {
            (Self::Device(images), Some(device)) => images.arrange(device),
            _ => Ok(()),
        }
    }

    /// Tensor `index` (key, value of layer 0, 1, ...) as the decoder takes it.
    pub(crate) fn input(&self, index: usize) -> ort::Result<SessionInputValue<'_>> {
        match self {
            Self::Host(images) => images.input(index),
            Self::Device(images) => Ok(images.input(index)),
        }
    }
}

impl HostImages {
    fn new(shape: KvShape) -> Self {
        Self { shape, images: 0, alone: None, together: vec![Vec::new(); shape.layers * 2] }
    }

    fn push(&mut self, image: Arc<EncodedImage>) -> ort::Result<usize> {
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

    fn swap_remove(&mut self, slot: usize) {
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

    fn input(&self, index: usize) -> ort::Result<SessionInputValue<'_>> {
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
