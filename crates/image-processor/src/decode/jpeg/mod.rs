//! JPEG to RGB, the same bytes as Pillow: baseline, progressive and arithmetic coding, gray, colour and CMYK.
//!
//! Pixels come from libjpeg (mozjpeg's copy, plain C): accurate integer IDCT and smooth chroma upsampling, as in the
//! libjpeg-turbo that Pillow carries; the C files here take the place of its SIMD code on x86-64. Pillow refuses a file that
//! ends before its last row is decoded, where libjpeg itself would invent an end, and keeps going over corrupt data; so
//! does this. EXIF orientation is not applied.

mod header;

use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

use mozjpeg::decompress::DecompressStarted;
use mozjpeg::{ColorSpace, Decompress};

use self::header::Header;
use crate::error::DecodeError;
use crate::options::DecodeLimits;
use crate::rgb_image::RgbImage;

const DAMAGED: DecodeError = DecodeError::Damaged("JPEG");

/// How much Pillow reads at a time. It shows where a damaged file goes wrong after its last row.
const BLOCK_BYTES: usize = 65_536;

/// Decodes a JPEG.
pub(super) fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<RgbImage, DecodeError> {
    let header = Header::read(bytes)?;
    limits.check(header.width, header.height, "JPEG")?;
    let stage = Cell::new(Stage::Rows);
    let reader = Blocks { rest: bytes, block: 0, stage: &stage };
    // libjpeg reports fatal errors by unwinding, which drops the decoder on its way.
    let decoded = catch_unwind(AssertUnwindSafe(|| decode_rows(reader, header)));
    let Ok(Ok((data, rows))) = decoded else {
        return Err(if stage.get() == Stage::Ended { DecodeError::Truncated("JPEG") } else { DAMAGED });
    };
    stage.set(Stage::Finishing);
    let finished = catch_unwind(AssertUnwindSafe(|| rows.finish()));
    // What lies between the last row and the end marker may be missing, but must not be wrong.
    if !matches!(finished, Ok(Ok(()))) && stage.get() != Stage::Ended {
        return Err(DAMAGED);
    }
    Ok(RgbImage { width: header.width, height: header.height, data })
}

/// All rows as `[height, width, 3]`, and the decoder, which has yet to look for the end of the image.
fn decode_rows<R: BufRead>(reader: R, header: Header) -> io::Result<(Vec<u8>, DecompressStarted<R>)> {
    let decoder = Decompress::new_reader(reader)?;
    let (width, height) = (header.width as usize, header.height as usize);
    if decoder.size() != (width, height) {
        return Err(io::Error::other("two readings of the header differ"));
    }
    let mut rows = decoder.to_colorspace(match header.components {
        1 => ColorSpace::JCS_GRAYSCALE,
        3 => ColorSpace::JCS_RGB,
        _ => ColorSpace::JCS_CMYK,
    })?;
    if header.components == 3 {
        return Ok((rows.read_scanlines()?, rows));
    }
    let mut rgb = vec![0; width * height * 3];
    let mut row = vec![0; width * usize::from(header.components)];
    for pixels in rgb.chunks_exact_mut(width * 3) {
        rows.read_scanlines_into(&mut row)?;
        if header.components == 1 {
            gray_to_rgb(&row, pixels);
        } else {
            inverted_cmyk_to_rgb(&row, pixels);
        }
    }
    Ok((rgb, rows))
}

fn gray_to_rgb(gray: &[u8], rgb: &mut [u8]) {
    for (pixel, &shade) in rgb.chunks_exact_mut(3).zip(gray) {
        pixel.fill(shade);
    }
}

/// CMYK as Adobe stores it, 255 being no ink, by Pillow's integer formula.
fn inverted_cmyk_to_rgb(cmyk: &[u8], rgb: &mut [u8]) {
    for (pixel, ink) in rgb.chunks_exact_mut(3).zip(cmyk.chunks_exact(4)) {
        let light = u32::from(ink[3]);
        for (value, &colour) in pixel.iter_mut().zip(ink) {
            let product = u32::from(255 - colour) * light + 128;
            // At most `light`, as the product over 255 is.
            *value = (light - (((product >> 8) + product) >> 8)) as u8;
        }
    }
}

/// Where decoding stands, as the reader sees it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Rows are still to come: all of the file may be read.
    Rows,
    /// All rows are there: Pillow gives the decoder no further block.
    Finishing,
    /// The decoder asked for more than there is.
    Ended,
}

/// The bytes of a file in blocks, as Pillow feeds its decoder. Their end is an error, so that libjpeg invents no end.
struct Blocks<'a> {
    /// Not yet consumed, this block and all later ones.
    rest: &'a [u8],
    /// How many bytes of `rest` belong to the current block.
    block: usize,
    stage: &'a Cell<Stage>,
}

impl BufRead for Blocks<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.block == 0 && self.stage.get() == Stage::Rows {
            self.block = self.rest.len().min(BLOCK_BYTES);
        }
        if self.block == 0 {
            self.stage.set(Stage::Ended);
            return Err(io::Error::other("no more bytes"));
        }
        Ok(&self.rest[..self.block])
    }

    fn consume(&mut self, count: usize) {
        let count = count.min(self.block);
        self.rest = &self.rest[count..];
        self.block -= count;
    }
}

impl Read for Blocks<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}
