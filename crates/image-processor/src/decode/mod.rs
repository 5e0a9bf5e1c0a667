//! From the bytes of an image file to RGB, with the pixels that Pillow gives.
//!
//! The format is found by content, never by name. Each format has a file of its own; `convert` holds what they share.
//! Every decoder checks the size that the header claims against [`DecodeLimits`] before it allocates pixels.

mod bmp;
mod convert;
mod gif;
mod jpeg;
mod png;
mod sniff;
mod tiff;
mod webp;

use self::convert::Bitmap;
use self::sniff::Format;
use super::{DecodeError, RgbImage};

/// Bounds that hold for every format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Largest width x height that is decoded.
    pub max_pixels: u64,
}

/// What becomes of transparent pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AlphaPolicy {
    /// Composited on white, as transformers 5.23 does.
    White,
    /// The alpha channel is dropped, as `convert("RGB")` and transformers 4.x do.
    Drop,
}

/// Decodes an image file of any supported format; of an animation or a multi-page file, the first picture.
pub fn decode(bytes: &[u8], limits: &DecodeLimits, alpha: AlphaPolicy) -> Result<RgbImage, DecodeError> {
    let (bitmap, name): (Bitmap, _) = match sniff::sniff(bytes)? {
        Format::Jpeg => return jpeg::decode(bytes, limits),
        Format::Png => (png::decode(bytes, *limits)?, "PNG"),
        Format::Gif => (gif::decode(bytes, *limits)?, "GIF"),
        Format::WebP => (webp::decode(bytes, *limits)?, "WebP"),
        Format::Bmp => (bmp::decode(bytes, *limits)?, "BMP"),
        Format::Tiff => (tiff::decode(bytes, *limits)?, "TIFF"),
    };
    bitmap.into_rgb(alpha).ok_or(DecodeError::Damaged(name))
}

/// Whether a file that begins like this has a format that is decoded here. 16 bytes are enough.
pub fn is_image(head: &[u8]) -> bool {
    sniff::sniff(head).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: DecodeLimits = DecodeLimits { max_pixels: 1 << 16 };

    /// Name, alpha policy, file, and width, height and RGB bytes unless Pillow refuses it: a line of `samples.txt`.
    type Sample = (&'static str, AlphaPolicy, Vec<u8>, Option<RgbImage>);

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
            (name, alpha, from_hex(file), expected)
        })
    }

    fn from_hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn gives_the_pixels_that_pillow_gives_and_refuses_what_it_refuses() {
        for (name, alpha, file, expected) in samples() {
            assert_eq!(decode(&file, &LIMITS, alpha).ok(), expected, "{name}");
        }
    }

    #[test]
    fn refuses_more_pixels_than_the_limit() {
        for (name, alpha, file, expected) in samples() {
            let Some(expected) = expected else { continue };
            let pixels = u64::from(expected.width) * u64::from(expected.height);
            let limits = DecodeLimits { max_pixels: pixels - 1 };
            let error = decode(&file, &limits, alpha).unwrap_err();
            assert_eq!(error, DecodeError::TooManyPixels { pixels, limit: pixels - 1 }, "{name}");
        }
    }

    #[test]
    fn survives_damage_anywhere() {
        for (name, alpha, file, _) in samples() {
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
