//! Keys and values of the images that decode together.
//!
//! A [`KvCache`] holds images of equal beam count and equal capacity, dense and in order, so that its buffers are the
//! decoder's inputs as they lie. Capacity is a function of an image's own length alone, and images of other capacity live
//! in another cache: the sums in a decoder step then run over the same lengths in any company, and so do not change.

use super::{manifest::Manifest, vision_encoder::EncodedImage};

/// Positions that the smallest cache holds; a longer image doubles it.
const MIN_CAPACITY: usize = 32;

/// Sizes that all caches of a model share.
#[derive(Clone, Copy, Debug)]
pub(super) struct KvShape {
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) head_dim: usize,
    /// Vectors of an encoded image.
    pub(super) image_tokens: usize,
}

/// Which images may share a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchKey {
    /// Rows of each image.
    pub rows: usize,
    /// Positions for self-attention.
    pub capacity: usize,
}

/// Keys and values of the images in one decoder batch; rows are image-major.
#[derive(Debug)]
pub struct KvCache {
    shape: KvShape,
    key: BatchKey,
    images: usize,
    /// `[layers * 2][images * rows, heads, capacity, head_dim]`: key and value of self-attention, layer by layer.
    decoder: Vec<Vec<f32>>,
    /// `[layers * 2][images, heads, head_dim, tokens]` (key) and `[images, heads, tokens, head_dim]` (value).
    encoder: Vec<Vec<f32>>,
    /// `[images * rows]`: positions in use; as the decoder's `past_lengths`.
    past_lengths: Vec<i64>,
    scratch: Vec<f32>,
}

impl KvShape {
    pub(super) fn of(manifest: &Manifest) -> Self {
        Self {
            layers: manifest.text.num_hidden_layers,
            heads: manifest.text.num_attention_heads,
            head_dim: manifest.text.head_dim,
            image_tokens: manifest.vision.num_tokens,
        }
    }

    fn encoder_len(self) -> usize {
        self.heads * self.head_dim * self.image_tokens
    }
}

impl BatchKey {
    /// The batch of an image with `rows` rows, `past_length` positions in use and one more to come.
    pub fn new(rows: usize, past_length: usize) -> Self {
        Self { rows, capacity: (past_length + 1).next_power_of_two().max(MIN_CAPACITY) }
    }
}

