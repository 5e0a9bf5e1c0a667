//! The models that are served: catalogue -> verified bundles -> engines, and how one takes the place of another.

mod bundle;
mod caption_cache;
mod load;
mod memory;
mod model;
mod reload;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

pub use load::LoadError;
pub use model::{CaptionOptions, Plan, ServedModel};
pub use reload::ReloadError;

pub use crate::engine::{Digest, RequestHandle};

use crate::{
    blip::{BundleError, Manifest, Runtime},
    config::catalogue::{Catalogue, ModelEntry},
    error::CaptionError,
    observability::prometheus::Metrics,
};
use generation::GenerationLimits;
use image_processor::PreprocessConfig;

/// What all models share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The library.
    pub runtime: Runtime,
    /// Where they are counted.
    pub metrics: Metrics,
    /// What requests may ask for.
    pub limits: GenerationLimits,
    /// `models.toml`, if the models can be read again from there.
    pub catalogue: Option<PathBuf>,
}

impl Shared {
    /// For a command that serves nobody: counts are made and not shown.
    ///
    /// # Errors
    /// A metric cannot be made.
    pub fn for_cli(runtime: Runtime) -> Result<Self, prometheus::Error> {
        Ok(Self { runtime, metrics: Metrics::new()?, limits: GenerationLimits::default(), catalogue: None })
    }
}

/// All served models.
#[derive(Debug)]
pub struct Registry {
    shared: Shared,
    snapshot: RwLock<Arc<Snapshot>>,
    /// One change at a time.
    reload_lock: tokio::sync::Mutex<()>,
}

/// The models at one moment.
#[derive(Clone, Debug)]
struct Snapshot {
    default: String,
    slots: Vec<Slot>,
}

/// An entry of the catalogue and its model, if that is loaded.
#[derive(Clone, Debug)]
struct Slot {
    entry: ModelEntry,
    model: Option<Arc<ServedModel>>,
}

/// A line of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelState {
    /// As in the catalogue.
    pub name: String,
    /// As in the catalogue.
    pub version: String,
    /// Why it cannot be used, if so.
    pub problem: Option<&'static str>,
}

impl Registry {
    /// Loads every model of the catalogue; each has captioned a self-test image when this returns.
    ///
    /// # Errors
    /// The first model that cannot be served.
    pub async fn load(catalogue: &Catalogue, shared: Shared) -> Result<Self, LoadError> {
        let mut slots = Vec::new();
        for entry in &catalogue.models {
            let model = Arc::new(ServedModel::load(entry, &shared).await?);
            slots.push(Slot { entry: entry.clone(), model: Some(model) });
        }
        let snapshot = Snapshot { default: catalogue.default.clone(), slots };
        snapshot.models().for_each(|model| shared.metrics.add_model(&model.name, &model.info(), model.load_time));
        Ok(Self::new(shared, snapshot))
    }

    /// A registry of one model.
    ///
    /// # Errors
    /// It cannot be served.
    pub async fn load_one(entry: &ModelEntry, shared: Shared) -> Result<Self, LoadError> {
        Self::load(&Catalogue { default: entry.name.clone(), models: vec![entry.clone()] }, shared).await
    }

    fn new(shared: Shared, snapshot: Snapshot) -> Self {
        Self { shared, snapshot: RwLock::new(Arc::new(snapshot)), reload_lock: tokio::sync::Mutex::default() }
    }

    /// The model of this name or alias; `None` or empty means the default. A model has one version.
    ///
    /// # Errors
    /// There is none, or it is not loaded.
    pub fn resolve(&self, name: Option<&str>, version: Option<&str>) -> Result<Arc<ServedModel>, CaptionError> {
        let snapshot = self.snapshot();
        let name = name.filter(|name| !name.is_empty()).unwrap_or(&snapshot.default);
        let slot = snapshot.find(name).ok_or_else(|| CaptionError::UnknownModel { name: shorten(name) })?;
        match version.filter(|version| !version.is_empty() && *version != slot.entry.version) {
            None => slot.model.clone().ok_or(CaptionError::Unavailable("the model is not loaded")),
            Some(version) => Err(CaptionError::UnknownVersion { name: shorten(name), version: shorten(version) }),
        }
    }

    /// All that are loaded, in the catalogue's order.
    pub fn models(&self) -> Vec<Arc<ServedModel>> {
        self.snapshot().slots.iter().filter_map(|slot| slot.model.clone()).collect()
    }

    /// All of the catalogue.
    pub fn index(&self) -> Vec<ModelState> {
        let state = |slot: &Slot| ModelState {
            name: slot.entry.name.clone(),
            version: slot.entry.version.clone(),
            problem: match &slot.model {
                None => Some("unloaded"),
                Some(model) => (!model.is_serving()).then_some("stopped"),
            },
        };
        self.snapshot().slots.iter().map(state).collect()
    }

    /// True while every engine runs.
    pub fn is_serving(&self) -> bool {
        self.snapshot().models().all(|model| model.is_serving())
    }

    /// The longest time that an engine has been in one run of a graph.
    pub fn longest_run(&self) -> std::time::Duration {
        self.snapshot().models().map(|model| model.busy_for()).max().unwrap_or_default()
    }

    /// Where everything is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        // It is only ever replaced as a whole.
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Snapshot {
    fn find(&self, name: &str) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.entry.is_called(name))
    }

    fn has(&self, model: &Arc<ServedModel>) -> bool {
        self.models().any(|own| Arc::ptr_eq(own, model))
    }

    fn models(&self) -> impl Iterator<Item = &Arc<ServedModel>> {
        self.slots.iter().filter_map(|slot| slot.model.as_ref())
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
