//! The models that are served: catalogue -> verified bundles -> engines.

mod kept;
mod model;

use std::{path::Path, sync::Arc};

pub use model::{LoadError, Plan, ServedModel, Wishes};

pub use crate::engine::{Audience, Digest};

use crate::{
    blip::{BundleError, Manifest, Runtime},
    catalogue::Catalogue,
    error::CaptionError,
    image::PreprocessConfig,
};

/// All served models.
#[derive(Debug)]
pub struct Registry {
    default: usize,
    models: Vec<Arc<ServedModel>>,
}

impl Registry {
    /// Loads every model of the catalogue; each has captioned a self-test image when this returns.
    ///
    /// # Errors
    /// The first model that cannot be served.
    pub async fn load(catalogue: &Catalogue, runtime: &Runtime) -> Result<Self, LoadError> {
        let mut models = Vec::new();
        for entry in &catalogue.models {
            models.push(Arc::new(ServedModel::load(entry, runtime).await?));
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
        self.models.iter().all(|model| model.is_serving())
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
