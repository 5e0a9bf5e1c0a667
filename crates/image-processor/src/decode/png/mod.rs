//! PNG as Pillow reads it: which files it refuses, and what it makes of odd ones.
//!
//! Everything up to the first image data is checked with its CRC; after it, only the contents of chunks are. Of an APNG the
//! first frame is the picture. Gamma and colour profiles are ignored, but a chunk that Pillow cannot parse refuses the file.

mod chunks;
mod metadata;
mod rows;
mod text;

use self::chunks::ChunkReader;
use self::metadata::{Metadata, Transparency};
use super::DecodeLimits;
use super::convert::{Bitmap, Palette, PaletteAlpha, PaletteOrder, Pixels, checked_pixels};
use crate::DecodeError;

const DAMAGED: DecodeError = DecodeError::Damaged("PNG");
const TRUNCATED: DecodeError = DecodeError::Truncated("PNG");

/// What one pixel is, from the header's bit depth and colour type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// Gray of 1, 2, 4 or 8 bits, scaled to 0..=255.
    Gray(usize),
    /// 16-bit gray, clipped to 255: Pillow's I;16 as RGB.
    Gray16,
    Rgb,
    Rgb16,
    /// Palette indices of 1, 2, 4 or 8 bits.
    Indexed(usize),
    GrayAlpha,
    GrayAlpha16,
    Rgba,
    Rgba16,
}

impl Layout {
    fn new(depth: u8, colour_type: u8) -> Option<Self> {
        Some(match (colour_type, depth) {
            (0, 1 | 2 | 4 | 8) => Self::Gray(usize::from(depth)),
            (0, 16) => Self::Gray16,
            (2, 8) => Self::Rgb,
            (2, 16) => Self::Rgb16,
            (3, 1 | 2 | 4 | 8) => Self::Indexed(usize::from(depth)),
            (4, 8) => Self::GrayAlpha,
            (4, 16) => Self::GrayAlpha16,
            (6, 8) => Self::Rgba,
            (6, 16) => Self::Rgba16,
            _ => return None,
        })
    }

    /// Stored bits of one pixel.
    fn bits(self) -> usize {
        match self {
            Self::Gray(bits) | Self::Indexed(bits) => bits,
            Self::Gray16 | Self::GrayAlpha => 16,
            Self::Rgb => 24,
            Self::GrayAlpha16 | Self::Rgba => 32,
            Self::Rgb16 => 48,
            Self::Rgba16 => 64,
        }
    }

    /// Bytes of one pixel in the [`Bitmap`].
    fn channels(self) -> usize {
        match self {
            Self::Gray(_) | Self::Gray16 | Self::Indexed(_) => 1,
            Self::GrayAlpha => 2,
            Self::Rgb | Self::Rgb16 => 3,
            // Pillow opens 16-bit gray with alpha as RGBA.
            Self::GrayAlpha16 | Self::Rgba | Self::Rgba16 => 4,
        }
    }
}

/// Decodes a file that starts with the PNG signature.
pub(super) fn decode(bytes: &[u8], limits: DecodeLimits) -> Result<Bitmap, DecodeError> {
    let mut reader = ChunkReader::new(bytes);
    let mut metadata = Metadata::default();
    let first_length = metadata.read_to_image_data(&mut reader)?;
    let (width, height) = metadata.size;
    let layout = metadata.layout.ok_or(DAMAGED)?;
    let pixels = checked_pixels(width, height, limits.max_pixels, "PNG")?;
    let frame = metadata.frame()?;
    let palette = metadata.palette.clone().unwrap_or_default();
    let data = {
        let mut image_data = chunks::ImageData::new(&mut reader, &mut metadata, first_length);
        let decoded = rows::decode(&mut image_data, layout, frame, (width as usize, pixels))?;
        image_data.skip_rest();
        decoded
    };
    metadata.read_to_end(&mut reader)?;
    let pixels = assemble(layout, data, &palette, metadata.transparency)?;
    Ok(Bitmap { width, height, pixels })
}

/// Joins samples, palette and transparency.
fn assemble(
    layout: Layout,
    data: Vec<u8>,
    palette: &[u8],
    transparency: Option<Transparency>,
) -> Result<Pixels, DecodeError> {
    Ok(match layout {
        Layout::Gray(_) | Layout::Gray16 => {
            let key = match transparency {
                None => None,
                // Pillow compares the low byte with the scaled gray.
                Some(Transparency::Gray(gray)) => Some(gray as u8),
                Some(_) => return Err(DAMAGED),
            };
            Pixels::Gray { data, key }
        }
        Layout::Rgb | Layout::Rgb16 => {
            let key = match transparency {
                None => None,
                Some(Transparency::Rgb(rgb)) => Some(rgb.map(|value| value as u8)),
                Some(_) => return Err(DAMAGED),
            };
            Pixels::Rgb { data, key }
        }
        Layout::Indexed(_) => {
            let alpha = match transparency {
                None => PaletteAlpha::Opaque,
                Some(Transparency::Palette(alpha)) => alpha,
                Some(_) => return Err(DAMAGED),
            };
            let palette = Palette::new(palette, PaletteOrder::Rgb).ok_or(DAMAGED)?;
            Pixels::Indexed { data, palette, alpha }
        }
        Layout::GrayAlpha => Pixels::GrayAlpha(data),
        Layout::GrayAlpha16 | Layout::Rgba | Layout::Rgba16 => Pixels::Rgba(data),
    })
}
