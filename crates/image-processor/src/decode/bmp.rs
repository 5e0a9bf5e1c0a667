//! BMP through `image`, with corrections where Pillow's pixels differ.
//!
//! `image` rounds samples of 5 and 6 bits where Pillow truncates, and paints what a run-length coding skips black where Pillow
//! takes colour 0. It refuses the headers of OS/2 2.x and a last row without padding. Pillow reads pixels of 4 or 8 bits as
//! bits where the palette is black and white.

use std::borrow::Cow;
use std::io::Cursor;

use image::codecs::bmp::BmpDecoder;
use image::error::{ImageError, ImageResult};
use image::{ColorType, ImageDecoder};

use super::bitmap::{Bitmap, Palette, Pixels};
use crate::error::DecodeError;
use crate::options::DecodeLimits;

const DAMAGED: DecodeError = DecodeError::Damaged("BMP");
const TRUNCATED: DecodeError = DecodeError::Truncated("BMP");
/// Length of the file's header, which the bitmap's header follows.
const FILE_HEADER: usize = 14;
/// Lengths of the bitmap's headers of OS/2 1.x, Windows and OS/2 2.x.
const CORE_HEADER: usize = 12;
const INFO_HEADER: usize = 40;
const OS2_HEADER: usize = 64;

/// Padding that completes the last row.
const PADDING: [u8; 3] = [0; 3];
/// The code that ends a run-length coding.
const END_OF_RUNS: [u8; 2] = [0, 1];

/// The fields that the corrections depend on.
struct Header<'a> {
    bytes: &'a [u8],
    /// Length of the bitmap's header.
    size: usize,
    width: u32,
    height: u32,
    /// Stored bits of a pixel.
    bits: u16,
    compression: u32,
    /// Where the pixels start.
    offset: usize,
    palette: Vec<[u8; 3]>,
}

/// Decodes a file that starts with `BM`.
pub(super) fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<Bitmap, DecodeError> {
    let header = Header::read(bytes)?;
    limits.check(header.width, header.height, "BMP")?;
    let indices_as_stored = header.bits == 8 && header.compression == 0;
    let (colour_type, mut samples) = read_samples(&header.rewritten(), limits, indices_as_stored)?;
    let (width, height) = (header.width, header.height);
    let pixels = match (colour_type, header.bits) {
        (ColorType::L8, _) => header.indexed(samples),
        (ColorType::Rgb8, ..=8) => header.indexed(samples.into_iter().step_by(3).collect()),
        (ColorType::Rgb8, 16) => {
            header.truncate_fields(&mut samples, 3);
            Pixels::Rgb { samples, key: None }
        }
        (ColorType::Rgb8, _) => Pixels::Rgb { samples, key: None },
        (_, 16) => {
            header.truncate_fields(&mut samples, 4);
            // Pillow reads no alpha from 16 bits.
            samples.iter_mut().skip(3).step_by(4).for_each(|alpha| *alpha = 255);
            Pixels::Rgba(samples)
        }
        _ => Pixels::Rgba(samples),
    };
    Ok(Bitmap { width, height, pixels })
}

/// Reads the samples of a file that `image` decodes. Indices come as they are stored only if they are bytes.
fn read_samples(bytes: &[u8], limits: &DecodeLimits, indices_as_stored: bool) -> ImageResult<(ColorType, Vec<u8>)> {
    let mut decoder = BmpDecoder::new(Cursor::new(bytes))?;
    decoder.set_limits(limits.into())?;
    decoder.set_indexed_color(indices_as_stored);
    let mut samples = vec![0; decoder.total_bytes() as usize];
    let colour_type = decoder.color_type();
    decoder.read_image(&mut samples)?;
    Ok((colour_type, samples))
}

impl From<ImageError> for DecodeError {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::IoError(_) => TRUNCATED,
            ImageError::Unsupported(_) => Self::Unsupported("BMP of this kind"),
            _ => DAMAGED,
        }
    }
}

