//! An image as a request gives it: a URL, a `data:` URI, base64 or bytes.
//!
//! Only the form is checked here: the decoder checks the bytes, and the fetcher checks the address of a URL.

use bytes::Bytes;
use url::Url;

use crate::{
    caption::ImageSource,
    error::CaptionError,
    fetch::{decode_base64, decode_data_url, is_data_url, least_decoded_length},
    server::protocol::ContentLimits,
};

/// Longest URL in bytes; `data:` URIs are bounded by the size of the image instead.
const MAX_URL_BYTES: usize = 8192;

/// The image at an http, https or data: URL.
pub(crate) fn from_url(text: &str, limits: ContentLimits) -> Result<ImageSource, CaptionError> {
    let text = text.trim_ascii();
    if is_data_url(text) {
        let bytes = decode_data_url(text, limits.max_image_bytes)?;
        return Ok(ImageSource::Bytes { bytes, field: "img_url" });
    }
    if text.len() > MAX_URL_BYTES {
        return Err(refused("url_length"));
    }
    let url = Url::parse(text)
        .map_err(|error| CaptionError::ImageUrl { reason: "url_syntax", source: Some(error.into()) })?;
    match url.scheme() {
        "http" | "https" => Ok(ImageSource::Url(url)),
        _ => Err(refused("scheme")),
    }
}

/// The image in the base64 of a file.
pub(crate) fn from_base64(text: &str, limits: ContentLimits) -> Result<ImageSource, CaptionError> {
    if least_decoded_length(text.len()) > limits.max_image_bytes {
        // Line breaks count here, so a file just within the limit must be sent without them.
        return Err(too_large(limits));
    }
    let bytes = decode_base64(text.as_bytes()).ok_or_else(|| CaptionError::invalid("image", "is not valid base64"))?;
    from_bytes(bytes, limits)
}

/// The image that is given in one of two ways.
pub(crate) fn from_either<F>(
    url: Option<String>,
    file: Option<F>,
    from_file: impl FnOnce(F) -> Result<ImageSource, CaptionError>,
    limits: ContentLimits,
) -> Result<ImageSource, CaptionError> {
    match (url, file) {
        (Some(url), None) => from_url(&url, limits),
        (None, Some(file)) => from_file(file),
        (None, None) => Err(CaptionError::invalid("image", "one of image_url and image is required")),
        (Some(_), Some(_)) => Err(CaptionError::invalid("image", "only one of image_url and image can be given")),
    }
}

/// The image in the bytes of a file.
pub(crate) fn from_bytes(bytes: Bytes, limits: ContentLimits) -> Result<ImageSource, CaptionError> {
    if bytes.is_empty() {
        return Err(CaptionError::invalid("image", "is empty"));
    }
    if bytes.len() > limits.max_image_bytes {
        return Err(too_large(limits));
    }
    Ok(ImageSource::Bytes { bytes, field: "image" })
}

fn refused(reason: &'static str) -> CaptionError {
    CaptionError::ImageUrl { reason, source: None }
}

fn too_large(limits: ContentLimits) -> CaptionError {
    CaptionError::invalid("image", format!("is larger than the limit of {} bytes", limits.max_image_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ContentLimits = ContentLimits { max_image_bytes: 10, max_images: 1, max_prompt_bytes: 10 };

    fn bytes(source: Result<ImageSource, CaptionError>) -> Result<Bytes, String> {
        match source {
            Ok(ImageSource::Bytes { bytes, .. }) => Ok(bytes),
            Ok(ImageSource::Url(url)) => Err(format!("a URL: {url}")),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn a_data_url_is_decoded_here() {
        assert_eq!(bytes(from_url(" data:image/png;base64,aGVsbG8=\n", LIMITS)).unwrap(), "hello");
    }

    #[test]
    fn every_bad_url_gets_the_same_sentence() {
        let sentence = CaptionError::ImageUrl { reason: "", source: None }.to_string();
        let long = format!("http://example.com/{}", "x".repeat(MAX_URL_BYTES));
        let bad = [
            "",
            "cat.png",
            "ftp://example.com/a",
            "file:///etc/passwd",
            "http://",
            "data:",
            "data:image/png;base64",
            "data:;base64,****",
            "data:,",
            "data:,0123456789a",
            "data:;base64,MDEyMzQ1Njc4OWE=",
            &long,
        ];
        for url in bad {
            assert_eq!(bytes(from_url(url, LIMITS)).unwrap_err(), sentence, "{url}");
        }
    }

    #[test]
    fn a_web_address_is_not_fetched_here() {
        let source = from_url("HTTPS://Example.com/a b", LIMITS).unwrap();
        assert!(matches!(source, ImageSource::Url(url) if url.as_str() == "https://example.com/a%20b"));
    }

    #[test]
    fn base64_may_be_wrapped_and_is_bounded() {
        assert_eq!(bytes(from_base64("aGVs\r\nbG8=\n", LIMITS)).unwrap(), "hello");
        assert_eq!(bytes(from_base64("aGVsbG8", LIMITS)).unwrap(), "hello");
        assert_eq!(bytes(from_base64("a?", LIMITS)).unwrap_err(), "image: is not valid base64");
        assert_eq!(bytes(from_base64("", LIMITS)).unwrap_err(), "image: is empty");
        let limit = "image: is larger than the limit of 10 bytes";
        assert_eq!(bytes(from_base64("MDEyMzQ1Njc4OWE=", LIMITS)).unwrap_err(), limit);
        assert_eq!(bytes(from_base64(&"AAAA".repeat(1000), LIMITS)).unwrap_err(), limit);
        assert_eq!(bytes(from_base64("MDEyMzQ1Njc4OQ==", LIMITS)).unwrap(), "0123456789");
    }
}
