//! Images that share decoder steps: those with as many rows and the same cache capacity.

use super::Reply;
use crate::{
    blip::{BatchKey, BlipModel, EncodedImage, KvCache, Prefill, RunError},
    error::CaptionError,
    generation::{Advance, Search, TokenId},
};

/// One image in the middle of its search.
struct Active {
    search: Search,
    reply: Reply,
    /// Positions in its cache.
    past_length: usize,
}

/// Image `i` of `cache` is `active[i]`, its rows are `input_ids[i * rows..]`.
pub(super) struct Batch {
    pub(super) key: BatchKey,
    cache: KvCache,
    active: Vec<Active>,
    /// `[images * rows]`: the tokens of the next step.
    input_ids: Vec<i64>,
}

impl Batch {
    pub(super) fn new(model: &BlipModel, key: BatchKey) -> Self {
        Self { key, cache: model.new_cache(key), active: Vec::new(), input_ids: Vec::new() }
    }

    pub(super) fn rows(&self) -> usize {
        self.active.len() * self.key.rows
    }

    pub(super) fn is_empty(&self) -> bool {
        self.active.is_empty()
    }

    /// Takes in an image after its first token was decided.
    pub(super) fn join(
        &mut self,
        model: &BlipModel,
        (image, prefill): (&EncodedImage, &Prefill),
        (search, token_ids): (Search, &[TokenId]),
        reply: Reply,
    ) {
        if let Err(error) = model.join(image, prefill, &mut self.cache) {
            return reply.fail(CaptionError::internal(error));
        }
        reply.tell(&search);
        self.active.push(Active { search, reply, past_length: prefill.prompt_len });
        self.input_ids.extend(token_ids.iter().map(|id| i64::from(*id)));
    }

    /// Drops the images that nobody waits for.
    pub(super) fn drop_unwanted(&mut self) {
        for image in (0..self.active.len()).rev() {
            if let Some(error) = self.active[image].reply.unwanted() {
                self.remove(image).reply.fail(error);
            }
        }
    }

    /// One token for every row.
    pub(super) fn step(&mut self, model: &mut BlipModel) {
        if let Err(error) = self.try_step(model) {
            tracing::error!(%error, images = self.active.len(), "decoder step failed");
            for active in self.active.drain(..) {
                active.reply.fail(CaptionError::internal(error.to_string()));
            }
            self.input_ids.clear();
            self.cache = model.new_cache(self.key);
        }
    }

    /// An image that has outgrown this batch, and the key of the one it needs.
    pub(super) fn outgrown(&self) -> Option<(usize, BatchKey)> {
        let keys = self.active.iter().map(|active| BatchKey::new(self.key.rows, active.past_length));
        keys.enumerate().find(|(_, key)| *key != self.key)
    }

    /// Moves an image, in the middle of its search, to a batch of larger capacity.
    pub(super) fn move_to(&mut self, image: usize, target: &mut Self) {
        self.cache.move_to(image, &mut target.cache);
        target.input_ids.extend_from_slice(&self.input_ids[image * self.key.rows..][..self.key.rows]);
        target.active.push(self.forget(image));
    }

    fn try_step(&mut self, model: &mut BlipModel) -> Result<(), RunError> {
        let logits = model.step(&mut self.cache, &self.input_ids)?;
        let logits = logits.as_slice()?;
        let image_len = self.key.rows * model.vocabulary().size;
        // From the end: a finished image is replaced by the last one, which has had its turn.
        for image in (0..self.active.len()).rev() {
            let active = &mut self.active[image];
            active.past_length += 1;
            match active.search.advance(&logits[image * image_len..][..image_len]) {
                Advance::Continue { beam_idx, token_ids } => {
                    self.cache.reorder(image, &beam_idx);
                    active.reply.tell(&active.search);
                    let rows = &mut self.input_ids[image * self.key.rows..][..self.key.rows];
                    rows.iter_mut().zip(token_ids).for_each(|(row, id)| *row = i64::from(id));
                }
                Advance::Done(sequences) => {
                    let Active { search, reply, .. } = self.remove(image);
                    reply.tell(&search);
                    reply.finish(sequences);
                }
            }
        }
        Ok(())
    }

    fn remove(&mut self, image: usize) -> Active {
        self.cache.swap_remove(image);
        self.forget(image)
    }

    /// Removes all of an image but its place in the cache.
    fn forget(&mut self, image: usize) -> Active {
        let rows = self.key.rows;
        let last = self.active.len() - 1;
        self.input_ids.copy_within(last * rows..(last + 1) * rows, image * rows);
        self.input_ids.truncate(last * rows);
        self.active.swap_remove(image)
    }
}
