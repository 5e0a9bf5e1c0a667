//! JPEG to RGB, the same bytes as Pillow: baseline, progressive and arithmetic coding, gray, colour and CMYK.
//!
//! mozjpeg decodes with its accurate integer IDCT and smooth chroma upsampling, as the libjpeg-turbo in Pillow does, with SIMD
//! code or in plain C. A file that ends before its last row is refused, where libjpeg would invent the rest.
//! EXIF orientation is not applied.

mod header;

use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

use mozjpeg::{ColorSpace, Decompress};

use self::header::Header;
use crate::error::DecodeError;
use crate::options::DecodeLimits;
use crate::rgb_image::RgbImage;

const DAMAGED: DecodeError = DecodeError::Damaged("JPEG");

/// Decodes a JPEG.
pub(super) fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<RgbImage, DecodeError> {
    let header = Header::read(bytes)?;
    limits.check(header.width, header.height, "JPEG")?;
    let has_ended = Cell::new(false);
    let source = Source { rest: bytes, has_ended: &has_ended };
    // libjpeg reports fatal errors by unwinding, which drops the decoder.
    match catch_unwind(AssertUnwindSafe(|| decode_rows(source, header))) {
        Ok(Ok(data)) => Ok(RgbImage { width: header.width, height: header.height, data }),
        _ if has_ended.get() => Err(DecodeError::Truncated("JPEG")),
        _ => Err(DAMAGED),
    }
}

/// All rows, `[height, width, 3]`.
fn decode_rows(source: Source, header: Header) -> io::Result<Vec<u8>> {
    let decoder = Decompress::new_reader(source)?;
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
        return rows.read_scanlines();
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
    Ok(rgb)
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

/// The bytes of a file. Their end is an error, so that libjpeg does not invent the rest.
struct Source<'a> {
    rest: &'a [u8],
    has_ended: &'a Cell<bool>,
}

impl BufRead for Source<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.rest.is_empty() {
            self.has_ended.set(true);
            return Err(io::Error::other("no more bytes"));
        }
        Ok(self.rest)
    }

    fn consume(&mut self, count: usize) {
        self.rest = self.rest.get(count..).unwrap_or_default();
    }
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}
