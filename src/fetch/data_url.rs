//! `data:` URLs, which contain the image, and lenient base64.

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;

use crate::error::CaptionError;

/// Accepts missing padding and ignores the unused bits of the last character: encoders differ in both.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Whether `text` is a `data:` URL, well-formed or not.
pub(crate) fn is_data_url(text: &str) -> bool {
    text.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"))
}

/// Decodes `data:[mediatype][;base64],data` to at least one and at most `limit` bytes. The media type is ignored, since
/// the format of an image is recognised by its content.
pub(crate) fn decode_data_url(text: &str, limit: usize) -> Result<Bytes, CaptionError> {
    let content = text.get(5..).filter(|_| is_data_url(text));
    let bytes = content.and_then(|content| decode(content, limit));
    bytes.ok_or(CaptionError::ImageUrl { reason: "data_url", source: None })
}

/// Decodes base64; line breaks and other white space are skipped, as tools wrap their lines.
pub(crate) fn decode_base64(text: &[u8]) -> Option<Bytes> {
    let decoded = if text.iter().any(u8::is_ascii_whitespace) {
        BASE64.decode(text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect::<Vec<u8>>())
    } else {
        BASE64.decode(text)
    };
    decoded.ok().map(Bytes::from)
}

/// A lower bound of the number of bytes that `length` characters of base64 decode to.
pub(crate) fn least_decoded_length(length: usize) -> usize {
    (length / 4 * 3).saturating_sub(2)
}

fn decode(content: &str, limit: usize) -> Option<Bytes> {
    let (head, data) = content.split_once(',')?;
    let is_base64 = head.rsplit_once(';').is_some_and(|(_, last)| last.trim_ascii().eq_ignore_ascii_case("base64"));
    // Percent escapes only shrink: three characters become one byte.
    let unescaped_length = data.len() / 3;
    let least_length = if is_base64 { least_decoded_length(unescaped_length) } else { unescaped_length };
    if least_length > limit {
        return None;
    }
    let unescaped: Vec<u8> = percent_encoding::percent_decode_str(data).collect();
    let bytes = if is_base64 { decode_base64(&unescaped)? } else { unescaped.into() };
    (!bytes.is_empty() && bytes.len() <= limit).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_decoded() {
        for (uri, expected) in [
            ("data:image/png;base64,aGVsbG8=", "hello"),
            ("data:;base64,aGVsbG8", "hello"),
            ("DATA:image/png;charset=x;BASE64,aGVs%0AbG8%3D", "hello"),
            ("data:,hello", "hello"),
            ("data:image/gif,%68ell%6F", "hello"),
            ("data:,0123456789", "0123456789"),
        ] {
            assert_eq!(decode_data_url(uri, 10).unwrap(), expected, "{uri}");
        }
    }

    #[test]
    fn the_limit_holds_to_the_byte() {
        for length in [1, 2, 3, 4, 299, 300, 301] {
            let image = vec![b'x'; length];
            for uri in [format!("data:,{}", "x".repeat(length)), format!("data:;base64,{}", BASE64.encode(&image))] {
                assert_eq!(decode_data_url(&uri, length).unwrap(), image, "{uri}");
                assert!(decode_data_url(&uri, length - 1).is_err(), "{uri}");
            }
            assert!(least_decoded_length(BASE64.encode(&image).len()) <= length);
        }
    }

    #[test]
    fn malformed_empty_and_too_large_urls_are_refused() {
        for uri in [
            "data",
            "data:",
            "http://x/,",
            "data:image/png;base64",
            "data:;base64,****",
            "data:,",
            "data:,0123456789a",
            "data:;base64,MDEyMzQ1Njc4OWE=",
        ] {
            assert!(decode_data_url(uri, 10).is_err(), "{uri}");
        }
        assert!(decode_data_url(&format!("data:,{}", "x".repeat(1000)), 10).is_err());
    }
}
