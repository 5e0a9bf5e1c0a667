//! Every setting, parsed and checked once.
//!
//! Settings of the process are flags, each with an environment variable (`serve --help`). Settings of a model are in
//! the [`catalogue`] (`models.toml`). Elsewhere only variables of libraries are read (`main`, `blip::runtime`,
//! OpenTelemetry). A value that is not valid fails the start with an error that names its setting.

pub mod api_keys;
pub mod catalogue;
mod error;
pub mod fetch;
mod image;
mod key_source;
pub mod limits;
mod logs;
pub(crate) mod parse;
mod server;
mod traces;

pub use error::ConfigError;
pub use image::ImageConfig;
pub use key_source::{KeySource, Secret};
pub use logs::{LogConfig, LogFormat};
pub use server::{Origin, ServerArgs, ServerConfig, TlsFiles};
pub use traces::TraceConfig;
