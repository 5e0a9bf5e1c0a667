//! The registry: the models that are currently served, and their look-up by name.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use crate::registry::{
    load::{LoadError, Shared},
    model::ServedModel,
};
use crate::{
    config::catalogue::{Catalogue, ModelEntry},
    error::CaptionError,
    observability::prometheus::Metrics,
};

/// All served models.
#[derive(Debug)]
pub struct Registry {
    pub(super) shared: Shared,
    snapshot: RwLock<Arc<Snapshot>>,
    /// Held while models are loaded, reloaded or unloaded, so that changes are serialised.
    pub(super) reload_lock: tokio::sync::Mutex<()>,
}

/// The models at one moment.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) default: String,
    pub(super) slots: Vec<Slot>,
}

/// An entry of the catalogue, and its model if that is loaded.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) entry: ModelEntry,
    pub(super) model: Option<Arc<ServedModel>>,
}

/// A line of the repository index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelState {
    /// Name in the catalogue.
    pub name: String,
    /// Version in the catalogue.
    pub version: String,
    /// Why the model cannot be used; `None` if it can.
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
        Ok(Self { shared, snapshot: RwLock::new(Arc::new(snapshot)), reload_lock: tokio::sync::Mutex::default() })
    }

    /// Loads a registry of one model.
    ///
    /// # Errors
    /// The model cannot be served.
    pub async fn load_one(entry: &ModelEntry, shared: Shared) -> Result<Self, LoadError> {
        Self::load(&Catalogue { default: entry.name.clone(), models: vec![entry.clone()] }, shared).await
    }

    /// Returns the model of this name or alias; `None` or empty means the default. A model has one version.
    ///
    /// # Errors
    /// The model or version is unknown, or the model is not loaded.
    pub fn resolve(&self, name: Option<&str>, version: Option<&str>) -> Result<Arc<ServedModel>, CaptionError> {
        let snapshot = self.snapshot();
        let name = name.filter(|name| !name.is_empty()).unwrap_or(&snapshot.default);
        let slot = snapshot.find(name).ok_or_else(|| CaptionError::UnknownModel { name: shorten(name) })?;
        match version.filter(|version| !version.is_empty() && *version != slot.entry.version) {
            None => slot.model.clone().ok_or(CaptionError::Unavailable("the model is not loaded")),
            Some(version) => Err(CaptionError::UnknownVersion { name: shorten(name), version: shorten(version) }),
        }
    }

    /// Returns the loaded models in the catalogue's order.
    pub fn models(&self) -> Vec<Arc<ServedModel>> {
        self.snapshot().models().cloned().collect()
    }

    /// Returns the state of every model of the catalogue.
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

    /// The longest time that an engine has been in its current action: an admission or a decoder step.
    pub fn longest_action(&self) -> Duration {
        self.snapshot().models().map(|model| model.busy_for()).max().unwrap_or_default()
    }

    /// The metrics of the process.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        // The snapshot is only replaced as a whole, so a panic elsewhere cannot leave it incomplete.
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes `snapshot` the current one and returns the last.
    pub(super) fn replace_snapshot(&self, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        std::mem::replace(&mut *self.snapshot.write().unwrap_or_else(PoisonError::into_inner), snapshot)
    }
}

impl Snapshot {
    fn find(&self, name: &str) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.entry.is_called(name))
    }

    pub(super) fn contains(&self, model: &Arc<ServedModel>) -> bool {
        self.models().any(|other| Arc::ptr_eq(other, model))
    }

    pub(super) fn models(&self) -> impl Iterator<Item = &Arc<ServedModel>> {
        self.slots.iter().filter_map(|slot| slot.model.as_ref())
    }
}

/// Shortens a client's name for an error text.
pub(super) fn shorten(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}
