//! Whether the files of a loaded bundle are still those that were loaded.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use crate::blip::Manifest;

/// What was loaded: the manifest's word, and the files as the system sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BundleState {
    id: String,
    files: Vec<Option<FileState>>,
}

/// A file that is replaced or written to gets another of these.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FileState {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl BundleState {
    pub(super) fn of(folder: &Path, manifest: &Manifest) -> Self {
        let files = manifest.file_names().map(|name| FileState::of(&folder.join(name))).collect();
        Self { id: manifest.id(), files }
    }

    /// Whether `folder` holds the same now.
    pub(super) fn is_current(&self, folder: &Path) -> bool {
        Manifest::load(folder).is_ok_and(|manifest| Self::of(folder, &manifest) == *self)
    }
}

impl FileState {
    fn of(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        let modified = (found.mtime(), found.mtime_nsec());
        Some(Self { device: found.dev(), inode: found.ino(), bytes: found.len(), modified })
    }
}
