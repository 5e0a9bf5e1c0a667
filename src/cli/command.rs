//! Code that the commands share: their error, the settings of those that run a model, a single-threaded runtime.

use std::{io, path::PathBuf};

use clap::Args;

use crate::{
    blip::{Runtime, RuntimeError},
    config::LogConfig,
};

/// Why a command failed; the text is for its user.
pub(super) type CommandError = Box<dyn std::error::Error>;

/// The settings of every command that runs a model.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Models")]
pub(super) struct ModelArgs {
    /// Catalogue of models
    #[arg(long, env = "BLIP_MODELS", value_name = "FILE", default_value = "models.toml")]
    pub(super) models: PathBuf,

    /// ONNX Runtime library; defaults to ORT_DYLIB_PATH, then to ../lib beside the binary, then to that of the repository
    #[arg(long, env = "BLIP_ORT_LIBRARY", value_name = "FILE")]
    ort_library: Option<PathBuf>,

    /// Folder of NVIDIA's CUDA 13 and cuDNN 9 libraries: `nvidia` in the site-packages with their wheels; defaults to
    /// the libraries of the system
    #[arg(long, env = "BLIP_CUDA_LIBRARIES", value_name = "FOLDER")]
    cuda_libraries: Option<PathBuf>,

    /// Folder for optimised graphs, which make the next start faster
    #[arg(long, env = "BLIP_GRAPH_CACHE", value_name = "FOLDER")]
    graph_cache: Option<PathBuf>,

    #[command(flatten)]
    pub(super) log: LogConfig,
}

impl ModelArgs {
    /// Loads ONNX Runtime.
    pub(super) fn runtime(&self) -> Result<Runtime, RuntimeError> {
        let runtime = Runtime::load(self.ort_library.as_deref())?;
        if let Some(folder) = &self.cuda_libraries {
            runtime.preload_cuda(folder)?;
        }
        Ok(runtime.with_graph_cache(self.graph_cache.as_deref()))
    }
}

/// A single-threaded runtime, for commands without a server.
pub(super) fn single_threaded_runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
