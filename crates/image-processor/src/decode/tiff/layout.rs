//! What a pixel of a TIFF is: photometric interpretation, samples and extra samples, compression.
//!
//! The combinations are those of Pillow's `OPEN_INFO` with 8 bits a sample; the others are refused by name.

use super::DAMAGED;
use super::ifd::{Ifd, tag};
use crate::DecodeError;

/// The mode that Pillow opens the file with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Gray,
    GrayAlpha,
    Rgb,
    Rgba {
        /// The colours are multiplied with alpha.
        premultiplied: bool,
    },
    Palette,
    PaletteAlpha,
}

/// A compression that libtiff undoes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Lzw,
    Deflate,
    PackBits,
}

/// How pixels are stored.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) kind: Kind,
    /// None for uncompressed pixels.
    pub(super) compression: Option<Compression>,
    /// Samples of a pixel in the file; those behind the ones of `kind` are ignored.
    pub(super) samples: usize,
    /// Samples that Pillow counts, without extra ones that a planar file may leave aside.
    pub(super) counted: usize,
    /// Samples that the interpretation and the extra ones make together; not always as many.
    pub(super) expected: usize,
    /// Each sample in a plane of its own.
    pub(super) planar: bool,
    /// Zero is white.
    pub(super) inverted: bool,
    /// The lowest bit comes first.
    pub(super) reversed: bool,
}

/// Samples of a pixel as Pillow counts them.
struct Samples {
    /// Depth of each.
    bits: Vec<i64>,
    /// Kinds of the extra ones, which come last.
    extra: Vec<i64>,
    /// All that are in the file.
    stored: usize,
}

impl Kind {
    /// Samples of a pixel that are kept.
    pub(super) fn channels(self) -> usize {
        match self {
            Self::Gray | Self::Palette => 1,
            Self::GrayAlpha | Self::PaletteAlpha => 2,
            Self::Rgb => 3,
            Self::Rgba { .. } => 4,
        }
    }
}

impl Layout {
    /// Reads the tags that describe a pixel.
    pub(super) fn new(ifd: &Ifd) -> Result<Self, DecodeError> {
        let compression = compression(ifd.value(tag::COMPRESSION)?.unwrap_or(1))?;
        let planar = ifd.value(tag::PLANAR_CONFIGURATION)?.unwrap_or(1) == 2;
        // Of several values Pillow takes none.
        let photometric = match ifd.values(tag::PHOTOMETRIC)?.as_deref() {
            Some([photometric]) => *photometric,
            _ => 0,
        };
        let fill_order = ifd.value(tag::FILL_ORDER)?.unwrap_or(1);
        let format = sample_format(ifd)?;
        let samples = Samples::new(ifd, planar)?;
        if samples.bits.iter().any(|&depth| depth != 8) || !(1..=2).contains(&fill_order) {
            return Err(unsupported_depth(&samples.bits));
        }
        let plain = fill_order == 1;
        if !(format == 1 || format == 2 && plain && photometric == 1 && samples.bits.len() == 1) {
            return Err(DecodeError::Unsupported("TIFF with samples of this format"));
        }
        let colours = match photometric {
            2 | 6 | 8 => 3,
            5 => 4,
            _ => 1,
        };
        Ok(Self {
            kind: kind(photometric, &samples, plain, (compression.is_some(), planar))?,
            compression,
            samples: samples.stored,
            counted: samples.bits.len(),
            expected: colours + samples.extra.len(),
            planar,
            inverted: photometric == 0,
            reversed: !plain,
        })
    }
}

