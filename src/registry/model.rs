//! One model: a verified bundle, its tokenizer, its engine, and the checks of a request that need them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use thiserror::Error;
use tracing::info;

use super::{
    Shared,
    bundle::BundleState,
    kept::{self, KeptCaptions},
    memory,
};

use crate::{
    blip::{BlipModel, BundleError, Manifest, SessionConfig, Tokenizer},
    caption::{Caption, Prompt, Timings},
    catalogue::{ExecutionProvider, ModelEntry},
    engine::{Audience, Digest, Engine, EngineLimits, ImageCache, Job, JobImage},
    error::CaptionError,
    generation::{GenerationConfig, GenerationLimits, GenerationParameters, Search, Sequence, TokenId, Vocabulary},
    image::{PixelValues, PreprocessConfig},
    metrics::ModelInfo,
    statistics::Statistics,
    telemetry,
};

/// Why a model cannot be served.
#[derive(Debug, Error)]
pub enum LoadError {
    /// Its bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Its generation defaults.
    #[error("model '{name}' in the catalogue: generation.{reason}")]
    Defaults {
        /// The model.
        name: String,
        /// The field, and what is wrong with it.
        reason: String,
    },
    /// Its images cannot be encoded together.
    #[error("model '{0}' in the catalogue: max_batch_size must be 1 for an int8 bundle")]
    Batch(String),
    /// No thread for it.
    #[error("no thread for the model: {0}")]
    Thread(#[from] std::io::Error),
    /// It does not caption.
    #[error("model '{name}' does not caption its self-test image: {source}")]
    SelfTest {
        /// The model.
        name: String,
        /// Why.
        source: CaptionError,
    },
}

/// One served model.
#[derive(Debug)]
pub struct ServedModel {
    /// As in the catalogue.
    pub name: String,
    /// As in the catalogue.
    pub version: String,
    /// Other names.
    pub aliases: Vec<String>,
    /// From an image to what the model sees.
    pub preprocess: PreprocessConfig,
    /// What the bundle says of itself.
    pub manifest: Manifest,
    /// What it has done.
    pub statistics: Arc<Statistics>,
    bundle: BundleState,
    bundle_id: String,
    execution_provider: ExecutionProvider,
    vocabulary: Vocabulary,
    defaults: GenerationParameters,
    limits: GenerationLimits,
    tokenizer: Tokenizer,
    engine: Engine,
    kept: KeptCaptions,
    images: Arc<ImageCache>,
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
pub struct Wishes {
    /// Of the image's file, if anything is kept: without it nothing is looked for.
    pub digest: Option<Digest>,
    /// An equal request at the same time may do the work for this one.
    pub shared: bool,
    /// Who waits.
    pub audience: Audience,
}

impl ServedModel {
    /// Verifies the bundle, loads it, starts its engine and lets it caption a self-test image.
    ///
    /// # Errors
    /// Any of that failed.
    pub async fn load(entry: &ModelEntry, shared: &Shared) -> Result<Self, LoadError> {
        let start = Instant::now();
        let manifest = Manifest::load(&entry.path)?;
        // Before the files are read: what changes from here on is seen as a change.
        let bundle = BundleState::of(&entry.path, &manifest);
        manifest.verify_files(&entry.path)?;
        let defaults = entry.generation.or(&manifest.generation);
        GenerationConfig::new(&defaults, &shared.limits).map_err(|error| LoadError::Defaults {
            name: entry.name.clone(),
            reason: format!("{}: {}", error.field, error.reason),
        })?;
        if entry.max_batch_size > 1 && manifest.precision == "int8" {
            // One scale for the activations of a run: captions would depend on the company.
            return Err(LoadError::Batch(entry.name.clone()));
        }
        let tokenizer = Tokenizer::load(&entry.path, &manifest)?;
        let blip = BlipModel::load(&shared.runtime, &entry.path, &manifest, &session_config(entry))?;
        let (vocabulary, execution_provider) = (blip.vocabulary(), blip.execution_provider());
        let statistics = Arc::new(Statistics::default());
        let images = Arc::new(ImageCache::new(entry.image_cache_bytes, blip.image_bytes()));
        let engine = Engine::spawn(&entry.name, blip, engine_limits(entry), statistics.clone(), images.clone())?;
        let kept = KeptCaptions::new(entry.caption_cache_bytes, entry.single_flight, statistics.clone());
        let model = Self {
            name: entry.name.clone(),
            version: entry.version.clone(),
            aliases: entry.aliases.clone(),
            preprocess: manifest.preprocessor,
            statistics,
            bundle,
            bundle_id: manifest.id(),
            execution_provider,
            vocabulary,
            defaults,
            limits: shared.limits,
            tokenizer,
            engine,
            kept,
            images,
            manifest,
        };
        let caption =
            model.self_test().await.map_err(|source| LoadError::SelfTest { name: model.name.clone(), source })?;
        // What users see begins with their own requests.
        model.statistics.open(shared.metrics.model(&model.name));
        shared.metrics.model_loaded(&model.name, &model.info(), start.elapsed().as_secs_f64());
        info!(
            model = model.name,
            bundle = %entry.path.display(),
            source = model.manifest.source.model,
            precision = model.manifest.precision,
            self_test = caption.text,
            "model ready"
        );
        Ok(model)
    }

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
    pub fn keeps(&self) -> bool {
        self.kept.is_used() || self.images.is_used()
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
        wishes: Wishes,
    ) -> Result<(Arc<[Caption]>, Timings), CaptionError> {
        let Wishes { digest, shared, audience } = wishes;
        // With beams nothing is told before the end.
        let progress = audience.progress.clone().filter(|_| plan.search.decided().is_some());
        // What is drawn anew each time is not kept.
        let digest_of_both = digest.filter(|_| plan.config.is_reproducible());
        let key = digest_of_both.map(|digest| kept::key(&digest, &plan.prompt, &plan.config));
        let mut timings = Timings { kept: true, ..Timings::default() };
        // Boxed: it is large, and moved from hand to hand.
        let work = Box::pin(self.run(plan, (digest, pixel_values), audience, &mut timings));
        let captions = match key.filter(|_| self.kept.is_used()) {
            Some(key) => self.kept.get_or(key, shared, work).await?,
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
        audience: Audience,
        timings: &mut Timings,
    ) -> Result<Arc<[Caption]>, CaptionError> {
        timings.kept = false;
        let Plan { prompt, search, .. } = plan;
        let (start, prompt_len) = (Instant::now(), prompt.len());
        let kept = digest.and_then(|digest| self.images.get(&digest));
        if digest.is_some() && self.images.is_used() {
            self.statistics.record_image_lookup(kept.is_some(), start.elapsed());
        }
        let image = match kept {
            Some(image) => JobImage::Encoded(image),
            None => JobImage::Pixels { pixel_values: pixel_values.await?, digest },
        };
        timings.compute_input = start.elapsed();
        let outcome = self.engine.run(Job { image, prompt, search, audience }).await?;
        (timings.queue, timings.compute_infer) = (outcome.queue, outcome.infer);
        self.statistics.observe(|metrics| &metrics.queue, outcome.queue);
        for sequence in &outcome.sequences {
            self.statistics.record_caption(sequence.token_ids.len() - prompt_len);
        }
        let (start, _stage) = (Instant::now(), telemetry::stage("detokenise"));
        let captions = outcome.sequences.into_iter().map(|sequence| self.detokenise(sequence));
        let captions = captions.collect::<Result<_, _>>()?;
        timings.compute_output = start.elapsed();
        self.statistics.observe(|metrics| &metrics.detokenise, timings.compute_output);
        Ok(captions)
    }

    /// The part of the caption that `token_ids` have decided: whatever follows them, the text begins so.
    ///
    /// # Errors
    /// The ids are not the model's.
    pub fn decided_text(&self, token_ids: &[TokenId]) -> Result<String, CaptionError> {
        self.tokenizer.decode_decided(token_ids).map_err(CaptionError::internal)
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

    /// Memory that the entry's bundle needs once it is loaded, about.
    ///
    /// # Errors
    /// There is no usable manifest.
    pub(super) fn memory_needed(entry: &ModelEntry) -> Result<u64, LoadError> {
        let manifest = Manifest::load(&entry.path)?;
        Ok(memory::needed(manifest.size(), &manifest.precision))
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

    /// Captions a flat image with the model's defaults: proof that the graphs run, and their warm-up.
    async fn self_test(&self) -> Result<Caption, CaptionError> {
        let plan = self.plan(None, &GenerationParameters::default())?;
        let image = async { Ok(PixelValues::flat(&self.preprocess)) };
        let (captions, _) = self.caption(plan, image, Wishes::default()).await?;
        match captions.first() {
            Some(caption) if caption.score.is_finite() => Ok(caption.clone()),
            _ => Err(CaptionError::internal("the graphs give no finite numbers")),
        }
    }
}

/// A score that JSON can write: an extreme `length_penalty` makes infinities.
fn finite(score: f32) -> f32 {
    if score.is_nan() { 0.0 } else { score.clamp(f32::MIN, f32::MAX) }
}

/// What the engine may do at once, as the entry wants it.
fn engine_limits(entry: &ModelEntry) -> EngineLimits {
    EngineLimits {
        max_rows: entry.max_rows,
        max_batch_size: entry.max_batch_size,
        max_batch_delay: Duration::from_secs_f64(entry.max_batch_delay),
    }
}

/// Sessions as the entry wants them.
fn session_config(entry: &ModelEntry) -> SessionConfig {
    SessionConfig {
        execution_providers: entry.execution_providers.clone(),
        device_id: entry.device_id,
        gpu_mem_limit: entry.gpu_mem_limit,
        threads: entry.threads,
        caches_on_device: false,
    }
}
