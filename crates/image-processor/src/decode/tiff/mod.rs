//! The first page of a TIFF as Pillow gives it: 8-bit gray, RGB and palette images, with or without alpha.
//!
//! The `tiff` crate, which `image` uses too, undoes compression and predictors and puts strips and tiles in place.
//! `image` itself has no palettes and drops extra samples, so samples are read as they are stored (`samples.rs`) and become
//! pixels here. Orientation is applied, as Pillow does while it loads a TIFF. Every other variant is refused by name.

mod directory;
mod error;
mod layout;
mod orientation;
mod samples;

use std::io::Cursor;

use tiff::decoder::Decoder;
use tiff::tags::Tag;

use self::directory::Directory;
use self::error::{DAMAGED, TRUNCATED};
use self::layout::{Kind, Layout};
use self::samples::Size;
use super::bitmap::{Bitmap, Palette, Pixels};
use crate::error::DecodeError;
use crate::options::{AlphaPolicy, DecodeLimits};
use crate::rgb_image::RgbImage;

/// Decodes a file that starts with a TIFF header.
pub(super) fn decode(bytes: &[u8], limits: &DecodeLimits, alpha: AlphaPolicy) -> Result<RgbImage, DecodeError> {
    // `tiff` computes the number of strips or tiles when it opens a file.
    let directory = Directory::find(bytes).ok_or(TRUNCATED)?;
    let number = |tag| directory.value(bytes, tag).map(u32::try_from);
    let (Some(Ok(width)), Some(Ok(height))) = (number(Tag::ImageWidth), number(Tag::ImageLength)) else {
        return Err(DAMAGED);
    };
    let pixels = limits.check(width, height, "TIFF")?;
    if number(Tag::SamplesPerPixel).is_some_and(|samples| !matches!(samples, Ok(..=layout::MAX_SAMPLES))) {
        return Err(DecodeError::Unsupported("TIFF with more than six samples a pixel"));
    }
    let mut tags = Decoder::new(Cursor::new(bytes))?;
    let layout = Layout::read(&mut tags)?;
    let size = Size { width: width as usize, height: height as usize, pixels };
    let samples = samples::read(bytes, directory, &mut tags, &layout, &size)?;
    let pixels = match layout.kind {
        Kind::Gray => Pixels::Gray { samples, key: None },
        Kind::GrayAlpha => Pixels::GrayAlpha(samples),
        Kind::Rgb => Pixels::Rgb { samples, key: None },
        Kind::Rgba => Pixels::Rgba(samples),
        Kind::PremultipliedRgba => Pixels::Rgba(unpremultiply(samples)),
        Kind::Palette => Pixels::Indexed { indices: samples, palette: read_palette(&mut tags)? },
        Kind::PaletteAlpha => Pixels::Rgba(read_palette(&mut tags)?.expand_with_alpha(&samples)),
    };
    let image = Bitmap { width, height, pixels }.into_rgb(alpha);
    orientation::apply(image, orientation::read(&mut tags)).ok_or(DAMAGED)
}

/// The palette: all reds, all greens, all blues, 16 bits each, of which Pillow takes the upper eight.
fn read_palette(tags: &mut Decoder<Cursor<&[u8]>>) -> Result<Palette, DecodeError> {
    let values = tags.get_tag_u16_vec(Tag::ColorMap)?;
    let count = values.len() / 3;
    Ok(Palette::new((0..count).map(|entry| [0, 1, 2].map(|plane| (values[plane * count + entry] >> 8) as u8))))
}

/// Undoes the multiplication with alpha the way Pillow does when it unpacks a file.
fn unpremultiply(mut samples: Vec<u8>) -> Vec<u8> {
    for [colours @ .., alpha] in samples.as_chunks_mut::<4>().0 {
        for colour in colours {
            *colour = (u32::from(*colour) * 255).checked_div(u32::from(*alpha)).unwrap_or(0).min(255) as u8;
        }
    }
    samples
}
