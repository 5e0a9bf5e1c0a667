//! One model: a verified bundle, its tokenizer, its engine, and the checks of a request that need them.

use std::{sync::Arc, time::Instant};

use thiserror::Error;
use tracing::info;

use crate::{
    blip::{BlipModel, BundleError, Manifest, Runtime, SessionConfig, Tokenizer},
    caption::{Caption, Prompt, Timings},
    catalogue::ModelEntry,
    engine::{Audience, Engine, Job},
    error::CaptionError,
    generation::{GenerationConfig, GenerationLimits, GenerationParameters, Search, Sequence, TokenId, Vocabulary},
    image::{PixelValues, PreprocessConfig},
    statistics::Statistics,
};

/// Why a model cannot be served.
#[derive(Debug, Error)]
pub enum LoadError {
    /// Its bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Its generation defaults.
    #[error("models.toml: generation.{0}")]
    Defaults(String),
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
    vocabulary: Vocabulary,
    defaults: GenerationParameters,
    tokenizer: Tokenizer,
    engine: Engine,
}

/// A request's text and parameters, checked against the model.
#[derive(Debug)]
pub struct Plan {
    prompt: Vec<TokenId>,
    search: Search,
}

impl ServedModel {
    /// Verifies the bundle, loads it, starts its engine and lets it caption a self-test image.
    ///
    /// # Errors
    /// Any of that failed.
    pub async fn load(entry: &ModelEntry, runtime: &Runtime) -> Result<Self, LoadError> {
        let manifest = Manifest::load(&entry.path)?;
        manifest.verify_files(&entry.path)?;
        let defaults = entry.generation.or(&manifest.generation);
        GenerationConfig::new(&defaults, &GenerationLimits::default())
            .map_err(|error| LoadError::Defaults(format!("{}: {}", error.field, error.reason)))?;
        let tokenizer = Tokenizer::load(&entry.path, &manifest)?;
        let blip = BlipModel::load(runtime, &entry.path, &manifest, &session_config(entry))?;
        let vocabulary = blip.vocabulary();
        let statistics = Arc::new(Statistics::default());
        let engine = Engine::spawn(&entry.name, blip, entry.max_rows, statistics.clone())?;
        let model = Self {
            name: entry.name.clone(),
            version: entry.version.clone(),
            aliases: entry.aliases.clone(),
            preprocess: manifest.preprocessor,
            statistics,
            vocabulary,
            defaults,
            tokenizer,
            engine,
            manifest,
        };
        let caption =
            model.self_test().await.map_err(|source| LoadError::SelfTest { name: model.name.clone(), source })?;
        // What users see begins with their own requests.
        model.statistics.reset();
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
        let config = GenerationConfig::new(&parameters.or(&self.defaults), &GenerationLimits::default())?;
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
        Ok(Plan { prompt, search })
    }

    /// Captions a preprocessed image; the timings lack `compute_input`.
    ///
    /// # Errors
    /// Cancelled, too late, or a run failed.
    pub async fn caption(
        &self,
        plan: Plan,
        pixel_values: PixelValues,
        audience: Audience,
    ) -> Result<(Vec<Caption>, Timings), CaptionError> {
        let Plan { prompt, search } = plan;
        let outcome = self.engine.run(Job { pixel_values, prompt, search, audience }).await?;
        let start = Instant::now();
        let captions = outcome.sequences.into_iter().map(|sequence| self.detokenise(sequence));
        let captions = captions.collect::<Result<_, _>>()?;
        let timings = Timings {
            queue: outcome.queue,
            compute_infer: outcome.infer,
            compute_output: start.elapsed(),
            ..Timings::default()
        };
        Ok((captions, timings))
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
        let image = PixelValues::flat(&self.preprocess);
        let (mut captions, _) = self.caption(plan, image, Audience::default()).await?;
        match captions.pop() {
            Some(caption) if caption.score.is_finite() => Ok(caption),
            _ => Err(CaptionError::internal("the graphs give no finite numbers")),
        }
    }
}

/// A score that JSON can write: an extreme `length_penalty` makes infinities.
fn finite(score: f32) -> f32 {
    if score.is_nan() { 0.0 } else { score.clamp(f32::MIN, f32::MAX) }
}

/// Sessions as the entry wants them.
fn session_config(entry: &ModelEntry) -> SessionConfig {
    SessionConfig {
        execution_providers: entry.execution_providers.clone(),
        device_id: entry.device_id,
        gpu_mem_limit: entry.gpu_mem_limit,
        threads: entry.threads,
    }
}
