//! Admission: images are encoded, their prompts run, and they join the batch.

use std::{sync::Arc, time::Duration};

use tracing::debug;

use crate::engine::{
    Backend, JobImage,
    batch::ActiveImage,
    entry::{Entry, Responder, Stages},
    worker::Worker,
};
use crate::{error::CaptionError, observability::DecoderRun};
use generation::{Advance, Search, TokenId};
use image_processor::PixelValues;

/// A job without its image.
struct AdmittedJob {
    prompt: Vec<TokenId>,
    search: Search,
    responder: Responder,
}

impl<B: Backend> Worker<B> {
    /// Encodes the images of jobs, runs their prompts and puts them into the batch; or answers, if that is all.
    pub(super) fn admit(&mut self, entries: Vec<Entry<B::EncodedImage>>) {
        let mut encoded = Vec::new();
        let mut pixel_values = Vec::new();
        let mut digests = Vec::new();
        let mut to_encode = Vec::new();
        for Entry { image, prompt, search, mut responder } in entries {
            let now = self.backend.now();
            if let Some(error) = responder.abandoned(now) {
                responder.fail(error, now);
                continue;
            }
            responder.admitted = Some(now);
            match image {
                JobImage::Encoded(image) => encoded.push((image, AdmittedJob { prompt, search, responder })),
                JobImage::Pixels { pixel_values: pixels, digest } => {
                    responder.stages.enter(Stages::ENCODE, now);
                    pixel_values.push(pixels);
                    digests.push(digest);
                    to_encode.push(AdmittedJob { prompt, search, responder });
                }
            }
        }
        let job_ids = to_encode.iter().map(|job| job.responder.id).collect();
        match self.encode(pixel_values, job_ids) {
            Ok(images) => {
                for ((image, digest), job) in images.into_iter().zip(digests).zip(to_encode) {
                    job.responder.stages.span.in_scope(|| debug!("image encoded"));
                    if let Some(digest) = digest {
                        self.images.insert(digest, &image);
                    }
                    encoded.push((image, job));
                }
            }
            Err(error) => {
                let now = self.backend.now();
                for AdmittedJob { responder, .. } in to_encode {
                    let error = responder.abandoned(now).unwrap_or_else(|| CaptionError::internal(error.to_string()));
                    responder.fail(error, now);
                }
            }
        }
        for (image, job) in encoded {
            self.begin(image, job);
        }
    }

    fn encode(&mut self, images: Vec<PixelValues>, job_ids: Vec<u64>) -> Result<Vec<Arc<B::EncodedImage>>, B::Error> {
        let count = images.len();
        if count == 0 {
            return Ok(Vec::new());
        }
        let abort = self.backend.abort_handle()?;
        let encoded = self.encoder_abort.run(job_ids, &abort, |abort| self.backend.encode(images, abort));
        // The time of a failed run must not count as the next run's.
        let time_per_image = self.backend.take_run_time() / count as u32;
        let encoded = encoded?;
        for _ in 0..count {
            self.recorder.record_encoder_run(time_per_image);
            self.state.latency.record_encode(time_per_image);
        }
        Ok(encoded)
    }

    /// Runs the prompt of an encoded image and lets it join the batch.
    fn begin(&mut self, image: Arc<B::EncodedImage>, job: AdmittedJob) {
        let AdmittedJob { prompt, mut search, mut responder } = job;
        let _span = responder.stages.span.clone().entered();
        let now = self.backend.now();
        if let Some(error) = responder.abandoned(now) {
            return responder.fail(error, now);
        }
        responder.stages.enter(Stages::DECODE_STEPS, now);
        if prompt.len() == 1 {
            // The next step of the batch runs the start token.
            return self.batch.join(
                &mut self.backend,
                image,
                None,
                ActiveImage { search, responder, token_ids: prompt },
            );
        }
        match self.prefill(&image, &prompt, &mut search) {
            Err(error) => responder.fail(CaptionError::internal(error), self.backend.now()),
            Ok((_, Advance::Done(sequences))) => {
                responder.publish_progress(&search);
                responder.finish(sequences, self.backend.now());
            }
            // All rows start from the one row of the prompt: there is nothing to reorder.
            Ok((prefill, Advance::Continue { token_ids, .. })) => {
                responder.publish_progress(&search);
                let active = ActiveImage { search, responder, token_ids };
                self.batch.join(&mut self.backend, image, Some(prefill), active);
            }
        }
    }

    fn prefill(
        &mut self,
        image: &B::EncodedImage,
        prompt: &[TokenId],
        search: &mut Search,
    ) -> Result<(B::Prefill, Advance), B::Error> {
        let prefill = self.backend.prefill(image, prompt)?;
        let infer = self.backend.take_run_time();
        let start = self.backend.now();
        let advance = search.advance(B::prefill_logits(&prefill)?);
        let output = self.backend.now() - start;
        self.recorder.record_decoder_run(DecoderRun { rows: 1, input: Duration::ZERO, infer, output });
        Ok((prefill, advance))
    }
}
