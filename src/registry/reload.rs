//! New models in the place of old ones, while requests go on.
//!
//! What is new is loaded and warm before anything changes; then the set of models is replaced as a whole. Requests that
//! have begun keep the model they have, which goes with the last of them. If anything is wrong, nothing changes.

use std::sync::{Arc, PoisonError};

use thiserror::Error;
use tokio::{runtime::Handle, task};
use tracing::info;

use crate::config::catalogue::{Catalogue, CatalogueError, ModelEntry};
use crate::registry::{LoadError, Registry, ServedModel, Shared, Slot, Snapshot, memory};

/// Why everything stays as it was.
#[derive(Debug, Error)]
pub enum ReloadError {
    /// The file.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// A model.
    #[error("model '{0}': {1}")]
    Load(String, #[source] LoadError),
    /// It would not fit beside those that are served.
    #[error("model '{name}' needs about {needed} bytes of memory, {available} are available")]
    Memory {
        /// The model.
        name: String,
        /// About.
        needed: u64,
        /// Now.
        available: u64,
    },
    /// The models did not come from a file.
    #[error("there is no models.toml to read again")]
    NoCatalogue,
    /// The file has no such model.
    #[error("no model is called '{0}'")]
    Unknown(String),
    /// The thread that loads died.
    #[error("loading was given up")]
    GivenUp,
}

impl Registry {
    /// Reads `models.toml` again: loads what is new or changed, keeps what is not, drops what is gone.
    ///
    /// # Errors
    /// Something is wrong with the file or one of its models; then everything is as before.
    pub async fn reload(&self) -> Result<(), ReloadError> {
        let _alone = self.reload_lock.lock().await;
        let catalogue = self.catalogue()?;
        let before = self.snapshot();
        let mut slots = Vec::new();
        for entry in catalogue.models {
            let old = before.slots.iter().find(|slot| slot.entry == entry);
            let model = match old.map(|slot| &slot.model) {
                // Unloaded on request: that holds until it is loaded on request, or changed here.
                Some(None) => None,
                Some(Some(model)) if model.is_current(&entry) => Some(model.clone()),
                _ => Some(self.load_new(&entry).await?),
            };
            slots.push(Slot { entry, model });
        }
        self.replace(Snapshot { default: catalogue.default, slots });
        Ok(())
    }

    /// Loads one model of `models.toml` anew, whether it has changed or not.
    ///
    /// # Errors
    /// There is no such model or it cannot be served; then everything is as before.
    pub async fn load_model(&self, name: &str) -> Result<(), ReloadError> {
        let _alone = self.reload_lock.lock().await;
        let known = self.catalogue()?.models.into_iter().find(|entry| entry.is_called(name));
        let entry = known.ok_or_else(|| ReloadError::Unknown(super::shorten(name)))?;
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

    /// Takes one model out of service; requests that have begun are finished.
    ///
    /// # Errors
    /// There is no such model.
    pub async fn unload_model(&self, name: &str) -> Result<(), ReloadError> {
        let _alone = self.reload_lock.lock().await;
        let mut snapshot = Snapshot::clone(&self.snapshot());
        let known = snapshot.slots.iter_mut().find(|slot| slot.entry.is_called(name));
        known.ok_or_else(|| ReloadError::Unknown(super::shorten(name)))?.model = None;
        self.replace(snapshot);
        Ok(())
    }

    fn catalogue(&self) -> Result<Catalogue, ReloadError> {
        Ok(Catalogue::load(self.shared.catalogue.as_ref().ok_or(ReloadError::NoCatalogue)?)?)
    }

    async fn load_new(&self, entry: &ModelEntry) -> Result<Arc<ServedModel>, ReloadError> {
        let (entry, shared) = (entry.clone(), self.shared.clone());
        // Checksums and graphs keep a thread busy for a while: not one that answers requests.
        let loading = task::spawn_blocking(move || Handle::current().block_on(load(&entry, &shared)));
        loading.await.map_err(|_| ReloadError::GivenUp)?.map(Arc::new)
    }

    fn replace(&self, after: Snapshot) {
        let after = Arc::new(after);
        let mut current = self.snapshot.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *current, after.clone());
        drop(current);
        let metrics = &self.shared.metrics;
        for old in before.models().filter(|old| !after.has(old)) {
            info!(model = old.name, bundle = old.manifest.id(), "model leaves");
            metrics.remove_model(&old.name, &old.info());
        }
        for new in after.models().filter(|new| !before.has(new)) {
            metrics.add_model(&new.name, &new.info(), new.load_time);
        }
    }
}

async fn load(entry: &ModelEntry, shared: &Shared) -> Result<ServedModel, ReloadError> {
    let failed = |error: LoadError| ReloadError::Load(entry.name.clone(), error);
    let needed = ServedModel::memory_needed(entry).map_err(failed)?;
    match memory::available() {
        Some(available) if available < needed => {
            Err(ReloadError::Memory { name: entry.name.clone(), needed, available })
        }
        _ => ServedModel::load(entry, shared).await.map_err(failed),
    }
}
