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
    active: Vec<ActiveImage>,
}

/// An image whose search is in progress.
pub(super) struct ActiveImage {
    pub(super) search: Search,
    pub(super) responder: Responder,
    /// The next token of each of its rows.
    pub(super) token_ids: Vec<TokenId>,
}

/// The result of a decoder step.
pub(super) struct Step {
    pub(super) run: DecoderRun,
    /// The images whose search it ended, in the order of their rows.
    pub(super) finished: Vec<FinishedImage>,
}

/// An image whose search has finished.
pub(super) struct FinishedImage {
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
        active: ActiveImage,
    ) {
        match backend.join(image, past, active.token_ids.len()) {
            Ok(()) => self.active.push(active),
            Err(error) => active.responder.fail(CaptionError::internal(error), backend.now()),
        }
    }

    /// Removes the images that no client waits for.
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
        let finished = self.advance(backend, &B::logits(&logits)?);
        let output = backend.now() - decoded;
        Ok(Step { run: DecoderRun { rows: input_ids.len(), input, infer, output }, finished })
    }

    /// Gives each search the logits of its rows: `[rows, vocab_size]`.
    fn advance(&mut self, backend: &mut impl Backend, logits: &ArrayView2<'_, f32>) -> Vec<FinishedImage> {
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
                    let ActiveImage { search, responder, .. } = self.swap_remove(backend, index);
                    responder.publish_progress(&search);
                    finished.push(FinishedImage { responder, sequences });
                }
            }
        }
        finished.reverse();
        finished
    }

    fn swap_remove(&mut self, backend: &mut impl Backend, index: usize) -> ActiveImage {
        backend.swap_remove(index);
        self.active.swap_remove(index)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::watch;

    use super::*;
    use crate::engine::{
        Job, JobImage,
        entry::Entry,
        scripted::{self, Call, Client, Failure, START, ScriptedBackend, ScriptedImage, caption},
    };

    /// Lets a job join whose image is encoded.
    fn join(batch: &mut Batch, backend: &mut ScriptedBackend, job: Job<ScriptedImage>) -> Client {
        let (Entry { image, prompt, search, responder }, client) = scripted::entry(job);
        let JobImage::Encoded(image) = image else { panic!("the image is not encoded") };
        batch.join(backend, image, None, ActiveImage { search, responder, token_ids: prompt });
        client
    }

    /// Runs a step and sends the sequences of those that it finished.
    fn step(batch: &mut Batch, backend: &mut ScriptedBackend) -> Option<DecoderRun> {
        let step = batch.step(backend)?;
        for finished in step.finished {
            finished.responder.finish(finished.sequences, backend.now());
        }
        Some(step.run)
    }

    #[test]
    fn images_that_come_and_go_between_steps_get_their_own_captions() {
        let (mut backend, script) = ScriptedBackend::new();
        let mut batch = Batch::default();
        let mut clients = vec![(6, join(&mut batch, &mut backend, scripted::job(6)))];
        for number in [2, 5, 3, 4] {
            step(&mut batch, &mut backend).unwrap();
            clients.push((number, join(&mut batch, &mut backend, scripted::job(number))));
        }
        while batch.rows() > 0 {
            step(&mut batch, &mut backend).unwrap();
        }
        for (number, mut client) in clients {
            assert_eq!(client.tokens(1), caption(number));
            assert_eq!(script.steps_of(number), number as usize);
        }
    }

    #[test]
    fn an_image_whose_client_disconnected_is_not_decoded_further() {
        let (mut backend, script) = ScriptedBackend::new();
        let mut batch = Batch::default();
        let leaves = join(&mut batch, &mut backend, scripted::job(7));
        let mut stays = join(&mut batch, &mut backend, scripted::job(3));
        step(&mut batch, &mut backend).unwrap();
        drop(leaves);
        batch.drop_abandoned(&mut backend);
        assert_eq!(batch.rows(), 1);
        for _ in 0..2 {
            assert_eq!(step(&mut batch, &mut backend).unwrap().rows, 1);
        }
        assert_eq!(stays.tokens(1), caption(3));
        assert_eq!(script.steps_of(7), 1);
    }

    #[test]
    fn an_image_whose_deadline_passed_fails_with_it() {
        let (mut backend, script) = ScriptedBackend::new();
        let mut batch = Batch::default();
        let mut job = scripted::job(7);
        job.request.deadline = Some(script.now() + Duration::from_secs(1));
        let mut client = join(&mut batch, &mut backend, job);
        batch.drop_abandoned(&mut backend);
        assert_eq!(batch.rows(), 1);
        script.advance_clock(Duration::from_secs(1));
        batch.drop_abandoned(&mut backend);
        assert_eq!(batch.rows(), 0);
        assert!(matches!(client.result(), Some(Err(CaptionError::DeadlineExceeded))));
    }

    #[test]
    fn a_failing_step_fails_its_images_and_none_that_come_later() {
        let (mut backend, script) = ScriptedBackend::new();
        let mut batch = Batch::default();
        let mut clients = [4, 5].map(|number| join(&mut batch, &mut backend, scripted::job(number)));
        script.fail(Failure::Step);
        assert!(step(&mut batch, &mut backend).is_none());
        assert!(clients.iter_mut().all(Client::has_failed));
        assert!(!script.holds_memory());
        let mut next = join(&mut batch, &mut backend, scripted::job(1));
        step(&mut batch, &mut backend).unwrap();
        assert_eq!(next.tokens(1), caption(1));
    }

    #[test]
    fn a_failing_reorder_fails_its_image_only() {
        let (mut backend, script) = ScriptedBackend::new();
        let mut batch = Batch::default();
        let mut clients = [2, 3, 4].map(|number| join(&mut batch, &mut backend, scripted::job(number)));
        script.fail(Failure::Reorder(3));
        for _ in 0..4 {
            step(&mut batch, &mut backend).unwrap();
        }
        assert!(clients[1].has_failed());
        assert_eq!((clients[0].tokens(1), clients[2].tokens(1)), (caption(2), caption(4)));
        assert_eq!(script.steps_of(3), 1);
    }

    #[test]
    fn a_failing_join_fails_its_image_only() {
        let (mut backend, script) = ScriptedBackend::new();
        let mut batch = Batch::default();
        script.fail(Failure::Join);
        let mut fails = join(&mut batch, &mut backend, scripted::job(2));
        let mut stays = join(&mut batch, &mut backend, scripted::job(1));
        step(&mut batch, &mut backend).unwrap();
        assert!(fails.has_failed());
        assert_eq!(stays.tokens(1), caption(1));
    }

    #[test]
    fn progress_is_published_after_each_step() {
        let (mut backend, _) = ScriptedBackend::new();
        let mut batch = Batch::default();
        let (progress, decided) = watch::channel(Vec::new());
        let mut job = scripted::job(3);
        job.request.progress = Some(progress);
        let _client = join(&mut batch, &mut backend, job);
        for count in 1..=3 {
            step(&mut batch, &mut backend).unwrap();
            assert_eq!(*decided.borrow(), [&[START], &caption(3)[..count]].concat());
        }
    }

    #[test]
    fn images_that_finish_together_are_returned_in_the_order_of_their_rows() {
        let (mut backend, _) = ScriptedBackend::new();
        let mut batch = Batch::default();
        let _clients = [1, 2, 3].map(|caller| {
            let mut job = scripted::job(1);
            job.request.caller = caller;
            join(&mut batch, &mut backend, job)
        });
        let finished = batch.step(&mut backend).unwrap().finished;
        let callers: Vec<_> = finished.iter().map(|finished| finished.responder.request.caller).collect();
        assert_eq!(callers, [1, 2, 3]);
    }

    #[test]
    fn memory_is_released_when_nothing_decodes() {
        let (mut backend, script) = ScriptedBackend::new();
        let mut batch = Batch::default();
        let _finishes = join(&mut batch, &mut backend, scripted::job(1));
        let leaves = join(&mut batch, &mut backend, scripted::job(9));
        step(&mut batch, &mut backend).unwrap();
        assert!(script.holds_memory());
        drop(leaves);
        batch.drop_abandoned(&mut backend);
        assert!(!script.holds_memory());
        let _finishes = join(&mut batch, &mut backend, scripted::job(1));
        step(&mut batch, &mut backend).unwrap();
        assert!(!script.holds_memory());
    }

    #[test]
    fn an_image_counts_with_all_its_rows_from_the_start() {
        let (mut backend, script) = ScriptedBackend::new();
        let mut batch = Batch::default();
        let _clients = [3, 1].map(|rows| join(&mut batch, &mut backend, scripted::job_with_rows(5, rows)));
        assert_eq!(batch.rows(), 4);
        // The start token is one row; the beams diverge after it.
        let rows = [step(&mut batch, &mut backend), step(&mut batch, &mut backend)].map(|run| run.unwrap().rows);
        assert_eq!(rows, [2, 4]);
        assert_eq!(script.calls(), [Call::Step(vec![5, 5]), Call::Step(vec![5, 5])]);
    }

    #[test]
    fn the_time_inside_the_model_is_kept_apart_from_the_time_around_it() {
        let (mut backend, script) = ScriptedBackend::new();
        let mut batch = Batch::default();
        script.set_times(Duration::ZERO, Duration::from_millis(7));
        let _client = join(&mut batch, &mut backend, scripted::job(2));
        let run = step(&mut batch, &mut backend).unwrap();
        assert_eq!((run.infer, run.input + run.output), (Duration::from_millis(7), Duration::ZERO));
    }
}
