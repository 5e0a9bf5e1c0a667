//! The first page of a TIFF as Pillow gives it: 8-bit gray, RGB and palette images, with or without alpha.
//!
//! Pillow reads uncompressed files itself and hands the others to libtiff, and the two differ in what they forgive; so
//! `segments` has both ways. Orientation is applied, as Pillow does for TIFF alone. Every other variant is refused by name.

mod codec;
mod ifd;
mod layout;
mod lzw;
mod orient;
mod segments;

pub(super) use self::ifd::is_tiff;
use self::ifd::{Ifd, tag};
use self::layout::{Kind, Layout};
use super::DecodeLimits;
use super::convert::{Bitmap, Palette, PaletteAlpha, Pixels, checked_pixels};
use crate::DecodeError;

const DAMAGED: DecodeError = DecodeError::Damaged("TIFF");
const TRUNCATED: DecodeError = DecodeError::Truncated("TIFF");

/// Samples as stored, before orientation.
struct Canvas {
    width: usize,
    height: usize,
    /// Bytes of one pixel.
    channels: usize,
    data: Vec<u8>,
}

/// Decodes a file that starts with a TIFF header.
pub(super) fn decode(bytes: &[u8], limits: DecodeLimits) -> Result<Bitmap, DecodeError> {
    let ifd = Ifd::read(bytes)?;
    if ifd.has(tag::MEDIA_PHOTO) {
        return Err(DecodeError::Unsupported("Windows Media Photo"));
    }
    let layout = Layout::new(&ifd)?;
    let (width, height) = (ifd.size(tag::WIDTH)?, ifd.size(tag::LENGTH)?);
    let pixels = checked_pixels(width, height, limits.max_pixels, "TIFF")?;
    let palette =
        if matches!(layout.kind, Kind::Palette | Kind::PaletteAlpha) { Some(colour_map(&ifd)?) } else { None };
    let mut canvas = Canvas {
        width: width as usize,
        height: height as usize,
        channels: layout.kind.channels(),
        data: vec![0; pixels * layout.kind.channels()],
    };
    segments::read(bytes, &ifd, &layout, limits, &mut canvas)?;
    if layout.kind == (Kind::Rgba { premultiplied: true }) {
        canvas.data.as_chunks_mut::<4>().0.iter_mut().for_each(unpremultiply);
    }
    let canvas = orient::apply(canvas, ifd.orientation());
    // Neither is larger than the width and height that came as 32 bits.
    let (width, height) = (canvas.width as u32, canvas.height as u32);
    let data = canvas.data;
    let pixels = match (layout.kind, palette) {
        (Kind::Palette, Some(palette)) => Pixels::Indexed { data, palette, alpha: PaletteAlpha::Opaque },
        (Kind::PaletteAlpha, Some(palette)) => Pixels::Rgba(palette.expand_with_alpha(&data)),
        (Kind::GrayAlpha, _) => Pixels::GrayAlpha(data),
        (Kind::Rgb, _) => Pixels::Rgb { data, key: None },
        (Kind::Rgba { .. }, _) => Pixels::Rgba(data),
        _ => Pixels::Gray { data, key: None },
    };
    Ok(Bitmap { width, height, pixels })
}

/// The palette: all reds, all greens, all blues, 16 bits each, of which the upper eight count.
fn colour_map(ifd: &Ifd) -> Result<Box<Palette>, DecodeError> {
    let values = ifd.values(tag::COLOUR_MAP)?.ok_or(DAMAGED)?;
    let values =
        values.iter().map(|value| u8::try_from(value >> 8)).collect::<Result<Vec<_>, _>>().map_err(|_| DAMAGED)?;
    let count = values.len() / 3;
    let entries = (0..count).map(|i| [values[i], values[i + count], values[i + 2 * count], 255]);
    Palette::from_entries(entries).ok_or(DAMAGED)
}

/// Undoes the multiplication with alpha the way Pillow does when it unpacks a file.
fn unpremultiply(pixel: &mut [u8; 4]) {
    let [colours @ .., alpha] = pixel;
    let alpha = u32::from(*alpha);
    for colour in colours {
        *colour = (u32::from(*colour) * 255).checked_div(alpha).unwrap_or(0).min(255) as u8;
    }
}
