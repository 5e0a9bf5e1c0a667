//! From an entry of the catalogue to a model that has captioned a self-test image.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use thiserror::Error;
use tracing::info;

use crate::registry::{
    Shared,
    bundle::BundleState,
    caption_cache::CaptionCache,
    memory,
    model::{CaptionOptions, ServedModel},
};
use crate::{
    blip::{BlipModel, BundleError, Manifest, OnnxBackend, SessionConfig, Tokenizer},
    caption::Caption,
    config::catalogue::ModelEntry,
    engine::{Engine, EngineConfig, EngineLimits, ImageCache, RequestHandle},
    error::CaptionError,
    observability::ModelRecorder,
};
use generation::{GenerationConfig, GenerationParameters};
use image_processor::PixelValues;

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
        let recorder = Arc::new(ModelRecorder::default());
        let images = Arc::new(ImageCache::new(entry.image_cache_bytes, blip.image_bytes()));
        let mut backends = vec![OnnxBackend::from(blip)];
        while backends.len() < entry.instances {
            let blip = BlipModel::load(&shared.runtime, &entry.path, &manifest, &session_config(entry))?;
            backends.push(blip.into());
        }
        let config = EngineConfig { limits: engine_limits(entry), recorder: recorder.clone(), images: images.clone() };
        let engine = Engine::spawn(&entry.name, backends, &config)?;
        let caption_cache = CaptionCache::new(entry.caption_cache_bytes, entry.single_flight, recorder.clone());
        let mut model = Self {
            name: entry.name.clone(),
            version: entry.version.clone(),
            preprocess: manifest.preprocessor,
            recorder,
            bundle,
            bundle_id: manifest.id(),
            execution_provider,
            vocabulary,
            defaults,
            limits: shared.limits,
            tokenizer,
            engine,
            caption_cache,
            images,
            manifest,
            load_time: Duration::ZERO,
        };
        let caption =
            model.self_test().await.map_err(|source| LoadError::SelfTest { name: model.name.clone(), source })?;
        // What users see begins with their own requests.
        model.recorder.publish(shared.metrics.model(&model.name));
        model.load_time = start.elapsed();
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

    /// Memory that the entry's bundle needs once it is loaded, about.
    ///
    /// # Errors
    /// There is no usable manifest.
    pub(super) fn memory_needed(entry: &ModelEntry) -> Result<u64, LoadError> {
        let manifest = Manifest::load(&entry.path)?;
        Ok(memory::needed(manifest.size(), &manifest.precision) * entry.instances as u64)
    }

    /// Captions a flat image with the model's defaults on every instance: proof that the graphs run, and their warm-up.
    async fn self_test(&self) -> Result<Caption, CaptionError> {
        let mut last = None;
        for instance in 0..self.engine.instances() {
            let plan = self.plan(None, &GenerationParameters::default())?;
            let image = async { Ok(PixelValues::zeros(&self.preprocess)) };
            let audience = RequestHandle { instance: Some(instance), ..RequestHandle::default() };
            let (captions, _) =
                self.caption(plan, image, CaptionOptions { request: audience, ..CaptionOptions::default() }).await?;
            last = captions.first().filter(|caption| caption.score.is_finite()).cloned();
            if last.is_none() {
                break;
            }
        }
        last.ok_or_else(|| CaptionError::internal("the graphs give no finite numbers"))
    }
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
    let threads = match entry.threads {
        0 if entry.instances > 1 => thread::available_parallelism().map_or(1, usize::from).div_ceil(entry.instances),
        threads => threads,
    };
    SessionConfig {
        execution_providers: entry.execution_providers.clone(),
        device_id: entry.device_id,
        gpu_mem_limit: entry.gpu_mem_limit,
        threads,
        caches_on_device: false,
    }
}
