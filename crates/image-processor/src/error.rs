//! Why an image could not be turned into pixels.
//!
//! The texts are fixed, because they are shown to clients: no message of a decoder library, no address and no path gets into
//! them.

use thiserror::Error;

/// Why [`decode`](crate::decode()) refused some bytes. `Display` is safe to show to a client.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes do not begin like an image of a known format.
    #[error("not an image in a supported format (JPEG, PNG, GIF, WebP, BMP, TIFF)")]
    UnknownFormat,
    /// The format or variant is known but not supported; its name: "AVIF", "TIFF with JPEG compression".
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// The format is known but the file is damaged; the name of the format.
    #[error("damaged {0} image")]
    Damaged(&'static str),
    /// The file ends before the image does; the name of the format.
    #[error("truncated {0} image")]
    Truncated(&'static str),
    /// Width x height is above the limit; refused before the pixels are allocated.
    #[error("image has {pixels} pixels, more than the limit of {limit}")]
    TooManyPixels {
        /// Width x height as the header gives it.
        pixels: u64,
        /// The setting `max_image_pixels`.
        limit: u64,
    },
}
