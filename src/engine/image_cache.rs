//! Images that were encoded lately, for another prompt on one of them.

use std::sync::Arc;

use quick_cache::sync::Cache;

/// SHA-256 of an image's file.
pub type Digest = [u8; 32];

/// The least recently used encoded image leaves first.
#[derive(Debug)]
pub struct ImageCache<I>(Option<Cache<Digest, Arc<I>>>);

impl<I> ImageCache<I> {
    /// Holds as many images of `image_bytes` bytes as fit into `capacity` bytes; 0 disables the cache.
    pub fn new(capacity: u64, image_bytes: u64) -> Self {
        let images = capacity.checked_div(image_bytes).unwrap_or(0) as usize;
        Self((images > 0).then(|| Cache::new(images)))
    }

    /// Whether the cache can hold an image.
    pub fn is_enabled(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the encoded image of a file.
    pub fn get(&self, digest: &Digest) -> Option<Arc<I>> {
        self.0.as_ref()?.get(digest)
    }

    pub(super) fn insert(&self, digest: Digest, image: &Arc<I>) {
        if let Some(cache) = &self.0 {
            cache.insert(digest, image.clone());
        }
    }
}
