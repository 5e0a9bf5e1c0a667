//! WebP through libwebp, as Pillow's `WebPImagePlugin` uses it; of an animation, the first frame on its canvas.
//!
//! Pillow uses libwebp's animation decoder, which keeps whole canvases. Here `container` finds the one frame needed,
//! and libwebp decodes only that. The frame is the first on its canvas, so nothing lies below it.

mod container;

use std::borrow::Cow;

use ::webp::{BitstreamFeatures, Decoder};

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
    let rows = canvas.chunks_exact_mut(width as usize * target).skip(frame.top as usize);
    for (row, stored) in rows.zip(image.chunks_exact(frame.width as usize * source)) {
        let targets = row.chunks_exact_mut(target).skip(frame.left as usize);
        for (place, pixel) in targets.zip(stored.chunks_exact(source)) {
            let copied = source.min(target);
            place[..copied].copy_from_slice(&pixel[..copied]);
            place[copied..].fill(255);
        }
    }
    let pixels = if has_alpha { Pixels::Rgba(canvas) } else { Pixels::Rgb { samples: canvas, key: None } };
    Ok(Bitmap { width, height, pixels })
}

/// The fragment with the hint that it has alpha, should it be lossless and lack it: the flag of the file decides.
fn with_alpha(fragment: &[u8]) -> Cow<'_, [u8]> {
    let mut fragment = Cow::Borrowed(fragment);
    // The hint is a bit of the header after the signature and the sizes.
    if fragment.starts_with(b"VP8L") && fragment.get(12).is_some_and(|byte| byte & 0x10 == 0) {
        fragment.to_mut()[12] |= 0x10;
    }
    fragment
}