impl<'a> Header<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let size = le32(bytes, 14)? as usize;
        let mut header = if size == CORE_HEADER {
            let (width, height, bits) = (le16(bytes, 18)?.into(), le16(bytes, 20)?.into(), le16(bytes, 24)?);
            Self { bytes, size, width, height, bits, compression: 0, offset: 0, palette: Vec::new() }
        } else {
            // A negative height means that the uppermost row comes first.
            let (width, height) = (le32(bytes, 18)?, le32(bytes, 22)?.cast_signed().unsigned_abs());
            let (bits, compression) = (le16(bytes, 28)?, le32(bytes, 30)?);
            Self { bytes, size, width, height, bits, compression, offset: 0, palette: Vec::new() }
        };
        if !matches!(header.bits, 0 | 1 | 2 | 4 | 8 | 16 | 24 | 32) {
            return Err(DecodeError::Unsupported("BMP of this depth"));
        }
        match header.compression {
            3 if size != OS2_HEADER => {}
            0..=2 => {}
            4 => return Err(DecodeError::Unsupported("BMP with JPEG compression")),
            5 => return Err(DecodeError::Unsupported("BMP with PNG compression")),
            _ => return Err(DecodeError::Unsupported("BMP with this compression")),
        }
        header.offset = le32(bytes, 10)? as usize;
        if header.bits <= 8 {
            header.palette = header.read_palette()?;
        }
        Ok(header)
    }

    fn read_palette(&mut self) -> Result<Vec<[u8; 3]>, DecodeError> {
        let stored = if self.size == CORE_HEADER { 0 } else { le32(self.bytes, 46)? as usize };
        let colours = if stored == 0 { 1 << self.bits } else { stored };
        let entry = if self.size == CORE_HEADER { 3 } else { 4 };
        let start = FILE_HEADER + self.size;
        if colours > 1 << self.bits {
            return Err(DAMAGED);
        }
        if self.offset == start {
            // The offset does not include the palette.
            self.offset += colours * entry;
        }
        let entries = self.bytes.get(start..start + colours * entry).ok_or(TRUNCATED)?;
        Ok(entries.chunks_exact(entry).map(|bgr| [bgr[2], bgr[1], bgr[0]]).collect())
    }

    /// A file that `image` decodes: with a header that `image` supports, complete rows, and indices for colours.
    fn rewritten(&self) -> Cow<'a, [u8]> {
        let row = (u64::from(self.width) * u64::from(self.bits)).div_ceil(32) * 4;
        let complete = self.bytes.len() as u64 >= self.offset as u64 + row * u64::from(self.height);
        let is_known = self.bits > 8 && self.size != OS2_HEADER;
        if is_known && complete {
            return Cow::Borrowed(self.bytes);
        }
        if is_known {
            return Cow::Owned([self.bytes, &PADDING].concat());
        }
        let mut file = self.info_header();
        let colours = if self.bits <= 8 { 1_u16 << self.bits } else { 0 };
        file.extend((0..colours).flat_map(|index| [index as u8, index as u8, index as u8, 0]));
        let offset = file.len() as u32;
        file[10..14].copy_from_slice(&offset.to_le_bytes());
        file.extend_from_slice(self.bytes.get(self.offset..).unwrap_or_default());
        file.extend_from_slice(if self.compression == 0 { &PADDING } else { &END_OF_RUNS });
        Cow::Owned(file)
    }

    /// The headers of the file and of the bitmap, in the form of Windows.
    fn info_header(&self) -> Vec<u8> {
        let mut head = self.bytes[..FILE_HEADER].to_vec();
        head.extend_from_slice(&(INFO_HEADER as u32).to_le_bytes());
        if self.size == CORE_HEADER {
            head.extend_from_slice(&self.width.to_le_bytes());
            head.extend_from_slice(&self.height.to_le_bytes());
            head.extend_from_slice(&self.bytes[22..26]);
        } else {
            head.extend_from_slice(&self.bytes[18..34]);
        }
        head.resize(FILE_HEADER + INFO_HEADER, 0);
        head
    }

    /// The pixels of a file with a palette.
    fn indexed(&self, indices: Vec<u8>) -> Pixels {
        if self.bits > 1 && self.compression == 0 && self.palette == [[0; 3], [255; 3]] {
            let (width, bits) = (self.width as usize, usize::from(self.bits));
            let bit = |row: &[u8], x: usize| row[x / bits] >> (bits - 1 - x % bits) & 1;
            let rows = indices.chunks_exact(width);
            let samples = rows.flat_map(|row| (0..width).map(move |x| 255 * bit(row, x))).collect();
            return Pixels::Gray { samples, key: None };
        }
        Pixels::Indexed { indices, palette: Palette::new(self.palette.iter().copied()) }
    }

    /// Turns samples that were rounded to 8 bits into those that Pillow computes from the same fields.
    fn truncate_fields(&self, samples: &mut [u8], channels: usize) {
        let mask = |channel: usize| le32(self.bytes, 54 + 4 * channel).unwrap_or_default();
        for channel in 0..3 {
            let bits = if self.compression == 3 { mask(channel).count_ones().min(8) } else { 5 };
            let largest = (1_u32 << bits) - 1;
            for sample in samples.iter_mut().skip(channel).step_by(channels) {
                let field = (u32::from(*sample) * largest + 127) / 255;
                *sample = (field * 255).checked_div(largest).unwrap_or(0) as u8;
            }
        }
    }
}

fn le16(bytes: &[u8], at: usize) -> Result<u16, DecodeError> {
    let field = bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or(TRUNCATED)?;
    Ok(u16::from_le_bytes(*field))
}

fn le32(bytes: &[u8], at: usize) -> Result<u32, DecodeError> {
    let field = bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or(TRUNCATED)?;
    Ok(u32::from_le_bytes(*field))
}
