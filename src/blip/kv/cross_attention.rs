//! The encoded images that decode together: keys and values of every cross-attention.
//!
//! A single image is used as the encoder left it. Several are stacked one after the other, so that each is copied once
//! when it joins and at most one is moved when another leaves.

use std::sync::Arc;

use ndarray::{Array4, ArrayView4, Axis, Slice};
use ort::{
    session::SessionInputValue,
    value::{DynValue, TensorRef},
};

use crate::blip::{
    kv::{device::Device, shape::KvShape},
    tensor::view,
};

/// One image as the decoder reads it, computed once however many tokens and beams follow.
pub struct EncodedImage {
    /// Per layer key, value: `[1, heads, head_dim, tokens]`, `[1, heads, tokens, head_dim]`, f32.
    pub(crate) tensors: Vec<DynValue>,
}

/// Keys and values of the images in a cache, by slot.
pub(crate) enum CrossAttention {
    Host(HostImages),
    Device(DeviceImages),
}

/// The images in the CPU's memory.
pub(crate) struct HostImages {
    shape: KvShape,
    images: usize,
    single: Option<Arc<EncodedImage>>,
    /// `[layers * 2][slots, heads, head_dim, tokens]` (key) and `[slots, heads, tokens, head_dim]` (value); the first
    /// `images` slots are in use unless there is a single image.
    stacked: Vec<Array4<f32>>,
}

/// The images in the memory of a device.
#[derive(Default)]
pub(crate) struct DeviceImages {
    slots: Vec<DeviceSlot>,
    /// `[layers * 2][images, ...]` as last arranged.
    stacked: Vec<DynValue>,
}

enum DeviceSlot {
    /// The image at this index of `stacked`.
    Stacked(usize),
    New(Arc<EncodedImage>),
}

impl CrossAttention {
    pub(crate) fn new(shape: KvShape, on_device: bool) -> Self {
        if on_device { Self::Device(DeviceImages::default()) } else { Self::Host(HostImages::new(shape)) }
    }

    /// Adds an image and returns its slot.
    pub(crate) fn push(&mut self, image: Arc<EncodedImage>) -> ort::Result<usize> {
        match self {
            Self::Host(images) => images.push(image),
            Self::Device(images) => Ok(images.push(image)),
        }
    }

    /// Removes the image of a slot; that of the last slot moves there.
    pub(crate) fn swap_remove(&mut self, slot: usize) {
        match self {
            Self::Host(images) => images.swap_remove(slot),
            Self::Device(images) => images.swap_remove(slot),
        }
    }

    /// Applies the recorded changes on the device.
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
        Self { shape, images: 0, single: None, stacked: empty(shape) }
    }

    fn push(&mut self, image: Arc<EncodedImage>) -> ort::Result<usize> {
        if self.images == 0 {
            self.single = Some(image);
        } else {
            if let Some(first) = self.single.take() {
                self.append(0, &first)?;
            }
            self.append(self.images, &image)?;
        }
        self.images += 1;
        Ok(self.images - 1)
    }

    fn append(&mut self, slot: usize, image: &EncodedImage) -> ort::Result<()> {
        for (stacked, tensor) in self.stacked.iter_mut().zip(&image.tensors) {
            let tensor: ArrayView4<'_, f32> = view(tensor)?;
            if slot < stacked.len_of(Axis(0)) {
                stacked.slice_axis_mut(Axis(0), Slice::from(slot..=slot)).assign(&tensor);
            } else {
                stacked.append(Axis(0), tensor).map_err(ort::Error::wrap)?;
            }
        }
        Ok(())
    }

    fn swap_remove(&mut self, slot: usize) {
        self.images -= 1;
        self.single = None;
        if self.images == 0 {
            // An idle server holds no memory for images.
            self.stacked = empty(self.shape);
        } else if slot < self.images {
            for stacked in &mut self.stacked {
                let (mut remaining, last) = stacked.view_mut().split_at(Axis(0), self.images);
                remaining.index_axis_mut(Axis(0), slot).assign(&last.index_axis(Axis(0), 0));
            }
        }
    }

    fn input(&self, index: usize) -> ort::Result<SessionInputValue<'_>> {
        if let Some(image) = &self.single {
            return Ok((&image.tensors[index]).into());
        }
        let images = self.stacked[index].slice_axis(Axis(0), Slice::from(..self.images));
        Ok(TensorRef::from_array_view(images)?.into())
    }
}

impl DeviceImages {
    fn push(&mut self, image: Arc<EncodedImage>) -> usize {
        self.slots.push(DeviceSlot::New(image));
        self.slots.len() - 1
    }

    fn swap_remove(&mut self, slot: usize) {
        self.slots.swap_remove(slot);
        if self.slots.is_empty() {
            self.stacked.clear();
        }
    }

