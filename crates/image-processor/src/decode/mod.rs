//! From the bytes of an image file to RGB, with the pixels that Pillow gives.
//!
//! The format is found by content, never by name. Each format has a separate module, around its library;
//! `bitmap` has their shared code. Every decoder checks the header's size against [`DecodeLimits`] before it takes
//! memory for pixels.

mod bitmap;
mod bmp;
mod gif;
mod jpeg;
mod png;
mod sniff;
mod tiff;
mod webp;

use self::sniff::Format;
use crate::error::DecodeError;
use crate::options::{AlphaPolicy, DecodeLimits};
use crate::rgb_image::RgbImage;

/// Decodes an image file of any supported format; of an animation or a file of several pages, the first image.
pub fn decode(bytes: &[u8], limits: &DecodeLimits, alpha: AlphaPolicy) -> Result<RgbImage, DecodeError> {
    let bitmap = match sniff::sniff(bytes)? {
        Format::Jpeg => return jpeg::decode(bytes, limits),
        Format::Tiff => return tiff::decode(bytes, limits, alpha),
        Format::Png => png::decode(bytes, limits)?,
        Format::Gif => gif::decode(bytes, limits)?,
        Format::WebP => webp::decode(bytes, limits)?,
        Format::Bmp => bmp::decode(bytes, limits)?,
    };
    Ok(bitmap.into_rgb(alpha))
}

/// Whether a file that begins like this has a format that is decoded here. 16 bytes are enough.
pub fn is_image(head: &[u8]) -> bool {
    sniff::sniff(head).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: DecodeLimits = DecodeLimits { max_pixels: 1 << 16 };

    /// A line of `samples.txt`.
    struct Sample {
        name: &'static str,
        alpha: AlphaPolicy,
        file: Vec<u8>,
        /// What Pillow makes of the file, if it is well-formed.
        expected: Option<RgbImage>,
    }

    fn samples() -> impl Iterator<Item = Sample> {
        let lines = include_str!("samples.txt").lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| {
            let fields: Vec<_> = line.split(" | ").collect();
            let [name, alpha, file, size, rgb] = fields[..] else { panic!("five fields: {line}") };
            let alpha = if alpha == "drop" { AlphaPolicy::Drop } else { AlphaPolicy::White };
            let expected = size.split_once('x').map(|(width, height)| RgbImage {
                width: width.parse().unwrap(),
                height: height.parse().unwrap(),
                data: from_hex(rgb),
            });
            Sample { name, alpha, file: from_hex(file), expected }
        })
    }

    fn from_hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn gives_the_pixels_that_pillow_gives() {
        for Sample { name, alpha, file, expected } in samples() {
            let Some(expected) = expected else { continue };
            assert_eq!(decode(&file, &LIMITS, alpha), Ok(expected), "{name}");
        }
    }

    #[test]
    fn refuses_more_pixels_than_the_limit() {
        for Sample { name, alpha, file, expected } in samples() {
            let Some(expected) = expected else { continue };
            let pixels = u64::from(expected.width) * u64::from(expected.height);
            let limits = DecodeLimits { max_pixels: pixels - 1 };
            let error = decode(&file, &limits, alpha).unwrap_err();
            assert_eq!(error, DecodeError::TooManyPixels { pixels, limit: pixels - 1 }, "{name}");
        }
    }

    #[test]
    fn survives_damage_anywhere() {
        for Sample { name, alpha, file, .. } in samples() {
            for at in 0..file.len() {
                let mut flipped = file.clone();
                flipped[at] ^= 0xff;
                for damaged in [&file[..at], &flipped] {
                    if let Ok(image) = decode(damaged, &LIMITS, alpha) {
                        let pixels = image.width as usize * image.height as usize;
                        assert_eq!(image.data.len(), pixels * 3, "{name}, byte {at}");
                    }
                }
            }
        }
    }
}
