//! The orientation of a TIFF, as Pillow finds it: in its tag, or else in the XMP packet.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage as Buffer};
use tiff::decoder::Decoder;
use tiff::decoder::ifd::Value;
use tiff::tags::Tag;

use crate::rgb_image::RgbImage;

const XMP: Tag = Tag::Unknown(700);
/// What precedes the orientation in XMP.
const XMP_ORIENTATION: &[u8] = b"tiff:Orientation";

/// Reads the orientation; one that is not valid leaves the image as it is.
pub(super) fn read(tags: &mut Decoder<Cursor<&[u8]>>) -> Orientation {
    let tag = tags.find_tag_unsigned::<u16>(Tag::Orientation).unwrap_or(Some(1));
    let value = tag.and_then(|value| u8::try_from(value).ok()).or_else(|| {
        if tag.is_some() {
            None
        } else {
            tags.get_tag(XMP).and_then(Value::into_u8_vec).ok().and_then(|xmp| in_xmp(&xmp))
        }
    });
    value.and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms)
}

fn in_xmp(xmp: &[u8]) -> Option<u8> {
    xmp.windows(XMP_ORIENTATION.len()).enumerate().filter(|(_, window)| *window == XMP_ORIENTATION).find_map(
        |(at, _)| {
            let rest = &xmp[at + XMP_ORIENTATION.len()..];
            let digit = *rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"))?.first()?;
            digit.is_ascii_digit().then(|| digit - b'0')
        },
    )
}

/// Turns and mirrors an image.
pub(super) fn apply(image: RgbImage, orientation: Orientation) -> Option<RgbImage> {
    let mut turned = DynamicImage::ImageRgb8(Buffer::from_raw(image.width, image.height, image.data)?);
    turned.apply_orientation(orientation);
    Some(RgbImage { width: turned.width(), height: turned.height(), data: turned.into_bytes() })
}
