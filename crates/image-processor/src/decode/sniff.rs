//! Finds the format of an image file by its first bytes, as Pillow's plugins do.
//!
//! Common formats that are not decoded here are refused by name.

use crate::error::DecodeError;

/// A format that is decoded here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Jpeg,
    Png,
    Gif,
    WebP,
    Bmp,
    Tiff,
}

/// The first bytes of formats that are known but not supported, and their names.
const UNSUPPORTED: [(&[u8], &str); 21] = [
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"8BPS", "PSD"),
    (b"\0\0\x01\0", "ICO"),
    (b"\0\0\x02\0", "CUR"),
    (b"icns", "ICNS"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"<svg", "SVG"),
    (b"<?xml", "SVG or XML"),
    (b"(\0\0\0", "DIB"),
    (b"DDS ", "DDS"),
    (b"qoif", "QOI"),
    (b"P1", "PBM"),
    (b"P4", "PBM"),
    (b"P5", "PGM"),
    (b"P6", "PPM"),
    (b"\x01\xda", "SGI"),
];

/// The format of a file.
pub(super) fn sniff(bytes: &[u8]) -> Result<Format, DecodeError> {
    if bytes.starts_with(b"\xff\xd8\xff") {
        Ok(Format::Jpeg)
    } else if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        Ok(Format::Png)
    } else if bytes.starts_with(b"GIF87a") || bytes.starts_with(b"GIF89a") {
        Ok(Format::Gif)
    } else if is_webp(bytes) {
        Ok(Format::WebP)
    } else if bytes.starts_with(b"BM") {
        Ok(Format::Bmp)
    } else if matches!(bytes.first_chunk(), Some(b"MM\0*" | b"II*\0" | b"MM\0+" | b"II+\0")) {
        Ok(Format::Tiff)
    } else {
        Err(unsupported(bytes))
    }
}

fn is_webp(bytes: &[u8]) -> bool {
    bytes.starts_with(b"RIFF")
        && bytes.get(8..12) == Some(b"WEBP")
        && matches!(bytes.get(12..16), Some(b"VP8 " | b"VP8X" | b"VP8L"))
}

fn unsupported(bytes: &[u8]) -> DecodeError {
    if bytes.get(4..8) == Some(b"ftyp") {
        return match bytes.get(8..12) {
            Some(b"avif" | b"avis") => DecodeError::Unsupported("AVIF"),
            Some(b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"mif1" | b"msf1") => {
                DecodeError::Unsupported("HEIC")
            }
            _ => DecodeError::UnknownFormat,
        };
    }
    UNSUPPORTED
        .iter()
        .find(|(magic, _)| bytes.starts_with(magic))
        .map_or(DecodeError::UnknownFormat, |(_, name)| DecodeError::Unsupported(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_formats_that_are_not_decoded() {
        let named: [(&[u8], &str); 5] = [
            (b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF is not supported"),
            (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC is not supported"),
            (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000 is not supported"),
            (b"<svg xmlns=", "SVG is not supported"),
            (b"%PDF-1.7", "PDF is not supported"),
        ];
        for (bytes, text) in named {
            assert_eq!(sniff(bytes).unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn refuses_what_is_not_an_image() {
        for bytes in
            [&b""[..], b"RIFF", b"RIFF\0\0\0\0WAVEfmt ", b"RIFF\0\0\0\0WEBPABCD", b"\0\0\0\x1cftypmp42", b"<html>"]
        {
            assert_eq!(sniff(bytes), Err(DecodeError::UnknownFormat), "{bytes:?}");
        }
    }
}
