//! What the caller of [`decode`](crate::decode()) decides: how large an image may be, and how transparency is removed.

use crate::error::DecodeError;

/// Bounds that hold for every format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Largest width x height that is decoded.
    pub max_pixels: u64,
}

/// What becomes of transparent pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AlphaPolicy {
    /// They are composited on white, as transformers 5.23 does.
    White,
    /// The alpha channel is dropped, as `convert("RGB")` and transformers 4.x do.
    Drop,
}

impl From<&DecodeLimits> for image::Limits {
    fn from(limits: &DecodeLimits) -> Self {
        let mut allowed = Self::no_limits();
        // Four samples of 8 bits a pixel, and as much again for what a decoder needs besides.
        allowed.max_alloc = Some(limits.max_pixels.saturating_mul(8));
        allowed
    }
}

impl DecodeLimits {
    /// The number of pixels, if the size in a file's header is valid and within the limit. Called before memory is taken.
    pub(crate) fn check(&self, width: u32, height: u32, format: &'static str) -> Result<usize, DecodeError> {
        let pixels = u64::from(width) * u64::from(height);
        if pixels == 0 {
            return Err(DecodeError::Damaged(format));
        }
        let too_many = DecodeError::TooManyPixels { pixels, limit: self.max_pixels };
        if pixels > self.max_pixels {
            return Err(too_many);
        }
        usize::try_from(pixels).map_err(|_| too_many)
    }
}