impl KvCache {
    pub(super) fn new(shape: KvShape, key: BatchKey) -> Self {
        let tensors = || vec![Vec::new(); shape.layers * 2];
        Self {
            shape,
            key,
            images: 0,
            decoder: tensors(),
            encoder: tensors(),
            past_lengths: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Images in it.
    pub fn images(&self) -> usize {
        self.images
    }

    pub(super) fn rows(&self) -> usize {
        self.images * self.key.rows
    }

    pub(super) fn past_lengths(&self) -> &[i64] {
        &self.past_lengths
    }

    /// Shape and data of self-attention tensor `index` (key, value of layer 0, 1, ...).
    pub(super) fn decoder_tensor(&self, index: usize) -> ([usize; 4], &[f32]) {
        ([self.rows(), self.shape.heads, self.key.capacity, self.shape.head_dim], &self.decoder[index])
    }

    /// Shape and data of cross-attention tensor `index`.
    pub(super) fn encoder_tensor(&self, index: usize) -> ([usize; 4], &[f32]) {
        let KvShape { heads, head_dim, image_tokens, .. } = self.shape;
        let [a, b] = if index.is_multiple_of(2) { [head_dim, image_tokens] } else { [image_tokens, head_dim] };
        ([self.images, heads, a, b], &self.encoder[index])
    }

    /// Adds an image after its prompt: every row starts from the same `present`, tensors `[1, heads, prompt, head_dim]`.
    pub(super) fn push(&mut self, image: &EncodedImage, present: &[&[f32]], prompt: usize) -> ort::Result<()> {
        for (tensor, value) in self.encoder.iter_mut().zip(&image.cross) {
            let (_, data) = value.try_extract_tensor::<f32>()?;
            tensor.reserve_exact(data.len());
            tensor.extend_from_slice(data);
        }
        let (capacity, head_dim) = (self.key.capacity, self.shape.head_dim);
        for (tensor, present) in self.decoder.iter_mut().zip(present) {
            tensor.reserve_exact(self.key.rows * self.shape.heads * capacity * head_dim);
            for _ in 0..self.key.rows {
                for head in present.chunks_exact(prompt * head_dim) {
                    tensor.extend_from_slice(head);
                    // Zeros, not whatever was there: the decoder multiplies masked positions by 0, and NaN x 0 is NaN.
                    tensor.resize(tensor.len() + (capacity - prompt) * head_dim, 0.0);
                }
            }
        }
        self.past_lengths.extend(std::iter::repeat_n(prompt as i64, self.key.rows));
        self.images += 1;
        Ok(())
    }

    /// Appends one position to every row: tensors `[images * rows, heads, 1, head_dim]`.
    pub(super) fn append(&mut self, index: usize, present: &[f32]) {
        let KvShape { heads, head_dim, .. } = self.shape;
        let row_len = heads * self.key.capacity * head_dim;
        let rows = self.decoder[index].chunks_exact_mut(row_len).zip(present.chunks_exact(heads * head_dim));
        for ((row, new), past_length) in rows.zip(&self.past_lengths) {
            let position = *past_length as usize * head_dim;
            for (head, new) in row.chunks_exact_mut(self.key.capacity * head_dim).zip(new.chunks_exact(head_dim)) {
                head[position..position + head_dim].copy_from_slice(new);
            }
        }
    }

    /// Counts the position that [`Self::append`] wrote.
    pub(super) fn advance(&mut self) {
        self.past_lengths.iter_mut().for_each(|past_length| *past_length += 1);
    }

    /// Row `i` of an image goes on from its row `beam_idx[i]`.
    pub fn reorder(&mut self, image: usize, beam_idx: &[usize]) {
        if beam_idx.iter().enumerate().all(|(row, parent)| row == *parent) {
            return;
        }
        let row_len = self.shape.heads * self.key.capacity * self.shape.head_dim;
        let block_len = self.key.rows * row_len;
        for tensor in &mut self.decoder {
            let block = &mut tensor[image * block_len..][..block_len];
            self.scratch.clear();
            self.scratch.extend_from_slice(block);
            for (row, parent) in beam_idx.iter().enumerate().filter(|(row, parent)| row != *parent) {
                block[row * row_len..][..row_len].copy_from_slice(&self.scratch[parent * row_len..][..row_len]);
            }
        }
    }

    /// Takes an image out; the last one moves into its place.
    pub fn swap_remove(&mut self, image: usize) {
        let last = self.images - 1;
        let decoder_len = self.key.rows * self.shape.heads * self.key.capacity * self.shape.head_dim;
        let blocks = [(&mut self.decoder, decoder_len), (&mut self.encoder, self.shape.encoder_len())];
        for (tensors, len) in blocks {
            for tensor in tensors {
                tensor.copy_within(last * len..(last + 1) * len, image * len);
                tensor.truncate(last * len);
            }
        }
        let rows = self.key.rows;
        self.past_lengths.copy_within(last * rows..(last + 1) * rows, image * rows);
        self.past_lengths.truncate(last * rows);
        self.images = last;
    }

    /// Moves an image to the end of `target`, a cache of larger capacity and as many rows.
    pub fn move_to(&mut self, image: usize, target: &mut Self) {
        let (from, to) = (self.key.capacity * self.shape.head_dim, target.key.capacity * self.shape.head_dim);
        let heads = self.key.rows * self.shape.heads;
        for (source, tensor) in self.decoder.iter().zip(&mut target.decoder) {
            for head in source[image * heads * from..][..heads * from].chunks_exact(from) {
                tensor.extend_from_slice(head);
                tensor.resize(tensor.len() + to - from, 0.0);
            }
        }
        let len = self.shape.encoder_len();
        for (source, tensor) in self.encoder.iter().zip(&mut target.encoder) {
            tensor.extend_from_slice(&source[image * len..][..len]);
        }
        target.past_lengths.extend_from_slice(&self.past_lengths[image * self.key.rows..][..self.key.rows]);
        target.images += 1;
        self.swap_remove(image);
    }
}
