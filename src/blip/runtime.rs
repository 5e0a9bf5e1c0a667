//! Finds and loads the ONNX Runtime library.
//!
//! Look-up, first hit wins: the flag, `ORT_DYLIB_PATH`, `../lib` beside the binary, `.onnxruntime/lib` in a folder above
//! the binary (a checkout of the repository, where `make build` puts it). Nothing is taken from the working directory.

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

/// Why there is no ONNX Runtime; each text says what to do.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// Nowhere to be found.
    #[error(
        "ONNX Runtime is missing: run `make build`, or give the library (libonnxruntime.so of the PyPI wheel \
         onnxruntime 1.31.1) with --ort-library or ORT_DYLIB_PATH"
    )]
    Missing,
    /// Too old, not a library, or for another machine.
    #[error(
        "ONNX Runtime cannot be used: {reason}; give the library of the PyPI wheel onnxruntime 1.31.1 with --ort-library"
    )]
    Unusable {
        /// The loader's words, in one line.
        reason: String,
    },
    /// NVIDIA's libraries are not where the setting says, or not for this machine.
    #[error("--cuda-libraries: {reason}")]
    Cuda {
        /// The loader's words, in one line.
        reason: String,
    },
}

/// A loaded ONNX Runtime. Sessions are made from it.
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
    /// There is none, or it cannot be used.
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

    /// Of the library: its version, or at least its build.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Loads NVIDIA's libraries from `folder`, called `nvidia` where their PyPI wheels put it, before a model asks for them.
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
    reason = "ORT_DYLIB_PATH is the name that ort's users know; it has no flag of ours"
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

/// `libonnxruntime.so.1.31.1` has its version in its name; any other is known by the commit in what it says of itself,
/// `ORT Build Info: git-branch=..., git-commit-id=..., ...`.
fn version(path: &Path, info: &str) -> String {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let named = name.split_once(".so.").map(|(_, version)| version).filter(|version| version.contains('.'));
    let commit = || info.split("git-commit-id=").nth(1).and_then(|rest| rest.split([',', ' ']).next());
    named.or_else(commit).unwrap_or("unknown").to_owned()
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Runtime")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_known_by_its_version_or_its_commit() {
        let info = "ORT Build Info: git-branch=HEAD, git-commit-id=6af1a93, build type=Release";
        assert_eq!(version(Path::new("/lib/libonnxruntime.so.1.31.1"), info), "1.31.1");
        assert_eq!(version(Path::new("/lib/libonnxruntime.so"), info), "6af1a93");
        assert_eq!(version(Path::new("/lib/libonnxruntime.so.1"), ""), "unknown");
    }
}
