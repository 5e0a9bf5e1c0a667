//! From the bytes of an image file to `pixel_values`, exactly as Pillow and transformers do it.
//!
//! Three steps: [`decode()`] (bytes -> RGB), `resample` (Pillow's resize) and [`preprocess()`] (normalised floats). This room
//! knows nothing of models, ONNX Runtime or the network.

mod decode;
mod error;
#[cfg(test)]
mod golden;
mod preprocess;
mod resample;

pub use decode::{AlphaPolicy, DecodeLimits, decode, is_image};
pub use error::DecodeError;
pub use preprocess::{PixelValues, PreprocessConfig, preprocess};
pub use resample::{Filter, ResizeOrder};

/// Which code decodes JPEG files in this build: `simd`, or `scalar` where nasm was missing. The pixels are the same.
pub const JPEG_CODE: &str = env!("JPEG_CODE");

/// An 8-bit RGB image, row-major, three bytes a pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    /// Pixels in a row, >= 1.
    pub width: u32,
    /// Rows, >= 1.
    pub height: u32,
    /// `[height, width, 3]`.
    pub data: Vec<u8>,
}