    fn arrange(&mut self, device: &mut Device) -> ort::Result<()> {
        let in_place =
            |(place, slot): (usize, &DeviceSlot)| matches!(slot, DeviceSlot::Stacked(index) if *index == place);
        let kept = self.slots.iter().filter(|slot| matches!(slot, DeviceSlot::Stacked(_))).count();
        let stacked_images = self.stacked.first().map_or(0, |tensor| tensor.shape()[0] as usize);
        if self.slots.iter().enumerate().all(in_place) && kept == stacked_images {
            return Ok(());
        }
        if let [DeviceSlot::New(_)] = self.slots[..] {
            // A single image is used as the encoder left it.
            return Ok(());
        }
        let (mut count, mut order) = (stacked_images, Vec::with_capacity(self.slots.len()));
        for slot in &self.slots {
            match slot {
                DeviceSlot::Stacked(index) => order.push(*index as i64),
                DeviceSlot::New(image) => {
                    self.stacked = if self.stacked.is_empty() {
                        device.gather(&image.tensors, &[0])?
                    } else {
                        device.concat(&self.stacked, &image.tensors)?
                    };
                    order.push(count as i64);
                    count += 1;
                }
            }
        }
        if !order.iter().copied().eq(0..count as i64) {
            self.stacked = device.gather(&self.stacked, &order)?;
        }
        for (place, slot) in self.slots.iter_mut().enumerate() {
            *slot = DeviceSlot::Stacked(place);
        }
        Ok(())
    }

    fn input(&self, index: usize) -> SessionInputValue<'_> {
        match &self.slots[..] {
            [DeviceSlot::New(image)] => (&image.tensors[index]).into(),
            _ => (&self.stacked[index]).into(),
        }
    }
}

/// Stacks of no image.
fn empty(shape: KvShape) -> Vec<Array4<f32>> {
    (0..shape.tensors()).map(|index| Array4::zeros(shape.cross_attention(index, 0))).collect()
}

impl std::fmt::Debug for EncodedImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EncodedImage")
    }
}

#[cfg(test)]
mod tests {
    use ort::value::Tensor;

    use super::*;
    use crate::blip::runtime::test_library;

    const SHAPE: KvShape = KvShape { layers: 1, heads: 2, head_dim: 3, image_tokens: 4 };

    fn image(number: f32) -> Arc<EncodedImage> {
        let tensor = |index| Array4::from_elem(SHAPE.cross_attention(index, 1), number);
        let tensors = (0..SHAPE.tensors()).map(|index| Tensor::from_array(tensor(index)).unwrap().into_dyn());
        Arc::new(EncodedImage { tensors: tensors.collect() })
    }

    /// Where tensor 0 lies that the decoder takes, and the first number of each of its images.
    fn input(images: &HostImages) -> (*const f32, Vec<f32>) {
        let input = images.input(0).unwrap();
        let tensor: ArrayView4<'_, f32> = view(&input).unwrap();
        (tensor.as_ptr(), tensor.outer_iter().map(|image| image[[0, 0, 0]]).collect())
    }

    #[test]
    fn a_single_image_is_not_copied() {
        let _library = test_library();
        let (mut images, single) = (HostImages::new(SHAPE), image(1.0));
        images.push(single.clone()).unwrap();
        let encoded: ArrayView4<'_, f32> = view(&single.tensors[0]).unwrap();
        assert_eq!(input(&images), (encoded.as_ptr(), vec![1.0]));
    }

    #[test]
    fn a_removed_image_moves_only_the_last_one_and_its_memory_is_reused() {
        let _library = test_library();
        let mut images = HostImages::new(SHAPE);
        for number in [1.0, 2.0, 3.0] {
            images.push(image(number)).unwrap();
        }
        let (memory, numbers) = input(&images);
        assert_eq!(numbers, [1.0, 2.0, 3.0]);
        images.swap_remove(0);
        assert_eq!(input(&images), (memory, vec![3.0, 2.0]));
        images.push(image(4.0)).unwrap();
        assert_eq!(input(&images), (memory, vec![3.0, 2.0, 4.0]));
        images.swap_remove(2);
        assert_eq!(input(&images), (memory, vec![3.0, 2.0]));
    }

    #[test]
    fn no_memory_is_held_for_removed_images() {
        let _library = test_library();
        let mut images = HostImages::new(SHAPE);
        for number in [1.0, 2.0] {
            images.push(image(number)).unwrap();
        }
        images.swap_remove(1);
        images.swap_remove(0);
        assert!(images.stacked.iter().all(ndarray::ArrayBase::is_empty));
        images.push(image(5.0)).unwrap();
        images.push(image(6.0)).unwrap();
        assert_eq!(input(&images).1, [5.0, 6.0]);
    }
}
