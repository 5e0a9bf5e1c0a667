//! One model: a verified bundle, its tokenizer, its engine, and the checks of a request that need them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::registry::{
    bundle::BundleFingerprint,
    caption_cache::{CaptionCache, cache_key},
};
use crate::{
    blip::{EncodedImage, Manifest, OnnxBackend, Tokenizer},
    caption::{Caption, Prompt, Timings},
    config::catalogue::{ExecutionProvider, ModelEntry},
    engine::{Digest, Engine, ImageCache, Job, JobImage, RequestHandle},
    error::CaptionError,
    observability::{self, ModelRecorder, Stage, prometheus::ModelInfo},
};
use generation::{GenerationConfig, GenerationLimits, GenerationParameters, Search, Sequence, TokenId, Vocabulary};
use image_processor::{PixelValues, PreprocessConfig};

/// One served model.
#[derive(Debug)]
pub struct ServedModel {
    /// Name in the catalogue.
    pub name: String,
    /// Version in the catalogue.
    pub version: String,
    /// Settings of the preprocessing.
    pub preprocess: PreprocessConfig,
    /// The bundle's manifest.
    pub manifest: Manifest,
    /// Counts what the model does.
    pub recorder: Arc<ModelRecorder>,
    /// Time from reading the files to the caption of the self-test.
    pub(super) load_time: Duration,
    pub(super) bundle: BundleFingerprint,
    pub(super) bundle_id: String,
    pub(super) execution_provider: ExecutionProvider,
    pub(super) vocabulary: Vocabulary,
    pub(super) defaults: GenerationParameters,
    pub(super) limits: GenerationLimits,
    pub(super) tokenizer: Tokenizer,
    pub(super) engine: Engine<OnnxBackend>,
    pub(super) caption_cache: CaptionCache,
    pub(super) image_cache: Arc<ImageCache<EncodedImage>>,
}

/// A request's text and parameters, checked against the model.
#[derive(Debug)]
pub struct Plan {
    prompt: Vec<TokenId>,
    config: GenerationConfig,
    search: Search,
}

/// How an image is captioned, besides the plan.
#[derive(Debug, Default)]
pub struct CaptionOptions {
    /// Digest of the image's file. Without it the caches are not used.
    pub digest: Option<Digest>,
    /// Share the work of an equal request that is in flight.
    pub single_flight: bool,
    /// The request that waits for the captions.
    pub request: RequestHandle,
}

impl ServedModel {
    /// Checks text and parameters and makes the search that will choose the tokens.
    ///
    /// # Errors
    /// A field is out of range; the error names it.
    pub fn plan(&self, prompt: Option<&Prompt>, parameters: &GenerationParameters) -> Result<Plan, CaptionError> {
        let config = GenerationConfig::new(&parameters.or(&self.defaults), &self.limits)?;
        let untokenisable = |field: &'static str| move |_| CaptionError::invalid(field, "cannot be tokenised");
        let field = prompt.map_or("prompt", |prompt| prompt.field);
        let prompt = prompt.map(|prompt| prompt.text.as_str());
        let prompt = self.tokenizer.encode_prompt(prompt).map_err(untokenisable(field))?;
        let positions = self.manifest.text.max_position_embeddings;
        if prompt.len() > positions {
            let reason = format!("must be at most {positions} tokens, got {}", prompt.len());
            return Err(CaptionError::invalid(field, reason));
        }
        let max_length = config.max_length(prompt.len(), positions)?;
        let bad_words = config.bad_words().iter().map(|word| self.tokenizer.encode_word(word));
        let bad_words_ids = bad_words.collect::<Result<Vec<_>, _>>().map_err(untokenisable("bad_words"))?;
        if let Some(index) = bad_words_ids.iter().position(Vec::is_empty) {
            return Err(CaptionError::invalid(format!("bad_words[{index}]"), "must have at least one token"));
        }
        let search = Search::new(&config, self.vocabulary, bad_words_ids, &prompt, max_length);
        Ok(Plan { prompt, config, search })
    }

    /// Whether a cache is enabled, so that the digest of an image is worth computing.
    pub fn uses_cache(&self) -> bool {
        self.caption_cache.is_enabled() || self.image_cache.is_enabled()
    }

