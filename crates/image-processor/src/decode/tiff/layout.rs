//! What a pixel of a TIFF is: photometric interpretation, samples and extra samples, compression.
//!
//! The combinations are those of Pillow's `OPEN_INFO` with 8 bits a sample; the others are refused by name.

use std::io::Cursor;

use tiff::decoder::Decoder;
use tiff::tags::Tag;

use super::error::DAMAGED;
use crate::error::DecodeError;

/// Maximum number of samples of a pixel in Pillow.
pub(super) const MAX_SAMPLES: u32 = 6;

/// The mode with which Pillow opens the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Gray,
    GrayAlpha,
    Rgb,
    Rgba,
    /// The colours are multiplied with alpha.
    PremultipliedRgba,
    Palette,
    PaletteAlpha,
}

/// How strips and tiles are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    PackBits,
    Deflate,
    Lzw,
}

/// How pixels are stored.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) kind: Kind,
    pub(super) compression: Compression,
    /// Samples of a pixel in the file; those after the ones of `kind` are ignored.
    pub(super) samples: usize,
    /// Whether each sample is in a separate plane.
    pub(super) planar: bool,
    /// Whether zero is white.
    pub(super) inverted: bool,
    /// Whether the lowest bit of a byte comes first.
    pub(super) reversed: bool,
}

/// Numbers from the directory; a missing tag is an empty list.
struct Fields<'t, 'a>(&'t mut Decoder<Cursor<&'a [u8]>>);

impl Kind {
    /// Samples of a pixel that are kept.
    pub(super) fn channels(self) -> usize {
        match self {
            Self::Gray | Self::Palette => 1,
            Self::GrayAlpha | Self::PaletteAlpha => 2,
            Self::Rgb => 3,
            Self::Rgba | Self::PremultipliedRgba => 4,
        }
    }
}

impl Layout {
    /// Reads the tags that describe a pixel.
    pub(super) fn read(tags: &mut Decoder<Cursor<&[u8]>>) -> Result<Self, DecodeError> {
        let mut fields = Fields(tags);
        let compression = compression(fields.number(Tag::Compression, 1)?)?;
        let photometric = fields.number(Tag::PhotometricInterpretation, 0)?;
        let planar = fields.number(Tag::PlanarConfiguration, 1)? == 2;
        let reversed = fields.number(Tag::FillOrder, 1)? == 2;
        let samples = usize::from(fields.number(Tag::SamplesPerPixel, 1)?);
        let mut extra = fields.list(Tag::ExtraSamples)?;
        let depth = fields.list(Tag::BitsPerSample)?.first().copied().unwrap_or(1);
        let format = fields.number(Tag::SampleFormat, 1)?;
        if depth != 8 {
            return Err(unsupported_depth(depth));
        }
        if !(format == 1 || format == 2 && photometric == 1 && samples == 1) {
            return Err(DecodeError::Unsupported("TIFF with samples of this format"));
        }
        let mut counted = samples;
        if planar && extra.iter().max() == Some(&0) {
            // Extra planes without a known meaning are ignored.
            counted = samples.checked_sub(extra.len()).ok_or(DAMAGED)?;
            extra.clear();
        }
        let kind = match (kind(photometric, counted, &extra)?, extra.as_slice()) {
            (Kind::GrayAlpha | Kind::PaletteAlpha, _) if planar => {
                // Pillow writes this alpha to a place from which it does not read it.
                return Err(DecodeError::Unsupported("TIFF with a separate plane of alpha"));
            }
            // libtiff gives an unnamed fourth sample no known meaning, and Pillow reads such a plane as alpha.
            (Kind::Rgba, []) if planar && compression != Compression::None => Kind::PremultipliedRgba,
            (kind, _) => kind,
        };
        Ok(Self { kind, compression, samples, planar, inverted: photometric == 0, reversed })
    }
}

/// The mode for a photometric interpretation, the number of samples and the meanings of the extra ones.
fn kind(photometric: u16, samples: usize, extra: &[u16]) -> Result<Kind, DecodeError> {
    Ok(match (photometric, samples, extra) {
        (0 | 1, 1, []) | (1, 2, [0]) => Kind::Gray,
        (1, 2, [1]) => return Err(DecodeError::Unsupported("TIFF of gray multiplied with alpha")),
        (1, 2, [2]) => Kind::GrayAlpha,
        (2, 3, []) | (2, 4, [0]) | (2, 5, [0, 0]) | (2, 6, [0, 0, 0]) => Kind::Rgb,
        (2, 4, [1]) | (2, 5, [1, 0]) | (2, 6, [1, 0, 0]) => Kind::PremultipliedRgba,
        (2, 4, [] | [2 | 999]) | (2, 5, [2, 0]) | (2, 6, [2, 0, 0]) => Kind::Rgba,
        (3, 1, []) | (3, 2, [0]) => Kind::Palette,
        (3, 2, [2]) => Kind::PaletteAlpha,
        (5, ..) => return Err(DecodeError::Unsupported("TIFF with CMYK colours")),
        (6, ..) => return Err(DecodeError::Unsupported("TIFF with YCbCr colours")),
        (8, ..) => return Err(DecodeError::Unsupported("TIFF with L*a*b* colours")),
        _ => return Err(DecodeError::Unsupported("TIFF with this arrangement of samples")),
    })
}

fn compression(number: u16) -> Result<Compression, DecodeError> {
    Err(DecodeError::Unsupported(match number {
        1 => return Ok(Compression::None),
        5 => return Ok(Compression::Lzw),
        8 | 32946 => return Ok(Compression::Deflate),
        32773 => return Ok(Compression::PackBits),
        2..=4 | 32771 => "TIFF with CCITT compression",
        6 | 7 => "TIFF with JPEG compression",
        34925 => "TIFF with LZMA compression",
        50000 => "TIFF with Zstandard compression",
        50001 => "TIFF with WebP compression",
        _ => "TIFF with this compression",
    }))
}

fn unsupported_depth(depth: u16) -> DecodeError {
    DecodeError::Unsupported(match depth {
        1 => "TIFF with 1 bit a sample",
        2 => "TIFF with 2 bits a sample",
        4 => "TIFF with 4 bits a sample",
        16 => "TIFF with 16 bits a sample",
        32 => "TIFF with 32 bits a sample",
        _ => "TIFF of this depth",
    })
}

impl Fields<'_, '_> {
    fn list(&mut self, tag: Tag) -> Result<Vec<u16>, DecodeError> {
        Ok(self.0.find_tag_unsigned_vec(tag).map_err(|_| DAMAGED)?.unwrap_or_default())
    }

    fn number(&mut self, tag: Tag, default: u16) -> Result<u16, DecodeError> {
        Ok(self.list(tag)?.first().copied().unwrap_or(default))
    }
}
