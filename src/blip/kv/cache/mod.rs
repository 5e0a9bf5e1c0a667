//! Keys and values of the images that decode together.
//!
//! Images join and leave between steps, each with its own number of rows and its own length; the rows of an image lie side
//! by side. Changes are only recorded; the next step applies all of them in one arrangement.

use std::sync::Arc;

use ndarray::{Array1, Array2};
use ort::value::DynValue;

use crate::blip::kv::{
    cross_attention::{CrossAttention, EncodedImage},
    device::Device,
    self_attention::{Row, SelfAttention, Source},
    shape::KvShape,
};

/// Positions that the smallest cache holds; a longer image doubles it.
const MIN_CAPACITY: usize = 32;

/// Keys and values of the images in one decoder batch.
pub struct KvCache {
    images: Vec<CachedImage>,
    pub(crate) self_attention: SelfAttention,
    pub(crate) cross_attention: CrossAttention,
    /// Whether nothing has changed since the rows were arranged.
    arranged: bool,
    pub(crate) layout: Layout,
}

/// Keys and values that a prompt left.
#[derive(Default)]
pub(crate) struct PromptPast {
    /// `[layers * 2][1, heads, any capacity, head_dim]`; empty if no prompt has run.
    pub(crate) tensors: Vec<DynValue>,
    /// Positions in use.
    pub(crate) length: usize,
}

/// The decoder's inputs that describe the rows.
#[derive(Default)]
pub(crate) struct Layout {
    /// `[rows]`: positions in use.
    pub(crate) past_lengths: Array1<i64>,
    /// `[images, beams]`: the row of each beam of each image; images with fewer beams repeat their first.
    pub(crate) image_rows: Array2<i64>,
    /// `[rows]`: flat index of each row in `image_rows`, row-major.
    pub(crate) row_slots: Array1<i64>,
}

struct CachedImage {
    past: Past,
    past_length: usize,
    rows: usize,
    /// The image's index in [`CrossAttention`].
    slot: usize,
}

/// Where the past of an image's rows lies until the next arrangement.
enum Past {
    /// In as many rows of the last arrangement, from `first` on.
    Rows { first: usize },
    /// In these rows of the last arrangement, one for each row.
    Reordered(Vec<usize>),
    /// In what the prompt left, which all rows start from.
    Prompt(Vec<DynValue>),
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

    /// Number of rows of all images.
    pub fn rows(&self) -> usize {
        self.images.iter().map(|image| image.rows).sum()
    }

    /// Adds an image with `rows` rows that all start from `past`.
    pub(crate) fn push(&mut self, image: Arc<EncodedImage>, past: PromptPast, rows: usize) -> ort::Result<()> {
        let slot = self.cross_attention.push(image)?;
        let PromptPast { tensors, length } = past;
        self.images.push(CachedImage { past: Past::Prompt(tensors), past_length: length, rows, slot });
        self.arranged = false;
        Ok(())
    }

    /// Removes an image; the last one gets its index.
    pub fn swap_remove(&mut self, index: usize) {
        let slot = self.images.swap_remove(index).slot;
        self.cross_attention.swap_remove(slot);
        let last = self.images.len();
        if let Some(moved) = self.images.iter_mut().find(|image| image.slot == last) {
            moved.slot = slot;
        }
        self.arranged = false;
    }

    /// Frees the memory of an empty cache.
    pub fn release(&mut self) {
        if self.images.is_empty() {
            self.self_attention.clear();
        }
    }

    /// After a step: row `i` of an image continues its row `beam_idx[i]`. A single row becomes as many as there are
    /// indices.
    ///
    /// # Errors
    /// The image has not had a step.
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
        image.past = Past::Reordered(beam_idx.iter().map(parent_of).collect());
        image.rows = beam_idx.len();
        self.arranged = false;
        Ok(())
    }

    /// Applies the recorded changes, so that the tensors are the input of the next step.
    pub(crate) fn arrange(&mut self, device: Option<&mut Device>) -> ort::Result<()> {
        self.cross_attention.arrange(device)?;
        let longest = self.images.iter().map(|image| image.past_length).max().unwrap_or(0);
        let capacity = (longest + 1).next_power_of_two().max(MIN_CAPACITY);
        if self.arranged && capacity == self.self_attention.capacity() {
            return Ok(());
        }
        let rows: Vec<Row<'_>> = self.images.iter().flat_map(CachedImage::arrangement).collect();
        self.self_attention.arrange(&rows, capacity, &self.layout.past_lengths.view())?;
        self.layout = Layout::new(&self.images);
        let mut first = 0;
        for image in &mut self.images {
            image.past = Past::Rows { first };
            first += image.rows;
        }
        self.arranged = true;
        Ok(())
    }

    /// Adds the position that a step wrote to the length of every row.
    pub(crate) fn advance(&mut self) {
        self.images.iter_mut().for_each(|image| image.past_length += 1);
        self.layout.past_lengths += 1;
    }
}

impl CachedImage {
    /// The image's rows for [`SelfAttention::arrange`].
    fn arrangement(&self) -> impl Iterator<Item = Row<'_>> {
        (0..self.rows).map(|row| {
            let source = match &self.past {
                Past::Rows { first } => Source::Row(first + row),
                Past::Reordered(rows) => Source::Row(rows[row]),
                Past::Prompt(tensors) if tensors.is_empty() => Source::Empty,
                Past::Prompt(tensors) => Source::Prompt(tensors),
            };
            Row { source, length: self.past_length }
        })
    }
}

impl Layout {
    fn new(images: &[CachedImage]) -> Self {
        let beams = images.iter().map(|image| image.rows).max().unwrap_or(0);
        let mut image_rows = Array2::zeros((images.len(), beams));
        let (mut past_lengths, mut row_slots) = (Vec::new(), Vec::new());
        for image in images {
            let first = past_lengths.len();
            for (beam, row) in image_rows.row_mut(image.slot).iter_mut().enumerate() {
                *row = (first + if beam < image.rows { beam } else { 0 }) as i64;
            }
            row_slots.extend((0..image.rows).map(|beam| (image.slot * beams + beam) as i64));
            past_lengths.extend(std::iter::repeat_n(image.past_length as i64, image.rows));
        }
        Self { past_lengths: past_lengths.into(), image_rows, row_slots: row_slots.into() }
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

#[cfg(test)]
mod tests;
