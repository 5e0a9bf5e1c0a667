//! The images that decode together, whatever their prompts, beams and lengths.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ndarray::Axis;

use crate::engine::Reply;
use crate::{
    blip::{BlipModel, EncodedImage, KvCache, Prefill, RunError},
    error::CaptionError,
    observability::DecoderRun,
};
use generation::{Advance, Search, Sequence, TokenId};

/// One image in the middle of its search.
struct Active {
    search: Search,
    reply: Reply,
    /// The next token of each of its rows.
    token_ids: Vec<TokenId>,
}

/// An image whose search is over, and who waits for it.
pub(super) type Finished = (Reply, Vec<Sequence>);

/// Image `i` of `cache` is `active[i]`.
pub(super) struct Batch {
    cache: KvCache,
    active: Vec<Active>,
}

impl Batch {
    pub(super) fn new(model: &BlipModel) -> Self {
        Self { cache: model.new_cache(), active: Vec::new() }
    }

    /// Rows that the images need once each has its beams.
    pub(super) fn rows(&self) -> usize {
        self.active.iter().map(|active| active.search.rows()).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.active.is_empty()
    }

    /// Takes in an image whose first token the next step decides.
    pub(super) fn join_at_start(
        &mut self,
        model: &BlipModel,
        image: Arc<EncodedImage>,
        (start, search): (TokenId, Search),
        reply: Reply,
    ) {
        let joined = model.join_without_past(image, &mut self.cache);
        self.push(joined, Active { search, reply, token_ids: vec![start] });
    }

    /// Takes in an image after its prompt, with its first tokens.
    pub(super) fn join(
        &mut self,
        model: &BlipModel,
        (image, prefill): (Arc<EncodedImage>, Prefill),
        (token_ids, search): (Vec<TokenId>, Search),
        reply: Reply,
    ) {
        let joined = model.join(image, prefill, token_ids.len(), &mut self.cache);
        reply.tell(&search);
        self.push(joined, Active { search, reply, token_ids });
    }

    /// Drops the images that nobody waits for.
    pub(super) fn drop_unwanted(&mut self) {
        for image in (0..self.active.len()).rev() {
            if let Some(error) = self.active[image].reply.unwanted() {
                self.remove(image).reply.fail(error);
            }
        }
        self.cache.release();
    }

    /// One token for every row: what it took, and the images that it finished. Nothing, if it could not be done.
    pub(super) fn step(&mut self, model: &mut BlipModel) -> Option<(DecoderRun, Vec<Finished>)> {
        match self.try_step(model) {
            Ok(done) => {
                self.cache.release();
                Some(done)
            }
            Err(error) => {
                tracing::error!(%error, images = self.active.len(), "decoder step failed");
                for active in self.active.drain(..) {
                    active.reply.fail(CaptionError::internal(error.to_string()));
                }
                self.cache = model.new_cache();
                None
            }
        }
    }

    fn push(&mut self, joined: Result<(), RunError>, active: Active) {
        match joined {
            Ok(()) => self.active.push(active),
            Err(error) => active.reply.fail(CaptionError::internal(error)),
        }
    }

    fn try_step(&mut self, model: &mut BlipModel) -> Result<(DecoderRun, Vec<Finished>), RunError> {
        let start = Instant::now();
        let input_ids: Vec<i64> =
            self.active.iter().flat_map(|active| &active.token_ids).map(|id| i64::from(*id)).collect();
        let logits = model.step(&mut self.cache, &input_ids)?;
        let infer = model.take_run_time();
        let input = start.elapsed().saturating_sub(infer);
        let start = Instant::now();
        let logits = logits.view()?;
        let mut end = logits.nrows();
        let mut finished = Vec::new();
        // From the end: a finished image is replaced by the last one, which has had its turn.
        for image in (0..self.active.len()).rev() {
            let active = &mut self.active[image];
            active.reply.stages.steps += 1;
            let rows = end - active.token_ids.len()..end;
            end = rows.start;
            match active.search.advance(logits.slice_axis(Axis(0), rows.into())) {
                Advance::Continue { beam_idx, token_ids } => {
                    if let Err(error) = self.cache.reorder(image, &beam_idx) {
                        // The others have what they need.
                        self.remove(image).reply.fail(CaptionError::internal(error));
                        continue;
                    }
                    active.token_ids = token_ids;
                    active.reply.tell(&active.search);
                }
                Advance::Done(sequences) => {
                    let Active { search, reply, .. } = self.remove(image);
                    reply.tell(&search);
                    finished.push((reply, sequences));
                }
            }
        }
        // In the order they came.
        finished.reverse();
        Ok((DecoderRun { rows: input_ids.len(), input, infer, output: start.elapsed() }, finished))
    }

    fn remove(&mut self, image: usize) -> Active {
        self.cache.swap_remove(image);
        self.active.swap_remove(image)
    }
}

impl DecoderRun {
    /// A prompt that ran alone.
    pub(super) fn of_prompt(infer: Duration, output: Duration) -> Self {
        Self { rows: 1, input: Duration::ZERO, infer, output }
    }
}