/// The mode for a photometric interpretation; `plain` files have the highest bit first.
fn kind(
    photometric: i64,
    samples: &Samples,
    plain: bool,
    (compressed, planar): (bool, bool),
) -> Result<Kind, DecodeError> {
    Ok(match (photometric, samples.bits.len(), samples.extra.as_slice()) {
        (0, 1, []) if plain || compressed || planar => Kind::Gray,
        (1, 1, []) => Kind::Gray,
        (2, 3, []) => Kind::Rgb,
        (3, 1, []) => Kind::Palette,
        (6, 1, []) if plain && !compressed => Kind::Gray,
        (1, 2, [0]) if plain => Kind::Gray,
        (1, 2, [1]) if plain => return Err(DecodeError::Unsupported("TIFF of gray multiplied with alpha")),
        (1, 2, [2]) if plain => Kind::GrayAlpha,
        // libtiff takes the unnamed sample for one of no known meaning, and Pillow that in a plane for alpha.
        (2, 4, []) if plain => Kind::Rgba { premultiplied: compressed && planar },
        (2, 4, [0]) | (2, 5, [0, 0]) | (2, 6, [0, 0, 0]) if plain => Kind::Rgb,
        (2, 4, [1]) | (2, 5, [1, 0]) | (2, 6, [1, 0, 0]) if plain => Kind::Rgba { premultiplied: true },
        (2, 4, [2 | 999]) | (2, 5, [2, 0]) | (2, 6, [2, 0, 0]) if plain => Kind::Rgba { premultiplied: false },
        (3, 2, [0]) if plain => Kind::Palette,
        (3, 2, [2]) if plain => Kind::PaletteAlpha,
        (5, ..) => return Err(DecodeError::Unsupported("TIFF with CMYK colours")),
        (6, ..) => return Err(DecodeError::Unsupported("TIFF with YCbCr colours")),
        (8, ..) => return Err(DecodeError::Unsupported("TIFF with L*a*b* colours")),
        _ => return Err(DecodeError::Unsupported("TIFF with this arrangement of samples")),
    })
}

fn compression(number: i64) -> Result<Option<Compression>, DecodeError> {
    Err(DecodeError::Unsupported(match number {
        1 => return Ok(None),
        5 => return Ok(Some(Compression::Lzw)),
        8 | 32946 => return Ok(Some(Compression::Deflate)),
        32773 => return Ok(Some(Compression::PackBits)),
        2..=4 | 32771 => "TIFF with CCITT compression",
        6 | 7 => "TIFF with JPEG compression",
        34925 => "TIFF with LZMA compression",
        50000 => "TIFF with Zstandard compression",
        50001 => "TIFF with WebP compression",
        _ => "TIFF with this compression",
    }))
}

/// The sample format, where it is the same for all samples.
fn sample_format(ifd: &Ifd) -> Result<i64, DecodeError> {
    match ifd.values(tag::SAMPLE_FORMAT)?.as_deref() {
        None => Ok(1),
        Some([first, rest @ ..]) if rest.iter().all(|format| format == first) => Ok(*first),
        _ => Err(DecodeError::Unsupported("TIFF with samples of different formats")),
    }
}

impl Samples {
    fn new(ifd: &Ifd, planar: bool) -> Result<Self, DecodeError> {
        let mut bits = ifd.values(tag::BITS_PER_SAMPLE)?.unwrap_or_else(|| vec![1]);
        let mut extra = ifd.values(tag::EXTRA_SAMPLES)?.unwrap_or_default();
        let stored = usize::try_from(ifd.value(tag::SAMPLES_PER_PIXEL)?.unwrap_or(1)).map_err(|_| DAMAGED)?;
        let mut counted = stored;
        if planar && extra.iter().max() == Some(&0) {
            // Extra planes of no known meaning can be left aside.
            bits.truncate(bits.len().saturating_sub(extra.len()));
            counted = counted.checked_sub(extra.len()).ok_or(DAMAGED)?;
            extra.clear();
        }
        if counted > 6 {
            return Err(DecodeError::Unsupported("TIFF with more than six samples a pixel"));
        }
        if let [depth] = bits[..] {
            bits = vec![depth; counted];
        }
        bits.truncate(counted);
        if bits.len() != counted || bits.is_empty() { Err(DAMAGED) } else { Ok(Self { bits, extra, stored }) }
    }
}

fn unsupported_depth(bits: &[i64]) -> DecodeError {
    DecodeError::Unsupported(match bits {
        [1, ..] => "TIFF with 1 bit a sample",
        [2, ..] => "TIFF with 2 bits a sample",
        [4, ..] => "TIFF with 4 bits a sample",
        [16, ..] => "TIFF with 16 bits a sample",
        [32, ..] => "TIFF with 32 bits a sample",
        _ => "TIFF of this depth",
    })
}
