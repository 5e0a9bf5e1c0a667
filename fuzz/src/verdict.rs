//! What must hold for an accepted request, and for a refusal.

use blip_serve::{
    caption::{CaptionRequest, ImageSource},
    error::{CaptionError, ErrorCode},
    server::fuzzing::{MAX_IMAGE_BYTES, refusal},
};
use generation::{GenerationConfig, GenerationLimits};

/// Images in one request, at most.
const MAX_IMAGES: usize = 32;
/// Bytes of a prompt, at most.
const MAX_PROMPT_BYTES: usize = 16_384;
/// Bytes of an error's text, at most: gRPC sends it in a header.
const MAX_TEXT_BYTES: usize = 1024 + "...".len();

/// Checks the outcome of a request for several images.
pub fn many(outcome: &Result<Vec<CaptionRequest>, CaptionError>) {
    match outcome {
        Ok(requests) => {
            assert!((1..=MAX_IMAGES).contains(&requests.len()), "{} images", requests.len());
            requests.iter().for_each(accepted);
        }
        Err(error) => refused(error),
    }
}

/// Checks the outcome of a request for one image.
pub fn one(outcome: &Result<CaptionRequest, CaptionError>) {
    match outcome {
        Ok(request) => accepted(request),
        Err(error) => refused(error),
    }
}

/// Checks where an image comes from.
pub fn image(source: &ImageSource) {
    match source {
        ImageSource::Bytes { bytes, .. } => assert!((1..=MAX_IMAGE_BYTES).contains(&bytes.len())),
        ImageSource::Url(url) => assert!(matches!(url.scheme(), "http" | "https") && url.has_host()),
    }
}

/// Checks a refusal: it is the client's mistake, and its text is short.
pub fn refused(error: &CaptionError) {
    assert_eq!(error.code(), ErrorCode::InvalidArgument, "{error:?}");
    let (status, text) = refusal(error);
    assert_eq!(status, 400);
    assert!(!text.is_empty() && text.len() <= MAX_TEXT_BYTES, "{text}");
}

/// Checks one request in several forms: all are accepted and mean the same, or all are refused.
pub fn alike(outcomes: &[Result<Vec<CaptionRequest>, CaptionError>]) {
    let meaning = |outcome: &Result<Vec<CaptionRequest>, CaptionError>| {
        let meaning =
            |request: &CaptionRequest| format!("{:?} {:?} {:?}", request.image, request.prompt, request.parameters);
        outcome.as_ref().ok().map(|requests| requests.iter().map(meaning).collect::<Vec<_>>())
    };
    for pair in outcomes.windows(2) {
        assert_eq!(
            meaning(&pair[0]),
            meaning(&pair[1]),
            "{:?}",
            pair.iter().map(|o| o.as_ref().err()).collect::<Vec<_>>()
        );
    }
}

fn accepted(request: &CaptionRequest) {
    image(&request.image);
    if let Some(prompt) = &request.prompt {
        assert!((1..=MAX_PROMPT_BYTES).contains(&prompt.text.len()));
    }
    // The bounds, too: the parsers check types only.
    match GenerationConfig::new(&request.parameters, &GenerationLimits::default()) {
        Ok(config) => assert!(config.max_length(1, 512).is_ok_and(|length| (2..=513).contains(&length))),
        Err(error) => refused(&error.into()),
    }
}
