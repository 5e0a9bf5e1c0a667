//! From the bytes of an image file to `pixel_values`, exactly as Pillow and transformers compute them.
//!
//! There are three steps: [`decode()`] (a file to RGB, `decode/`), Pillow's resize (`resample/`) and normalisation
//! ([`preprocess()`], which does both). This crate knows nothing of models, ONNX Runtime or the network.

mod decode;
mod error;
#[cfg(test)]
mod golden;
mod options;
mod preprocess;
mod resample;
mod rgb_image;

pub use decode::{decode, is_image};
pub use error::DecodeError;
pub use options::{AlphaPolicy, DecodeLimits};
pub use preprocess::{PixelValues, PreprocessConfig, preprocess};
pub use resample::{Filter, ResizeOrder};
pub use rgb_image::RgbImage;

/// Which code decodes JPEG files in this build: `simd`, or `scalar` where nasm was missing. The pixels are the same.
pub const JPEG_CODE: &str = env!("JPEG_CODE");
