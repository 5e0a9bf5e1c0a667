//! BMP as Pillow reads it: uncompressed and bit-field pixels, OS/2 headers, RLE.
//!
//! Follows `BmpImagePlugin`, its oddities included: a palette that holds just grays is dropped together with the pixel
//! depth, 32-bit pixels have alpha only with bit fields that say so, and the last row needs no padding.

mod header;
mod layout;
mod rle;

use self::header::Header;
use self::layout::Layout;
use super::DecodeLimits;
use super::convert::{Bitmap, Palette, PaletteAlpha, PaletteOrder, Pixels, checked_pixels};
use crate::DecodeError;

const DAMAGED: DecodeError = DecodeError::Damaged("BMP");
const TRUNCATED: DecodeError = DecodeError::Truncated("BMP");

/// Decodes a file that starts with `BM`.
pub(super) fn decode(bytes: &[u8], limits: DecodeLimits) -> Result<Bitmap, DecodeError> {
    let header = Header::read(bytes)?;
    let (width, height) = (header.width, header.height);
    let count = checked_pixels(width, height, limits.max_pixels, "BMP")?;
    let stored_palette = header.stored_palette(bytes);
    let (layout, palette) = layout_and_palette(&header, stored_palette)?;
    // Without an offset the pixels follow what was read last.
    let behind = header.end + stored_palette.len();
    let start = if header.pixels == 0 { behind } else { usize::try_from(header.pixels).map_err(|_| TRUNCATED)? };
    let data = if header.is_run_length() {
        let indices = rle::decode(bytes, start, (width as usize, count), header.compression == 2)?;
        unpack_run_lengths(&header, layout, &indices)
    } else {
        unpack(&header, layout, bytes.get(start..).unwrap_or_default())?
    };
    let pixels = match (layout, palette) {
        (Layout::Bytes { alpha: Some(_), .. }, _) => Pixels::Rgba(data),
        (Layout::Bytes { .. } | Layout::Bgr15 | Layout::Bgr16, _) => Pixels::Rgb { data, key: None },
        (_, Some(palette)) => Pixels::Indexed { data, palette, alpha: PaletteAlpha::Opaque },
        _ => Pixels::Gray { data, key: None },
    };
    Ok(Bitmap { width, height, pixels })
}

/// What a pixel is once the palette is known: Pillow drops one of grays, or of black and white.
fn layout_and_palette(header: &Header, stored: &[u8]) -> Result<(Layout, Option<Box<Palette>>), DecodeError> {
    let layout = header.layout()?;
    if !matches!(layout, Layout::Indexed(_)) {
        // Run lengths are for indices.
        return if header.is_run_length() { Err(DAMAGED) } else { Ok((layout, None)) };
    }
    if !(1..=65_536).contains(&header.colours) {
        return Err(DAMAGED);
    }
    if header.has_gray_palette(stored) {
        return Ok((if header.colours <= 2 { Layout::Bilevel } else { Layout::Gray }, None));
    }
    let order = if header.entry_size == 4 { PaletteOrder::Bgrx } else { PaletteOrder::Bgr };
    Ok((layout, Some(Palette::new(stored, order).ok_or(DAMAGED)?)))
}

/// Rows of uncompressed pixels to the bitmap's layout.
fn unpack(header: &Header, layout: Layout, stored: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let (width, height) = (header.width as usize, header.height as usize);
    let used = (width * layout.bits()).div_ceil(8);
    let stride = (width * usize::from(header.bits)).div_ceil(32) * 4;
    if stride < used {
        // The depth of a gray palette is not that of its pixels.
        return Err(DAMAGED);
    }
    if stored.len() < stride * (height - 1) + used {
        return Err(TRUNCATED);
    }
    let mut data = Vec::with_capacity(width * height * layout.channels());
    for row in 0..height {
        let row = if header.top_down { row } else { height - 1 - row };
        layout.unpack(&stored[row * stride..][..used], width, &mut data);
    }
    Ok(data)
}

/// Rows of decoded indices, bottom up or top down, to the bitmap's layout.
fn unpack_run_lengths(header: &Header, layout: Layout, indices: &[u8]) -> Vec<u8> {
    let spread = |&index: &u8| if layout == Layout::Bilevel && index > 0 { 255 } else { index };
    let rows = indices.chunks_exact(header.width as usize);
    if header.top_down { rows.flatten().map(spread).collect() } else { rows.rev().flatten().map(spread).collect() }
}
