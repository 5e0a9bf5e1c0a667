//! PNG through the `png` crate, which `image` uses too; of an animation, the default image.
//!
//! `image` hides what Pillow's pixels depend on: the samples before they are expanded (Pillow compares a transparent gray or
//! colour with samples that it has already scaled to 8 bits) and the palette (Pillow fills up a short one with black).

use std::io::{Cursor, ErrorKind};

use png::{BitDepth, ColorType, Decoder, DecodingError, Limits, Transformations};

use super::bitmap::{Bitmap, Palette, Pixels};
use crate::error::DecodeError;
use crate::options::DecodeLimits;

const DAMAGED: DecodeError = DecodeError::Damaged("PNG");

/// The pixels of a file as it stores them.
struct StoredPixels {
    colour_type: ColorType,
    depth: BitDepth,
    /// Pixels in a row.
    width: usize,
    /// Bytes in a row.
    stride: usize,
    /// Rows one after the other, each padded to whole bytes; 16-bit samples in big-endian order.
    data: Vec<u8>,
    palette: Vec<u8>,
    /// The contents of tRNS; of a gray or a colour of at most 8 bits, just the low bytes.
    transparency: Option<Vec<u8>>,
}

/// Decodes a file that starts with the PNG signature.
pub(super) fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<Bitmap, DecodeError> {
    // No buffer of the decoder needs more than the file or a few rows.
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: (1 << 20) + 2 * bytes.len() });
    // Pillow ignores the checksums of pixels.
    decoder.ignore_checksums(true);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(Transformations::IDENTITY);
    let header = decoder.read_header_info()?;
    let (width, height) = (header.width, header.height);
    limits.check(width, height, "PNG")?;
    let mut reader = decoder.read_info()?;
    let mut data = vec![0; reader.output_buffer_size().ok_or(DAMAGED)?];
    let frame = reader.next_frame(&mut data)?;
    if (frame.width, frame.height) != (width, height) {
        return Err(DAMAGED);
    }
    let info = reader.info();
    let stored = StoredPixels {
        colour_type: frame.color_type,
        depth: frame.bit_depth,
        width: width as usize,
        stride: frame.line_size,
        data,
        palette: info.palette.as_deref().unwrap_or_default().to_vec(),
        transparency: info.trns.as_deref().map(<[u8]>::to_vec),
    };
    Ok(Bitmap { width, height, pixels: stored.into_pixels() })
}

impl From<DecodingError> for DecodeError {
    fn from(error: DecodingError) -> Self {
        match error {
            DecodingError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => Self::Truncated("PNG"),
            _ => DAMAGED,
        }
    }
}

impl StoredPixels {
    /// The pixels in the mode in which Pillow opens the file.
    fn into_pixels(self) -> Pixels {
        let wide = self.depth == BitDepth::Sixteen;
        match self.colour_type {
            ColorType::Grayscale => {
                // Pillow compares the low byte of a 16-bit gray.
                let key = self.transparency.as_ref().and_then(|gray| gray.last()).copied();
                let bilevel = |gray: u8| if gray == 0 { 0 } else { 255 };
                let key = if self.depth == BitDepth::One { key.map(bilevel) } else { key };
                Pixels::Gray { samples: if wide { self.clipped() } else { self.scaled() }, key }
            }
            ColorType::Rgb => {
                let key = self.transparency.as_ref().and_then(|colour| match colour[..] {
                    [r, g, b] | [_, r, _, g, _, b] => Some([r, g, b]),
                    _ => None,
                });
                Pixels::Rgb { samples: self.high_bytes(), key }
            }
            ColorType::Indexed => {
                let (colours, _) = self.palette.as_chunks();
                let mut palette = Palette::new(colours.iter().copied());
                palette.set_alpha(palette_alpha(self.transparency.as_deref().unwrap_or_default()));
                Pixels::Indexed { indices: self.unpacked(), palette }
            }
            ColorType::GrayscaleAlpha if wide => {
                let (pixels, _) = self.data.as_chunks();
                Pixels::Rgba(pixels.iter().flat_map(|&[gray, _, alpha, _]| [gray, gray, gray, alpha]).collect())
            }
            ColorType::GrayscaleAlpha => Pixels::GrayAlpha(self.data),
            ColorType::Rgba => Pixels::Rgba(self.high_bytes()),
        }
    }

    /// The upper byte of each sample.
    fn high_bytes(self) -> Vec<u8> {
        if self.depth == BitDepth::Sixteen { self.data.into_iter().step_by(2).collect() } else { self.data }
    }

    /// 16-bit samples clipped to 255: Pillow's mode I;16 as RGB.
    fn clipped(&self) -> Vec<u8> {
        let (samples, _) = self.data.as_chunks();
        samples.iter().map(|&[high, low]| if high == 0 { low } else { 255 }).collect()
    }

    /// Samples of up to 8 bits, scaled to 0..=255.
    fn scaled(self) -> Vec<u8> {
        let largest = (1_u16 << (self.depth as u8)) - 1;
        let factor = (255 / largest) as u8;
        let mut samples = self.unpacked();
        for sample in &mut samples {
            *sample *= factor;
        }
        samples
    }

    /// Samples of up to 8 bits, each in a byte.
    fn unpacked(self) -> Vec<u8> {
        let bits = self.depth as usize;
        if bits == 8 {
            return self.data;
        }
        let mask = (1_u8 << bits) - 1;
        let row = |row: &[u8]| -> Vec<u8> {
            (0..self.width).map(|x| row[x * bits / 8] >> (8 - bits - x * bits % 8) & mask).collect()
        };
        self.data.chunks_exact(self.stride).flat_map(row).collect()
    }
}

/// The alphas of a palette as Pillow reads them: where a single entry is transparent, and all others opaque, the
/// pattern with which Pillow finds that case ignores a final 10 (a line feed).
fn palette_alpha(alphas: &[u8]) -> &[u8] {
    let Some((10, others)) = alphas.split_last() else { return alphas };
    let mut transparent = others.iter().filter(|&&alpha| alpha != 255);
    if (transparent.next(), transparent.next()) == (Some(&0), None) { others } else { alphas }
}
