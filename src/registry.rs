//! The models that are served: catalogue -> verified bundles -> engines.

use std::{path::Path, sync::Arc};

use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    blip::{BlipModel, BundleError, Manifest, Runtime, SessionConfig, Tokenizer},
    caption::Caption,
    catalogue::{Catalogue, ModelEntry},
    engine::{Engine, EngineConfig, Job},
    error::CaptionError,
    generation::{GenerationConfig, GenerationLimits, GenerationParameters, Search, Sequence, TokenId, Vocabulary},
    image::{PixelValues, PreprocessConfig},
};

/// Bounds of generation parameters; not a model's matter.
const LIMITS: GenerationLimits = GenerationLimits {
    max_new_tokens: 512,
    max_num_beams: 32,
    max_num_return_sequences: 32,
    max_bad_words: 1000,
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

/// All served models.
#[derive(Debug)]
pub struct Registry {
    default: usize,
    models: Vec<Arc<ServedModel>>,
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

impl Registry {
    /// Loads every model of the catalogue; each has captioned a self-test image when this returns.
    ///
    /// # Errors
    /// The first model that cannot be served.
    pub async fn load(catalogue: &Catalogue, runtime: &Runtime, queue_capacity: usize) -> Result<Self, LoadError> {
        let mut models = Vec::new();
        for entry in &catalogue.models {
            models.push(Arc::new(ServedModel::load(entry, runtime, queue_capacity).await?));
        }
        let default = catalogue.models.iter().position(|entry| entry.name == catalogue.default).unwrap_or(0);
        Ok(Self { default, models })
    }

    /// A registry of one model.
    pub fn of_one(model: ServedModel) -> Self {
        Self { default: 0, models: vec![Arc::new(model)] }
    }

    /// The model of this name or alias; `None` or empty means the default. A model has one version.
    ///
    /// # Errors
    /// There is none.
    pub fn resolve(&self, name: Option<&str>, version: Option<&str>) -> Result<&Arc<ServedModel>, CaptionError> {
        let model = match name.filter(|name| !name.is_empty()) {
            None => self.default_model(),
            Some(name) => {
                let known = |model: &&Arc<ServedModel>| model.name == name || model.aliases.iter().any(|a| a == name);
                let unknown = || CaptionError::UnknownModel { name: shorten(name) };
                self.models.iter().find(known).ok_or_else(unknown)?
            }
        };
        match version.filter(|version| !version.is_empty() && *version != model.version) {
            None => Ok(model),
            Some(version) => {
                let name = shorten(name.unwrap_or(&model.name));
                Err(CaptionError::UnknownVersion { name, version: shorten(version) })
            }
        }
    }

    /// What requests without a model's name get.
    pub fn default_model(&self) -> &Arc<ServedModel> {
        &self.models[self.default]
    }

    /// All of them, in the catalogue's order.
    pub fn models(&self) -> impl Iterator<Item = &Arc<ServedModel>> {
        self.models.iter()
    }

    /// True while every engine runs.
    pub fn is_serving(&self) -> bool {
        self.models.iter().all(|model| model.engine.is_running())
    }
}

impl ServedModel {
    /// Verifies the bundle, loads it, starts its engine and lets it caption a self-test image.
    ///
    /// # Errors
    /// Any of that failed.
    pub async fn load(entry: &ModelEntry, runtime: &Runtime, queue_capacity: usize) -> Result<Self, LoadError> {
        let manifest = Manifest::load(&entry.path)?;
        manifest.verify_files(&entry.path)?;
        let defaults = entry.generation.or(&manifest.generation);
        GenerationConfig::new(&defaults, &LIMITS)
            .map_err(|error| LoadError::Defaults(format!("{}: {}", error.field, error.reason)))?;
        let tokenizer = Tokenizer::load(&entry.path, &manifest)?;
        let blip = BlipModel::load(runtime, &entry.path, &manifest, &session_config(entry))?;
        let vocabulary = blip.vocabulary();
        let engine = Engine::spawn(&entry.name, blip, EngineConfig { max_rows: entry.max_rows, queue_capacity })?;
        let model = Self {
            name: entry.name.clone(),
            version: entry.version.clone(),
            aliases: entry.aliases.clone(),
            preprocess: manifest.preprocessor,
            vocabulary,
            defaults,
            tokenizer,
            engine,
            manifest,
        };
        let caption = model.self_test().await.map_err(|source| LoadError::SelfTest { name: model.name.clone(), source })?;
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
    pub fn plan(&self, prompt: Option<&str>, parameters: &GenerationParameters) -> Result<Plan, CaptionError> {
        let config = GenerationConfig::new(&parameters.or(&self.defaults), &LIMITS)?;
        let untokenisable = |field: &'static str| move |_| CaptionError::invalid(field, "the text cannot be tokenised");
        let prompt = self.tokenizer.encode_prompt(prompt).map_err(untokenisable("prompt"))?;
        let positions = self.manifest.text.max_position_embeddings;
        if prompt.len() > positions {
            let reason = format!("the text has {} tokens, the model takes {positions}", prompt.len());
            return Err(CaptionError::invalid("prompt", reason));
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

    /// Captions a preprocessed image.
    ///
    /// # Errors
    /// Overloaded, cancelled, too late, or a run failed.
    pub async fn caption(
        &self,
        plan: Plan,
        pixel_values: PixelValues,
        deadline: Option<std::time::Instant>,
        cancelled: CancellationToken,
    ) -> Result<Vec<Caption>, CaptionError> {
        let Plan { prompt, search } = plan;
        let sequences = self.engine.run(Job { pixel_values, prompt, search, deadline, cancelled }).await?;
        sequences.into_iter().map(|sequence| self.detokenise(sequence)).collect()
    }

    fn detokenise(&self, sequence: Sequence) -> Result<Caption, CaptionError> {
        let text = self.tokenizer.decode(&sequence.token_ids).map_err(CaptionError::internal)?;
        Ok(Caption {
            text,
            token_ids: sequence.token_ids,
            score: sequence.score,
            finish_reason: sequence.finish_reason,
        })
    }

    /// Captions a flat image with the model's defaults: proof that the graphs run, and their warm-up.
    async fn self_test(&self) -> Result<Caption, CaptionError> {
        let plan = self.plan(None, &GenerationParameters::default())?;
        let mut captions = self.caption(plan, PixelValues::flat(&self.preprocess), None, CancellationToken::new()).await?;
        match captions.pop() {
            Some(caption) if caption.score.is_finite() => Ok(caption),
            _ => Err(CaptionError::internal("the graphs give no finite numbers")),
        }
    }
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

/// What a client sent, for an error text.
fn shorten(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}

/// The preprocessing of a bundle whose graphs are not needed.
///
/// # Errors
/// There is no usable manifest.
pub fn preprocess_config(bundle: &Path) -> Result<PreprocessConfig, BundleError> {
    Ok(Manifest::load(bundle)?.preprocessor)
}
