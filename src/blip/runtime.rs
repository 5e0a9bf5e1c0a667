//! Finds and loads the ONNX Runtime library.
//!
//! The first that exists is used: the flag, `ORT_DYLIB_PATH`, `../lib` beside the binary, `.onnxruntime/lib` in a
//! folder above the binary (in a checkout, where `make build` puts it). The working directory is never searched.

use std::{
    env,
    path::{Path, PathBuf},
};

use thiserror::Error;
use tracing::info;

use crate::blip::graph_cache::GraphCache;

#[cfg(target_os = "macos")]
const LIBRARY: &str = "libonnxruntime.dylib";
#[cfg(not(target_os = "macos"))]
const LIBRARY: &str = "libonnxruntime.so";

/// Why ONNX Runtime cannot be loaded. Each text says what to do.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// The library was not found.
    #[error(
        "ONNX Runtime is missing: run `make build`, or give the library (libonnxruntime.so of the PyPI wheel \
         onnxruntime 1.31.1) with --ort-library or ORT_DYLIB_PATH"
    )]
    Missing,
    /// The file is too old, not a library, or built for another machine.
    #[error(
        "ONNX Runtime cannot be used: {reason}; give the library of the PyPI wheel onnxruntime 1.31.1 with --ort-library"
    )]
    Unusable {
        /// The loader's error text, in one line.
        reason: String,
    },
    /// NVIDIA's libraries are not in the configured folder, or not for this machine.
    #[error("--cuda-libraries: {reason}")]
    Cuda {
        /// The loader's error text, in one line.
        reason: String,
    },
}

/// A loaded ONNX Runtime, from which sessions are made.
#[derive(Clone)]
pub struct Runtime {
    pub(super) environment: ort::environment::Environment,
    version: String,
    pub(super) graph_cache: Option<GraphCache>,
}

impl Runtime {
    /// Loads the library once for the whole process; a second call must find the same one.
    ///
    /// # Errors
    /// The library was not found, or cannot be used.
    pub fn load(flag: Option<&Path>) -> Result<Self, RuntimeError> {
        let path = find(flag).ok_or(RuntimeError::Missing)?;
        let unusable = |reason: String| RuntimeError::Unusable { reason: reason.replace('\n', " ") };
        if !path.is_file() {
            return Err(unusable(format!("{} is not a file", path.display())));
        }
        // An absolute path: `ort` would look up a relative one beside the binary first.
        let path = path.canonicalize().map_err(|error| unusable(format!("{}: {error}", path.display())))?;
        let builder = ort::init_from(&path).map_err(|error| unusable(error.to_string()))?;
        let environment = builder
            .with_name("blip-serve")
            .with_telemetry(false)
            .build()
            .map_err(|error| unusable(error.to_string()))?;
        // "ORT Build Info: git-branch=..., ...": the commit tells builds of one version apart.
        info!(library = %path.display(), build = ort::info(), "ONNX Runtime loaded");
        Ok(Self { environment, version: version(&path, ort::info()), graph_cache: None })
    }

    /// The library's version, or at least its commit.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Loads NVIDIA's libraries before a model needs them. `folder` is the one called `nvidia` in their PyPI wheels.
    ///
    /// # Errors
    /// One of them is missing or cannot be used.
    pub fn preload_cuda(&self, folder: &Path) -> Result<(), RuntimeError> {
        let (cuda, cudnn) = (folder.join("cu13/lib"), folder.join("cudnn/lib"));
        ort::ep::cuda::preload_dylibs(Some(&cuda), Some(&cudnn))
            .map_err(|error| RuntimeError::Cuda { reason: error.to_string().replace('\n', " ") })
    }

    /// Keeps optimised graphs for the CPU in `folder`, if there is one.
    #[must_use]
    pub fn with_graph_cache(self, folder: Option<&Path>) -> Self {
        Self { graph_cache: folder.map(GraphCache::new), ..self }
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "ORT_DYLIB_PATH is the name that users of ort know; no flag corresponds to it"
)]
fn find(flag: Option<&Path>) -> Option<PathBuf> {
    if let Some(path) = flag {
        return Some(path.to_path_buf());
    }
    if let Some(path) = env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        return Some(path.into());
    }
    let binary = env::current_exe().ok()?.canonicalize().ok()?;
    let folder = binary.parent()?;
    let beside = folder.join("../lib");
    let repository = folder.ancestors().take(4).map(|ancestor| ancestor.join(".onnxruntime/lib"));
    std::iter::once(beside).chain(repository).map(|folder| folder.join(LIBRARY)).find(|path| path.is_file())
}

/// The version in the library's name, as in `libonnxruntime.so.1.31.1`, or else the commit in its build information,
/// `ORT Build Info: git-branch=..., git-commit-id=..., ...`.
fn version(path: &Path, info: &str) -> String {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let from_name = name.split_once(".so.").map(|(_, version)| version).filter(|version| version.contains('.'));
    let commit = || info.split("git-commit-id=").nth(1).and_then(|rest| rest.split([',', ' ']).next());
    from_name.or_else(commit).unwrap_or("unknown").to_owned()
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Runtime")
    }
}

/// The library for unit tests: a process has one.
#[cfg(test)]
pub(super) fn test_library() -> Runtime {
    static LIBRARY: std::sync::LazyLock<Runtime> = std::sync::LazyLock::new(|| Runtime::load(None).unwrap());
    LIBRARY.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_in_the_file_name_or_else_the_commit_stands_for_it() {
        let info = "ORT Build Info: git-branch=HEAD, git-commit-id=6af1a93, build type=Release";
        assert_eq!(version(Path::new("/lib/libonnxruntime.so.1.31.1"), info), "1.31.1");
        assert_eq!(version(Path::new("/lib/libonnxruntime.so"), info), "6af1a93");
        assert_eq!(version(Path::new("/lib/libonnxruntime.so.1"), ""), "unknown");
    }
}
