//! The models that are served: from the catalogue to verified bundles and engines, and how a model replaces another.

mod bundle;
mod caption_cache;
mod load;
mod memory;
mod model;
mod reload;
mod snapshot;

pub use load::{LoadError, Shared, preprocess_config};
pub use model::{CaptionOptions, Plan, ServedModel};
pub use reload::ReloadError;
pub use snapshot::{ModelState, Registry};

pub use crate::engine::{Digest, RequestHandle};
