//! The images that decode together, whatever their prompts, beams and lengths.

use std::sync::Arc;

use ndarray::{ArrayView2, Axis};

use crate::{
    engine::{Backend, entry::Responder},
    error::CaptionError,
    observability::DecoderRun,
};
use generation::{Advance, Search, Sequence, TokenId};

/// The images that decode: image `i` of the backend's cache is `active[i]`.
#[derive(Default)]
pub(super) struct Batch {
    active: Vec<Active>,
}

/// An image in the middle of its search.
pub(super) struct Active {
    pub(super) search: Search,
    pub(super) responder: Responder,
    /// The next token of each of its rows.
    pub(super) token_ids: Vec<TokenId>,
}

/// The result of a decoder step.
pub(super) struct Step {
    pub(super) run: DecoderRun,
    /// The images whose search it ended, in the order in which they joined.
    pub(super) finished: Vec<Finished>,
}

/// An image whose search is over.
pub(super) struct Finished {
    pub(super) responder: Responder,
    pub(super) sequences: Vec<Sequence>,
}

impl Batch {
    /// Returns the rows that the images need once each has all its beams.
    pub(super) fn rows(&self) -> usize {
        self.active.iter().map(|active| active.search.rows()).sum()
    }

    /// Adds an image. Without the `past` of a prompt, the next step decides its first token.
    pub(super) fn join<B: Backend>(
        &mut self,
        backend: &mut B,
        image: Arc<B::EncodedImage>,
        past: Option<B::Prefill>,
        active: Active,
    ) {
        match backend.join(image, past, active.token_ids.len()) {
            Ok(()) => self.active.push(active),
            Err(error) => active.responder.fail(CaptionError::internal(error), backend.now()),
        }
    }

    /// Removes the images that no client waits for any longer.
    pub(super) fn drop_abandoned(&mut self, backend: &mut impl Backend) {
        let now = backend.now();
        for index in (0..self.active.len()).rev() {
            if let Some(error) = self.active[index].responder.abandoned(now) {
                self.swap_remove(backend, index).responder.fail(error, now);
            }
        }
        backend.release();
    }

    /// Decodes one token for every row. If the step fails, all images fail with it and the batch is empty.
    pub(super) fn step(&mut self, backend: &mut impl Backend) -> Option<Step> {
        match self.try_step(backend) {
            Ok(step) => {
                backend.release();
                Some(step)
            }
            Err(error) => {
                tracing::error!(%error, images = self.active.len(), "decoder step failed");
                let now = backend.now();
                for active in self.active.drain(..) {
                    active.responder.fail(CaptionError::internal(error.to_string()), now);
                }
                backend.clear();
                None
            }
        }
    }

    fn try_step<B: Backend>(&mut self, backend: &mut B) -> Result<Step, B::Error> {
        let start = backend.now();
        let input_ids: Vec<TokenId> = self.active.iter().flat_map(|active| &active.token_ids).copied().collect();
        let logits = backend.step(&input_ids)?;
        let infer = backend.take_run_time();
        let decoded = backend.now();
        let input = (decoded - start).saturating_sub(infer);
        let finished = self.advance(backend, B::logits(&logits)?);
        let output = backend.now() - decoded;
        Ok(Step { run: DecoderRun { rows: input_ids.len(), input, infer, output }, finished })
    }

    /// Gives each search the logits of its rows: `[rows, vocab_size]`.
    fn advance(&mut self, backend: &mut impl Backend, logits: ArrayView2<'_, f32>) -> Vec<Finished> {
        let mut finished = Vec::new();
        let mut end = logits.nrows();
        // From the end: the last image takes the place of a removed one, and has then been advanced.
        for index in (0..self.active.len()).rev() {
            let active = &mut self.active[index];
            active.responder.stages.steps += 1;
            let rows = end - active.token_ids.len()..end;
            end = rows.start;
            match active.search.advance(logits.slice_axis(Axis(0), rows.into())) {
                Advance::Continue { beam_idx, token_ids } => {
                    if let Err(error) = backend.reorder(index, &beam_idx) {
                        // The rows of the other images are complete.
                        let active = self.swap_remove(backend, index);
                        active.responder.fail(CaptionError::internal(error), backend.now());
                        continue;
                    }
                    active.token_ids = token_ids;
                    active.responder.publish_progress(&active.search);
                }
                Advance::Done(sequences) => {
                    let Active { search, responder, .. } = self.swap_remove(backend, index);
                    responder.publish_progress(&search);
                    finished.push(Finished { responder, sequences });
                }
            }
        }
        finished.reverse();
        finished
    }

    fn swap_remove(&mut self, backend: &mut impl Backend, index: usize) -> Active {
        backend.swap_remove(index);
        self.active.swap_remove(index)
    }
}
