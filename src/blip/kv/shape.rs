//! Dimensions of the key and value tensors of a model.

use crate::blip::manifest::Manifest;

/// Sizes that all caches of a model share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KvShape {
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
    /// Vectors of an encoded image.
    pub(crate) image_tokens: usize,
}

impl KvShape {
    pub(crate) fn from_manifest(manifest: &Manifest) -> Self {
        Self {
            layers: manifest.text.num_hidden_layers,
            heads: manifest.text.num_attention_heads,
            head_dim: manifest.text.head_dim,
            image_tokens: manifest.vision.num_tokens,
        }
    }

    /// Tensors of an attention: key and value of layer 0, of layer 1, and so on.
    pub(crate) fn tensors(self) -> usize {
        self.layers * 2
    }

    /// Dimensions of a self-attention tensor: `[rows, heads, capacity, head_dim]`.
    pub(crate) fn self_attention(self, rows: usize, capacity: usize) -> [usize; 4] {
        [rows, self.heads, capacity, self.head_dim]
    }

    /// Dimensions of cross-attention tensor `index`: `[images, heads, head_dim, tokens]` for a key,
    /// `[images, heads, tokens, head_dim]` for a value.
    pub(crate) fn cross_attention(self, index: usize, images: usize) -> [usize; 4] {
        let is_key = index.is_multiple_of(2);
        let [a, b] = if is_key { [self.head_dim, self.image_tokens] } else { [self.image_tokens, self.head_dim] };
        [images, self.heads, a, b]
    }

    /// Memory of an encoded image, in bytes.
    pub(crate) fn image_bytes(self) -> u64 {
        (self.tensors() * self.heads * self.head_dim * self.image_tokens * size_of::<f32>()) as u64
    }
}
