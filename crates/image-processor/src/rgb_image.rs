//! The image that decoding gives and resizing takes.

/// An 8-bit RGB image, row-major, three bytes a pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    /// Pixels in a row, >= 1.
    pub width: u32,
    /// Rows, >= 1.
    pub height: u32,
    /// The samples, `[height, width, 3]`.
    pub data: Vec<u8>,
}
