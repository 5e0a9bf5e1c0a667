//! Keys and values of the images that decode together.
//!
//! Images come and go between steps, each with its own number of rows and its own length; the rows of an image lie side by
//! side. What changes is written down at once and carried out before the next step, all in one.

use std::sync::Arc;

use ort::value::DynValue;

use crate::blip::{
    kv::{
        cross_attention::CrossAttention,
        device::Device,
        self_attention::{SelfAttention, Source},
    },
    manifest::Manifest,
    vision_encoder::EncodedImage,
};

/// Positions that the smallest cache holds; a longer image doubles it.
const MIN_CAPACITY: usize = 32;

/// Sizes that all caches of a model share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KvShape {
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
    /// Vectors of an encoded image.
    pub(crate) image_tokens: usize,
}

/// Keys and values of the images in one decoder batch.
pub struct KvCache {
    images: Vec<CachedImage>,
    pub(crate) self_attention: SelfAttention,
    pub(crate) cross_attention: CrossAttention,
    /// Nothing has changed since the rows were arranged.
    arranged: bool,
    pub(crate) layout: Layout,
}

/// The decoder's inputs that say which row is what.
#[derive(Default)]
pub(crate) struct Layout {
    /// `[rows]`: positions in use.
    pub(crate) past_lengths: Vec<i64>,
    /// `[images, beams]`: the row of each beam of each image; images with fewer beams repeat their first.
    pub(crate) image_rows: Vec<i64>,
    /// Rows of the image that has most.
    pub(crate) beams: usize,
    /// `[rows]`: where each row stands in `image_rows`.
    pub(crate) row_slots: Vec<i64>,
}

struct CachedImage {
    past: Past,
    past_length: usize,
    rows: usize,
    /// In [`CrossAttention`].
    slot: usize,
}

/// Where an image's rows are until the next arrangement.
enum Past {
    /// Each is that of the cache.
    Rows { first: usize },
    /// Each is this one of the cache.
    RowsOf(Vec<usize>),
    /// All start from what the prompt left; nothing if it is empty.
    Prompt(Vec<DynValue>),
}

impl KvShape {
    pub(crate) fn of(manifest: &Manifest) -> Self {
        Self {
            layers: manifest.text.num_hidden_layers,
            heads: manifest.text.num_attention_heads,
            head_dim: manifest.text.head_dim,
            image_tokens: manifest.vision.num_tokens,
        }
    }

    /// Numbers in one cross-attention tensor of an image.
    pub(crate) fn encoder_len(self) -> usize {
        self.heads * self.head_dim * self.image_tokens
    }

    /// Memory of an encoded image.
    pub(crate) fn encoded_bytes(self) -> u64 {
        (self.layers * 2 * self.encoder_len() * size_of::<f32>()) as u64
    }
}

impl KvCache {
    pub(crate) fn new(shape: KvShape, on_device: bool) -> Self {
        Self {
            images: Vec::new(),
            self_attention: SelfAttention::new(shape, on_device),
            cross_attention: CrossAttention::new(shape, on_device),
            arranged: true,
            layout: Layout::default(),
        }
    }

    /// Rows in it.
    pub fn rows(&self) -> usize {
        self.images.iter().map(|image| image.rows).sum()
    }

    /// Adds an image with `rows` rows, all with the `past_length` positions of `present`, tensors
    /// `[1, heads, any capacity, head_dim]`; none if that is empty.
    pub(crate) fn push(
        &mut self,
        image: Arc<EncodedImage>,
        (present, past_length): (Vec<DynValue>, usize),
        rows: usize,
    ) -> ort::Result<()> {
        let slot = self.cross_attention.push(image)?;
        self.images.push(CachedImage { past: Past::Prompt(present), past_length, rows, slot });
        self.arranged = false;
        Ok(())
    }

    /// Takes out an image; the last one gets its index.
    pub fn swap_remove(&mut self, index: usize) {
        let slot = self.images.swap_remove(index).slot;
        self.cross_attention.swap_remove(slot);
        let last = self.images.len();
        if let Some(moved) = self.images.iter_mut().find(|image| image.slot == last) {
            moved.slot = slot;
        }
        self.arranged = false;
    }

    /// Gives back the memory of what is not there any more, once nothing is.
    pub fn release(&mut self) {
        if self.images.is_empty() {
            self.self_attention.clear();
        }
    }

    /// After a step: row `i` of an image goes on from its row `beam_idx[i]`. A single row becomes as many as there are
    /// indices.
    ///
    /// # Errors
    /// There was none.
    pub fn reorder(&mut self, index: usize, beam_idx: &[usize]) -> ort::Result<()> {
        let image = &mut self.images[index];
        let Past::Rows { first } = image.past else {
            return Err(ort::Error::new("an image is reordered before its first step"));
        };
        if image.rows == beam_idx.len() && beam_idx.iter().enumerate().all(|(row, parent)| row == *parent) {
            return Ok(());
        }
        // All rows come from a single one, whatever index they are given.
        let parent_of = |beam: &usize| if image.rows == 1 { first } else { first + beam };
        image.past = Past::RowsOf(beam_idx.iter().map(parent_of).collect());
        image.rows = beam_idx.len();
        self.arranged = false;
        Ok(())
    }

    /// Carries out what has changed, so that the tensors are what the next step takes.
    pub(crate) fn arrange(&mut self, device: Option<&mut Device>) -> ort::Result<()> {
        self.cross_attention.arrange(device)?;
        let longest = self.images.iter().map(|image| image.past_length).max().unwrap_or(0);
        let capacity = (longest + 1).next_power_of_two().max(MIN_CAPACITY);
        if self.arranged && capacity == self.self_attention.capacity() {
            return Ok(());
        }
        let mut sources = Vec::with_capacity(self.rows());
        for image in &self.images {
            sources.extend((0..image.rows).map(|row| {
                let source = match &image.past {
                    Past::Rows { first } => Source::Row(first + row),
                    Past::RowsOf(rows) => Source::Row(rows[row]),
                    Past::Prompt(present) if present.is_empty() => Source::Nothing,
                    Past::Prompt(present) => Source::Prompt(present),
                };
                (source, image.past_length)
            }));
        }
        self.self_attention.arrange(&sources, capacity, &self.layout.past_lengths)?;
        self.layout = Layout::of(&self.images);
        let mut first = 0;
        for image in &mut self.images {
            image.past = Past::Rows { first };
            first += image.rows;
        }
        self.arranged = true;
        Ok(())
    }

    /// Counts the position that a step wrote.
    pub(crate) fn advance(&mut self) {
        self.images.iter_mut().for_each(|image| image.past_length += 1);
        self.layout.past_lengths.iter_mut().for_each(|length| *length += 1);
    }
}

impl Layout {
    fn of(images: &[CachedImage]) -> Self {
        let beams = images.iter().map(|image| image.rows).max().unwrap_or(0);
        let mut layout = Self { beams, image_rows: vec![0; images.len() * beams], ..Self::default() };
        for image in images {
            let first = layout.row_slots.len();
            let rows = &mut layout.image_rows[image.slot * beams..][..beams];
            for (beam, row) in rows.iter_mut().enumerate() {
                *row = (first + if beam < image.rows { beam } else { 0 }) as i64;
            }
            layout.row_slots.extend((0..image.rows).map(|beam| (image.slot * beams + beam) as i64));
            layout.past_lengths.extend(std::iter::repeat_n(image.past_length as i64, image.rows));
        }
        layout
    }
}

impl std::fmt::Debug for KvCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KvCache")
            .field("images", &self.images.len())
            .field("rows", &self.rows())
            .finish_non_exhaustive()
    }
}
