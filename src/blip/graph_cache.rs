//! Optimised graphs, kept on disk between starts.
//!
//! An entry is made for one graph, one build of the library and one processor, and is used only if every file has the
//! checksum that it was stored with. A failure here only logs a warning. The weights are stored in
//! the graph's own layout. Storing the layout of the kernels (`session.save_external_prepacked_constant_initializers`)
//! would let them be mapped, but ONNX Runtime 1.31.1 then crashed in the second start once a step had several rows.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use ort::{
    Result,
    session::{
        Session,
        builder::{GraphOptimizationLevel, SessionBuilder},
    },
};
use sha2::{Digest, Sha256};
use tracing::{info, warn};

use crate::blip::digest::{digest, hex};

/// The list of checksums. It is written last: an entry without it is not complete.
const CHECKSUMS: &str = "checksums.json";
/// Size from which a tensor is stored outside the graph's file, in bytes.
const MIN_EXTERNAL_BYTES: &str = "1024";

/// A folder of optimised graphs.
#[derive(Clone, Debug)]
pub(super) struct GraphCache(PathBuf);

impl GraphCache {
    pub(super) fn new(folder: &Path) -> Self {
        Self(folder.to_path_buf())
    }

    /// Opens the session of the graph at `path`, from its entry if there is one. `fingerprint` identifies the contents of
    /// the graph and its weights.
    pub(super) fn open(
        &self,
        path: &Path,
        fingerprint: &str,
        builder: impl Fn() -> Result<SessionBuilder>,
    ) -> Result<Session> {
        let name = path.file_name().map_or("graph".into(), |name| name.to_string_lossy());
        let entry = self.0.join(format!("{}-{}", &cache_key(fingerprint)[..32], name.trim_end_matches(".onnx")));
        if entry.is_dir() {
            match load(&entry, &name, &builder) {
                Ok(session) => {
                    info!(graph = %path.display(), entry = %entry.display(), "optimised graph taken from the cache");
                    return Ok(session);
                }
                Err(error) => {
                    warn!(entry = %entry.display(), error, "optimised graph is not usable, making it anew");
                    // An entry that cannot be removed is still not used.
                    let _ = fs::remove_dir_all(&entry);
                }
            }
        }
        let unfinished = self.0.join(format!(".unfinished-{}-{}", std::process::id(), name));
        let session = store(&unfinished, &entry, path, &builder);
        if let Err(error) = &session {
            warn!(folder = %self.0.display(), error, "optimised graph not kept");
            // An incomplete entry must not occupy the disk.
            let _ = fs::remove_dir_all(&unfinished);
        }
        session.or_else(|_| builder()?.commit_from_file(path))
    }
}

/// Identifies what an entry can be used for.
fn cache_key(fingerprint: &str) -> String {
    let mut hash = Sha256::new();
    for part in [fingerprint, ort::info(), &processor(), env!("CARGO_PKG_VERSION")] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex(&hash.finalize())
}

/// The processor's name and instruction sets: the kernels, and so the layout of the weights, depend on them.
fn processor() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = |field: &str| cpuinfo.lines().find(|line| line.starts_with(field)).unwrap_or_default().to_owned();
    [std::env::consts::ARCH.to_owned(), line("model name"), line("flags"), line("Features")].join("\n")
}

/// Opens the session of a stored graph.
fn load(
    entry: &Path,
    name: &str,
    builder: &impl Fn() -> Result<SessionBuilder>,
) -> std::result::Result<Session, String> {
    let text = fs::read(entry.join(CHECKSUMS)).map_err(|error| error.to_string())?;
    let stored: Vec<(String, String)> = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    if stored != checksums(entry).map_err(|error| error.to_string())? {
        return Err("its files differ from those that were stored".into());
    }
    let session = builder()
        .and_then(|builder| Ok(builder.with_optimization_level(GraphOptimizationLevel::Disable)?))
        .and_then(|mut builder| builder.commit_from_file(entry.join(name)));
    session.map_err(|error| error.to_string())
}

/// Opens the session of `path` and stores its optimised graph.
fn store(
    unfinished: &Path,
    entry: &Path,
    path: &Path,
    builder: &impl Fn() -> Result<SessionBuilder>,
) -> std::result::Result<Session, String> {
    fs::create_dir_all(unfinished).map_err(|error| error.to_string())?;
    let target = unfinished.join(path.file_name().unwrap_or_default());
    let data = format!("{}.data", target.file_name().unwrap_or_default().to_string_lossy());
    let session = (|| {
        builder()?
            .with_optimized_model_path(&target)?
            .with_config_entry("session.optimized_model_external_initializers_file_name", data)?
            .with_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", MIN_EXTERNAL_BYTES)?
            .commit_from_file(path)
    })()
    .map_err(|error: ort::Error| error.to_string())?;
    let stored = checksums(unfinished)
        .and_then(|sums| fs::write(unfinished.join(CHECKSUMS), serde_json::to_vec(&sums)?))
        // Another process may have stored the same entry first.
        .and_then(|()| fs::rename(unfinished, entry));
    if let Err(error) = stored {
        warn!(%error, entry = %entry.display(), "optimised graph not kept");
        let _ = fs::remove_dir_all(unfinished);
    }
    Ok(session)
}

/// Computes name and SHA-256 of every file of an entry except the list itself.
fn checksums(folder: &Path) -> io::Result<Vec<(String, String)>> {
    let mut sums = Vec::new();
    for file in fs::read_dir(folder)? {
        let file = file?;
        let name = file.file_name().to_string_lossy().into_owned();
        if name != CHECKSUMS {
            sums.push((name, digest(&file.path())?.0));
        }
    }
    sums.sort();
    Ok(sums)
}
