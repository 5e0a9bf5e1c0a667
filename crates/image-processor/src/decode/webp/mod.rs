//! WebP through libwebp, as Pillow's `WebPImagePlugin` uses it; of an animation, the first frame on its canvas.
//!
//! Pillow asks libwebp's animation decoder, which first checks the whole container; `container` does that here, and the
//! one frame that is needed is handed to libwebp by itself. The frame is its canvas' first, so nothing lies below it.

mod container;

use std::borrow::Cow;

use ::webp::{BitstreamFeatures, Decoder};

use self::container::Frame;
use super::bitmap::{Bitmap, Pixels};
use crate::error::DecodeError;
use crate::options::DecodeLimits;

const DAMAGED: DecodeError = DecodeError::Damaged("WebP");

/// Decodes a file that starts with a RIFF header of type WEBP.
pub(super) fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<Bitmap, DecodeError> {
    let (width, height, frame) = container::first_frame(bytes, limits)?;
    let pixels = limits.check(width, height, "WebP")?;
    let has_alpha = BitstreamFeatures::new(bytes).is_none_or(|features| features.has_alpha());
    let fragment = if has_alpha { with_alpha(frame.fragment) } else { frame.fragment.into() };
    let image = Decoder::new(&fragment).decode().ok_or(DAMAGED)?;
    if (image.width(), image.height()) != (frame.width, frame.height) {
        return Err(DAMAGED);
    }
    let source = usize::from(image.layout().bytes_per_pixel());
    let target = if has_alpha { 4 } else { 3 };
    let mut canvas = vec![0; pixels * target];
    place(&image, source, &frame, &mut canvas, (width as usize, target));
    let pixels = if has_alpha { Pixels::Rgba(canvas) } else { Pixels::Rgb { samples: canvas, key: None } };
    Ok(Bitmap { width, height, pixels })
}

/// The fragment with the hint that it has alpha, should it be lossless and lack it: the file's own flag is what counts.
fn with_alpha(fragment: &[u8]) -> Cow<'_, [u8]> {
    let mut fragment = Cow::Borrowed(fragment);
    // The hint is a bit of the header behind the signature and the sizes.
    if fragment.starts_with(b"VP8L") && fragment.get(12).is_some_and(|byte| byte & 0x10 == 0) {
        fragment.to_mut()[12] |= 0x10;
    }
    fragment
}

/// Copies the frame's pixels of `source` bytes onto the canvas, given with its width and bytes of a pixel.
fn place(image: &[u8], source: usize, frame: &Frame, canvas: &mut [u8], (width, target): (usize, usize)) {
    let row_bytes = frame.width as usize * source;
    let start = (frame.top as usize * width + frame.left as usize) * target;
    let targets = canvas[start..].chunks_mut(width * target);
    for (row, canvas_row) in image.chunks_exact(row_bytes).zip(targets) {
        for (pixel, place) in row.chunks_exact(source).zip(canvas_row.chunks_exact_mut(target)) {
            let copied = source.min(target);
            place[..copied].copy_from_slice(&pixel[..copied]);
            place[copied..].fill(255);
        }
    }
}
