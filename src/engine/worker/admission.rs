//! Letting jobs in: their images are encoded, their prompts run, and they join the batch.

use std::{sync::Arc, time::Instant};

use tracing::debug;

use crate::engine::worker::Worker;
use crate::{
    blip::{EncodedImage, RunError},
    engine::{
        Entry, JobImage, Reply,
        stages::{DECODE_STEPS, ENCODE},
    },
    error::CaptionError,
    observability::DecoderRun,
};
use generation::{Advance, Search, TokenId};
use image_processor::PixelValues;

impl Worker {
    /// Encodes images, runs their prompts and puts them into the batch; or answers at once, if that is all.
    pub(super) fn admit(&mut self, entries: Vec<Entry>) {
        let mut pixel_values = Vec::new();
        let mut known = Vec::new();
        let mut new = Vec::new();
        for mut entry in entries {
            if let Some(error) = entry.reply.unwanted() {
                entry.reply.fail(error);
                continue;
            }
            let admitted = Instant::now();
            entry.reply.admitted = Some(admitted);
            let Entry { image, prompt, search, mut reply } = entry;
            match image {
                JobImage::Encoded(image) => known.push((image, (prompt, search, reply))),
                JobImage::Pixels { pixel_values: pixels, digest } => {
                    reply.stages.enter(ENCODE, admitted);
                    pixel_values.push(pixels);
                    new.push((digest, (prompt, search, reply)));
                }
            }
        }
        let ids = new.iter().map(|(_, (_, _, reply))| reply.id).collect();
        match self.encode(pixel_values, ids) {
            Ok(images) => {
                for (image, (digest, job)) in images.into_iter().zip(new) {
                    job.2.stages.span.in_scope(|| debug!("image encoded"));
                    if let Some(digest) = digest {
                        self.images.insert(digest, &image);
                    }
                    known.push((image, job));
                }
            }
            Err(error) => {
                for (_, (_, _, reply)) in new {
                    let error = reply.unwanted().unwrap_or_else(|| CaptionError::internal(error.to_string()));
                    reply.fail(error);
                }
            }
        }
        for (image, (prompt, search, reply)) in known {
            self.begin(image, &prompt, search, reply);
        }
    }

    /// Runs the prompt on an encoded image and puts it into the batch.
    fn begin(&mut self, image: Arc<EncodedImage>, prompt: &[TokenId], mut search: Search, mut reply: Reply) {
        let _span = reply.stages.span.clone().entered();
        if let Some(error) = reply.unwanted() {
            return reply.fail(error);
        }
        reply.stages.enter(DECODE_STEPS, Instant::now());
        if let [start] = prompt {
            return self.batch.join_at_start(&self.model, image, (*start, search), reply);
        }
        let first = self.model.prefill(&image, prompt).and_then(|prefill| {
            let (infer, start) = (self.model.take_run_time(), Instant::now());
            let advance = search.advance(prefill.logits.view()?);
            self.recorder.record_decoder_run(DecoderRun::of_prompt(infer, start.elapsed()));
            Ok::<_, RunError>((prefill, advance))
        });
        match first {
            Err(error) => reply.fail(CaptionError::internal(error)),
            Ok((_, Advance::Done(sequences))) => {
                reply.tell(&search);
                reply.finish(sequences);
            }
            // All rows come from the one prompt: there is nothing to reorder.
            Ok((prefill, Advance::Continue { token_ids, .. })) => {
                self.batch.join(&self.model, (image, prefill), (token_ids, search), reply);
            }
        }
    }

    fn encode(&mut self, images: Vec<PixelValues>, ids: Vec<u64>) -> Result<Vec<Arc<EncodedImage>>, RunError> {
        let count = images.len();
        if count == 0 {
            return Ok(Vec::new());
        }
        let encoded = self.encoding.run(ids, |abort| self.model.encode(images, abort));
        // Taken of a failed run, too: it is not the next one's.
        let elapsed = self.model.take_run_time();
        let encoded = encoded?;
        for _ in 0..count {
            self.recorder.record_encoder_run(elapsed / count as u32);
            self.pace.encoded(elapsed / count as u32);
        }
        Ok(encoded)
    }
}
