//! From an entry of the catalogue to a model that has captioned a self-test image.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use thiserror::Error;
use tracing::info;

use crate::registry::{
    bundle::BundleFingerprint,
    caption_cache::CaptionCache,
    memory,
    model::{CaptionOptions, ServedModel},
};
use crate::{
    blip::{BlipModel, BundleError, Manifest, OnnxBackend, Runtime, SessionConfig, Tokenizer},
    caption::Caption,
    config::catalogue::ModelEntry,
    engine::{Engine, EngineConfig, EngineLimits, ImageCache, RequestHandle},
    error::CaptionError,
    observability::{ModelRecorder, prometheus::Metrics},
};
use generation::{GenerationConfig, GenerationLimits, GenerationParameters};
use image_processor::{PixelValues, PreprocessConfig};

/// The resources that all models share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The ONNX Runtime library.
    pub runtime: Runtime,
    /// The metrics of the process.
    pub metrics: Metrics,
    /// What requests may ask for.
    pub limits: GenerationLimits,
    /// Path of `models.toml`, if the models can be reloaded from there.
    pub catalogue: Option<PathBuf>,
}

impl Shared {
    /// Creates the resources of a command that serves no requests and shows no metrics.
    ///
    /// # Errors
    /// A metric cannot be made.
    pub fn for_cli(runtime: Runtime) -> Result<Self, prometheus::Error> {
        Ok(Self { runtime, metrics: Metrics::new()?, limits: GenerationLimits::default(), catalogue: None })
    }
}

/// Why a model cannot be served.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The bundle cannot be used.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The generation defaults of the catalogue's entry or of the bundle are out of range.
    #[error("model '{name}': generation.{field}: {reason}")]
    Defaults {
        /// The model's name.
        name: String,
        /// The parameter.
        field: &'static str,
        /// What is wrong, and what is allowed.
        reason: String,
    },
    /// The images of an int8 bundle cannot share a run of the encoder.
    #[error("model '{0}': max_batch_size: must be 1 for an int8 bundle")]
    BatchSize(String),
    /// The operating system starts no thread.
    #[error("the thread of a model could not be started: {0}")]
    Thread(#[from] std::io::Error),
    /// The model fails on its self-test image.
    #[error("model '{name}' does not caption its self-test image: {source}")]
    SelfTest {
        /// The model's name.
        name: String,
        /// Why it fails.
        source: CaptionError,
    },
}

impl ServedModel {
    /// Verifies the bundle, loads it, starts its engine and lets it caption a self-test image.
    ///
    /// # Errors
    /// One of these steps failed.
    pub async fn load(entry: &ModelEntry, shared: &Shared) -> Result<Self, LoadError> {
        let start = Instant::now();
        let manifest = Manifest::load(&entry.path)?;
        // Taken before the files are read, so that a later change to them is noticed.
        let bundle = BundleFingerprint::new(&entry.path, &manifest);
        manifest.verify_files(&entry.path)?;
        let defaults = entry.generation.or(&manifest.generation);
        GenerationConfig::new(&defaults, &shared.limits).map_err(|error| LoadError::Defaults {
            name: entry.name.clone(),
            field: error.field,
            reason: error.reason,
        })?;
        if entry.max_batch_size > 1 && manifest.precision == "int8" {
            // A run has one scale for its activations: captions would depend on the other images of the batch.
            return Err(LoadError::BatchSize(entry.name.clone()));
        }
        let tokenizer = Tokenizer::load(&entry.path, &manifest)?;
        let blip = BlipModel::load(&shared.runtime, &entry.path, &manifest, &session_config(entry))?;
        let (vocabulary, execution_provider) = (blip.vocabulary(), blip.execution_provider());
        let recorder = Arc::new(ModelRecorder::default());
        let image_cache = Arc::new(ImageCache::new(entry.image_cache_bytes, blip.image_bytes()));
        let mut backends = vec![OnnxBackend::from(blip)];
        while backends.len() < entry.instances {
            let blip = BlipModel::load(&shared.runtime, &entry.path, &manifest, &session_config(entry))?;
            backends.push(blip.into());
        }
        let config =
            EngineConfig { limits: engine_limits(entry), recorder: recorder.clone(), images: image_cache.clone() };
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
            image_cache,
            manifest,
            load_time: Duration::ZERO,
        };
        let caption =
            model.self_test().await.map_err(|source| LoadError::SelfTest { name: model.name.clone(), source })?;
        // The statistics that users see begin with their own requests.
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

    /// Approximate memory of the entry's model once it is loaded, in bytes.
    ///
    /// # Errors
    /// The manifest cannot be used.
    pub(super) fn memory_needed(entry: &ModelEntry) -> Result<u64, LoadError> {
        let manifest = Manifest::load(&entry.path)?;
        Ok(memory::needed(manifest.size(), &manifest.precision) * entry.instances as u64)
    }

    /// Captions an image of one colour with the model's defaults on every instance, to check and warm up the graphs.
    async fn self_test(&self) -> Result<Caption, CaptionError> {
        let mut last = None;
        for instance in 0..self.engine.instances() {
            let plan = self.plan(None, &GenerationParameters::default())?;
            let image = async { Ok(PixelValues::zeros(&self.preprocess)) };
            let request = RequestHandle { instance: Some(instance), ..RequestHandle::default() };
            let (captions, _) =
                self.caption(plan, image, CaptionOptions { request, ..CaptionOptions::default() }).await?;
            last = captions.first().filter(|caption| caption.score.is_finite()).cloned();
            if last.is_none() {
                break;
            }
        }
        last.ok_or_else(|| CaptionError::internal("the score of the caption is not finite"))
    }
}

/// Limits of the engine from the catalogue's entry.
fn engine_limits(entry: &ModelEntry) -> EngineLimits {
    EngineLimits {
        max_rows: entry.max_rows,
        max_batch_size: entry.max_batch_size,
        max_batch_delay: Duration::from_secs_f64(entry.max_batch_delay),
    }
}

/// Settings of the sessions from the catalogue's entry. Instances share the cores unless `threads` is set.
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

/// Reads the preprocessing settings of a bundle whose graphs are not needed.
///
/// # Errors
/// The manifest cannot be used.
pub fn preprocess_config(bundle: &Path) -> Result<PreprocessConfig, BundleError> {
    Ok(Manifest::load(bundle)?.preprocessor)
}
