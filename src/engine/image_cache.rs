//! Recently encoded images, for further prompts on the same image.

use std::sync::Arc;

use quick_cache::sync::Cache;

/// SHA-256 of an image's file.
pub type Digest = [u8; 32];

/// Evicts the least recently used encoded image first.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_holds_as_many_images_as_fit_into_its_bytes() {
        let cache = ImageCache::new(100, 30);
        for number in 0..20_u8 {
            cache.insert([number; 32], &Arc::new(number));
        }
        assert_eq!((0..20_u8).filter(|number| cache.get(&[*number; 32]).is_some()).count(), 3);
    }

    #[test]
    fn a_cache_into_which_no_image_fits_is_disabled() {
        for cache in [ImageCache::new(0, 30), ImageCache::new(29, 30)] {
            cache.insert([1; 32], &Arc::new(1));
            assert!(!cache.is_enabled());
            assert_eq!(cache.get(&[1; 32]), None);
        }
    }
}
