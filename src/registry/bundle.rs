//! Whether the files of a loaded bundle are still those that were loaded.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use crate::blip::Manifest;

/// Identifies the files of a bundle: by the manifest's checksums, and by what the file system reports of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BundleFingerprint {
    id: String,
    files: Vec<Option<FileFingerprint>>,
}

/// Differs once a file is replaced or written to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FileFingerprint {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl BundleFingerprint {
    pub(super) fn new(bundle: &Path, manifest: &Manifest) -> Self {
        let files = manifest.file_names().map(|name| FileFingerprint::new(&bundle.join(name))).collect();
        Self { id: manifest.id(), files }
    }

    /// Whether the folder still holds the same files.
    pub(super) fn is_current(&self, bundle: &Path) -> bool {
        Manifest::load(bundle).is_ok_and(|manifest| Self::new(bundle, &manifest) == *self)
    }
}

impl FileFingerprint {
    fn new(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Some(Self { device: metadata.dev(), inode: metadata.ino(), bytes: metadata.len(), modified })
    }
}
