//! Replaces models while requests are served.
//!
//! A new model is loaded and warm before anything changes; then the set of models is replaced as a whole. Requests in
//! flight keep their model, which is dropped with the last of them. If anything is wrong, nothing changes.

use std::sync::Arc;

use thiserror::Error;
use tokio::{runtime::Handle, task};
use tracing::info;

use crate::config::catalogue::{Catalogue, CatalogueError, ModelEntry};
use crate::registry::{
    load::{LoadError, Shared},
    memory,
    model::ServedModel,
    snapshot::{Registry, Slot, Snapshot, shorten},
};

/// Why a change of the models was refused.
#[derive(Debug, Error)]
pub enum ReloadError {
    /// `models.toml` cannot be used.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// A model cannot be served.
    #[error("model '{0}': {1}")]
    Load(String, #[source] LoadError),
    /// A model does not fit into memory beside those that are served.
    #[error("model '{name}' needs about {needed} bytes of memory, {available} are available")]
    Memory {
        /// The model's name.
        name: String,
        /// Approximate memory of the model in bytes.
        needed: u64,
        /// Free memory in bytes.
        available: u64,
    },
    /// The models did not come from a `models.toml`.
    #[error("the models cannot be reloaded without a models.toml")]
    NoCatalogue,
    /// `models.toml` has no model of this name.
    #[error("unknown model '{0}'")]
    Unknown(String),
    /// The thread that loads a model panicked.
    #[error("the model could not be loaded: its thread panicked")]
    Panicked,
}

impl Registry {
    /// Reads `models.toml` and loads new and changed models, keeps unchanged ones, and drops removed ones.
    ///
    /// # Errors
    /// The file or one of its models cannot be used; then nothing changes.
    pub async fn reload(&self) -> Result<(), ReloadError> {
        let _guard = self.reload_lock.lock().await;
        let catalogue = self.read_catalogue()?;
        let before = self.snapshot();
        let mut slots = Vec::new();
        for entry in catalogue.models {
            let old = before.slots.iter().find(|slot| slot.entry == entry);
            let model = match old.map(|slot| &slot.model) {
                // A model that was unloaded on request stays so until it is loaded on request, or its entry changes.
                Some(None) => None,
                Some(Some(model)) if model.is_current(&entry) => Some(model.clone()),
                _ => Some(self.load_new(&entry).await?),
            };
            slots.push(Slot { entry, model });
        }
        self.replace(Snapshot { default: catalogue.default, slots });
        Ok(())
    }

    /// Loads one model of `models.toml`, even if it is loaded and has not changed.
    ///
    /// # Errors
    /// The model is unknown or cannot be served; then nothing changes.
    pub async fn load_model(&self, name: &str) -> Result<(), ReloadError> {
        let _guard = self.reload_lock.lock().await;
        let entry = self.read_catalogue()?.models.into_iter().find(|entry| entry.is_called(name));
        let entry = entry.ok_or_else(|| ReloadError::Unknown(shorten(name)))?;
        let model = Some(self.load_new(&entry).await?);
        let mut snapshot = Snapshot::clone(&self.snapshot());
        let slot = Slot { entry, model };
        match snapshot.slots.iter_mut().find(|old| old.entry.name == slot.entry.name) {
            Some(old) => *old = slot,
            None => snapshot.slots.push(slot),
        }
        self.replace(snapshot);
        Ok(())
    }

    /// Takes one model out of service; requests in flight are finished.
    ///
    /// # Errors
    /// The model is unknown.
    pub async fn unload_model(&self, name: &str) -> Result<(), ReloadError> {
        let _guard = self.reload_lock.lock().await;
        let mut snapshot = Snapshot::clone(&self.snapshot());
        let slot = snapshot.slots.iter_mut().find(|slot| slot.entry.is_called(name));
        slot.ok_or_else(|| ReloadError::Unknown(shorten(name)))?.model = None;
        self.replace(snapshot);
        Ok(())
    }

    fn read_catalogue(&self) -> Result<Catalogue, ReloadError> {
        Ok(Catalogue::load(self.shared.catalogue.as_ref().ok_or(ReloadError::NoCatalogue)?)?)
    }

    async fn load_new(&self, entry: &ModelEntry) -> Result<Arc<ServedModel>, ReloadError> {
        let (entry, shared) = (entry.clone(), self.shared.clone());
        // Checksums and graphs occupy a thread for long; it must not be one that answers requests.
        let loading = task::spawn_blocking(move || Handle::current().block_on(load_if_it_fits(&entry, &shared)));
        loading.await.map_err(|_| ReloadError::Panicked)?.map(Arc::new)
    }

    fn replace(&self, snapshot: Snapshot) {
        let after = Arc::new(snapshot);
        let before = self.replace_snapshot(after.clone());
        let metrics = self.metrics();
        for old in before.models().filter(|old| !after.contains(old)) {
            info!(model = old.name, bundle = old.manifest.id(), "model removed");
            metrics.remove_model(&old.name, &old.info());
        }
        for new in after.models().filter(|new| !before.contains(new)) {
            metrics.add_model(&new.name, &new.info(), new.load_time);
        }
    }
}

async fn load_if_it_fits(entry: &ModelEntry, shared: &Shared) -> Result<ServedModel, ReloadError> {
    let failed = |error: LoadError| ReloadError::Load(entry.name.clone(), error);
    let needed = ServedModel::memory_needed(entry).map_err(failed)?;
    match memory::available() {
        Some(available) if available < needed => {
            Err(ReloadError::Memory { name: entry.name.clone(), needed, available })
        }
        _ => ServedModel::load(entry, shared).await.map_err(failed),
    }
}
