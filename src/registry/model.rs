//! One model: a verified bundle, its tokenizer, its engine, and the checks of a request that need them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::registry::{
    bundle::BundleState,
    caption_cache::{self, CaptionCache},
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
    /// As in the catalogue.
    pub name: String,
    /// As in the catalogue.
    pub version: String,
    /// From an image to what the model sees.
    pub preprocess: PreprocessConfig,
    /// What the bundle says of itself.
    pub manifest: Manifest,
    /// What it has done.
    pub recorder: Arc<ModelRecorder>,
    /// From its files to the caption of the self-test.
    pub(super) load_time: Duration,
    pub(super) bundle: BundleState,
    pub(super) bundle_id: String,
    pub(super) execution_provider: ExecutionProvider,
    pub(super) vocabulary: Vocabulary,
    pub(super) defaults: GenerationParameters,
    pub(super) limits: GenerationLimits,
    pub(super) tokenizer: Tokenizer,
    pub(super) engine: Engine<OnnxBackend>,
    pub(super) caption_cache: CaptionCache,
    pub(super) images: Arc<ImageCache<EncodedImage>>,
}

/// A request's text and parameters, checked against the model.
#[derive(Debug)]
pub struct Plan {
    prompt: Vec<TokenId>,
    config: GenerationConfig,
    search: Search,
}

/// What a request wants besides the captions.
#[derive(Debug, Default)]
pub struct CaptionOptions {
    /// Of the image's file, if anything is kept: without it nothing is looked for.
    pub digest: Option<Digest>,
    /// An equal request at the same time may do the work for this one.
    pub single_flight: bool,
    /// Who waits.
    pub request: RequestHandle,
}

impl ServedModel {
    /// Checks text and parameters and makes the search that will decide the tokens.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn plan(&self, prompt: Option<&Prompt>, parameters: &GenerationParameters) -> Result<Plan, CaptionError> {
        let config = GenerationConfig::new(&parameters.or(&self.defaults), &self.limits)?;
        let untokenisable = |field: &'static str| move |_| CaptionError::invalid(field, "the text cannot be tokenised");
        let field = prompt.map_or("prompt", |prompt| prompt.field);
        let prompt = prompt.map(|prompt| prompt.text.as_str());
        let prompt = self.tokenizer.encode_prompt(prompt).map_err(untokenisable(field))?;
        let positions = self.manifest.text.max_position_embeddings;
        if prompt.len() > positions {
            let reason = format!("the text has {} tokens, the model takes {positions}", prompt.len());
            return Err(CaptionError::invalid(field, reason));
        }
        let max_length = config.max_length(prompt.len(), positions)?;
        let bad_words = config.bad_words().iter().map(|word| self.tokenizer.encode_word(word));
        let bad_words_ids = bad_words.collect::<Result<Vec<_>, _>>().map_err(untokenisable("bad_words"))?;
        if let Some(index) = bad_words_ids.iter().position(Vec::is_empty) {
            return Err(CaptionError::invalid(format!("bad_words[{index}]"), "is no word: it has no tokens"));
        }
        let search = Search::new(&config, self.vocabulary, bad_words_ids, &prompt, max_length);
        Ok(Plan { prompt, config, search })
    }

    /// Whether anything of an image is kept, so that its digest is worth computing.
    pub fn uses_cache(&self) -> bool {
        self.caption_cache.is_used() || self.images.is_enabled()
    }

    /// Captions an image, or finds its captions where they are kept. `pixel_values` is awaited only if the image must be
    /// encoded.
    ///
    /// # Errors
    /// Those of `pixel_values`; cancelled, too late, or a run failed.
    pub async fn caption(
        &self,
        plan: Plan,
        pixel_values: impl Future<Output = Result<PixelValues, CaptionError>>,
        options: CaptionOptions,
    ) -> Result<(Arc<[Caption]>, Timings), CaptionError> {
        let CaptionOptions { digest, single_flight, request: audience } = options;
        // With beams nothing is told before the end.
        let progress = audience.progress.clone().filter(|_| plan.search.stable_prefix().is_some());
        // What is drawn anew each time is not kept.
        let digest_of_both = digest.filter(|_| plan.config.is_reproducible());
        let key = digest_of_both.map(|digest| caption_cache::key(&digest, &plan.prompt, &plan.config));
        let mut timings = Timings { cache_hit: true, ..Timings::default() };
        // Boxed: it is large, and moved from hand to hand.
        let work = Box::pin(self.run(plan, (digest, pixel_values), audience, &mut timings));
        let captions = match key.filter(|_| self.caption_cache.is_used()) {
            Some(key) => self.caption_cache.get_or(key, single_flight, work).await?,
            None => work.await?,
        };
        if let (Some(progress), [caption]) = (progress, &captions[..]) {
            // Kept captions are told as they were when they were computed; these are told already.
            progress.send_if_modified(|ids| {
                let is_new = ids.is_empty();
                ids.extend(caption.token_ids.iter().filter(|_| is_new));
                is_new
            });
        }
        Ok((captions, timings))
    }

    async fn run(
        &self,
        plan: Plan,
        (digest, pixel_values): (Option<Digest>, impl Future<Output = Result<PixelValues, CaptionError>>),
        audience: RequestHandle,
        timings: &mut Timings,
    ) -> Result<Arc<[Caption]>, CaptionError> {
        timings.cache_hit = false;
        let Plan { prompt, search, .. } = plan;
        let (start, prompt_len) = (Instant::now(), prompt.len());
        let kept = digest.and_then(|digest| self.images.get(&digest));
        if digest.is_some() && self.images.is_enabled() {
            self.recorder.record_image_lookup(kept.is_some());
        }
        let image = match kept {
            Some(image) => JobImage::Encoded(image),
            None => JobImage::Pixels { pixel_values: pixel_values.await?, digest },
        };
        timings.compute_input = start.elapsed();
        let outcome = self.engine.run(Job { image, prompt, search, request: audience }).await?;
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

    /// The part of the caption that `token_ids` have decided: whatever follows them, the text begins so.
    ///
    /// # Errors
    /// The ids are not the model's.
    pub fn stable_text(&self, token_ids: &[TokenId]) -> Result<String, CaptionError> {
        self.tokenizer.decode_stable_prefix(token_ids).map_err(CaptionError::internal)
    }

    /// What fills up rows of token ids, as `generate` of transformers does.
    pub fn pad_token_id(&self) -> TokenId {
        self.vocabulary.pad_token_id
    }

    /// True while its engine runs.
    pub fn is_serving(&self) -> bool {
        self.engine.is_running()
    }

    /// How long its engine has been in one run of a graph.
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