    /// Captions an image, or takes its captions from the cache. `pixel_values` is awaited only if the image must be encoded.
    ///
    /// # Errors
    /// `pixel_values` failed, a run failed, the deadline passed, or the request was cancelled.
    pub async fn caption(
        &self,
        plan: Plan,
        pixel_values: impl Future<Output = Result<PixelValues, CaptionError>>,
        options: CaptionOptions,
    ) -> Result<(Arc<[Caption]>, Timings), CaptionError> {
        let CaptionOptions { digest, single_flight, request } = options;
        // Beam search publishes nothing before its end.
        let progress = request.progress.clone().filter(|_| plan.search.stable_prefix().is_some());
        // Without a seed, sampling gives other captions each time.
        let cacheable = digest.filter(|_| self.caption_cache.is_enabled() && plan.config.is_reproducible());
        let key = cacheable.map(|digest| cache_key(&digest, &plan.prompt, &plan.config));
        let mut timings = Timings { cache_hit: true, ..Timings::default() };
        // Boxed, as it is large and is moved several times.
        let work = Box::pin(self.compute(plan, digest, pixel_values, request, &mut timings));
        let captions = match key {
            Some(key) => self.caption_cache.get_or(key, single_flight, work).await?,
            None => work.await?,
        };
        if let (Some(progress), [caption]) = (progress, &captions[..]) {
            // A cache hit publishes its ids here; computed captions were published by the engine.
            progress.send_if_modified(|ids| {
                let is_new = ids.is_empty();
                ids.extend(caption.token_ids.iter().filter(|_| is_new));
                is_new
            });
        }
        Ok((captions, timings))
    }

    /// Computes the captions of an image. `timings.cache_hit` starts true; the first poll of this future sets it to false.
    async fn compute(
        &self,
        plan: Plan,
        digest: Option<Digest>,
        pixel_values: impl Future<Output = Result<PixelValues, CaptionError>>,
        request: RequestHandle,
        timings: &mut Timings,
    ) -> Result<Arc<[Caption]>, CaptionError> {
        timings.cache_hit = false;
        let Plan { prompt, search, .. } = plan;
        let (start, prompt_len) = (Instant::now(), prompt.len());
        let encoded = digest.and_then(|digest| self.image_cache.get(&digest));
        if digest.is_some() && self.image_cache.is_enabled() {
            self.recorder.record_image_lookup(encoded.is_some());
        }
        let image = match encoded {
            Some(image) => JobImage::Encoded(image),
            None => JobImage::Pixels { pixel_values: pixel_values.await?, digest },
        };
        timings.compute_input = start.elapsed();
        let outcome = self.engine.run(Job { image, prompt, search, request }).await?;
        (timings.queue, timings.compute_infer) = (outcome.queue, outcome.infer);
        self.recorder.record_stage(Stage::Queue, outcome.queue);
        for sequence in &outcome.sequences {
            self.recorder.record_caption(sequence.token_ids.len() - prompt_len);
        }
        let (start, _stage) = (Instant::now(), observability::stage("detokenise"));
        let captions = outcome.sequences.into_iter().map(|sequence| self.detokenise(sequence));
        let captions = captions.collect::<Result<_, _>>()?;
        timings.compute_output = start.elapsed();
        self.recorder.record_stage(Stage::Detokenise, timings.compute_output);
        Ok(captions)
    }

    /// Returns the beginning of the caption's text that stays as it is whatever ids follow `token_ids`.
    ///
    /// # Errors
    /// The tokenizer refuses the ids.
    pub fn stable_text(&self, token_ids: &[TokenId]) -> Result<String, CaptionError> {
        self.tokenizer.decode_stable_prefix(token_ids).map_err(CaptionError::internal)
    }

    /// The id that fills up rows of token ids, as `generate` of transformers does.
    pub fn pad_token_id(&self) -> TokenId {
        self.vocabulary.pad_token_id
    }

    /// True while the model's engine runs.
    pub fn is_serving(&self) -> bool {
        self.engine.is_running()
    }

    /// The time that its engine has been in its current run of a graph.
    pub fn busy_for(&self) -> Duration {
        self.engine.busy_for()
    }

    /// Whether the entry's bundle is still the one that was loaded.
    pub(super) fn is_current(&self, entry: &ModelEntry) -> bool {
        self.bundle.is_current(&entry.path)
    }

    pub(super) fn info(&self) -> ModelInfo<'_> {
        ModelInfo {
            version: &self.version,
            precision: &self.manifest.precision,
            source: &self.manifest.source.model,
            bundle: &self.bundle_id,
            execution_provider: self.execution_provider.as_str(),
        }
    }

    fn detokenise(&self, sequence: Sequence) -> Result<Caption, CaptionError> {
        let text = self.tokenizer.decode(&sequence.token_ids).map_err(CaptionError::internal)?;
        Ok(Caption {
            text,
            token_ids: sequence.token_ids,
            score: finite(sequence.score),
            finish_reason: sequence.finish_reason,
        })
    }
}

/// A score that JSON can write: an extreme `length_penalty` makes infinities.
fn finite(score: f32) -> f32 {
    if score.is_nan() { 0.0 } else { score.clamp(f32::MIN, f32::MAX) }
}
