//! From wire formats to the types of `caption` and back. Each request is checked once, here; its form is then valid.
//!
//! `image` and `parameters` are shared by all protocols, `json` by those that have JSON. `caption_json` has the bodies of
//! one image with named fields, `blip_v1` the messages of `blip.v1`, `open_inference` the tensors of the Open Inference
//! Protocol, and `pb` the generated messages.

pub(crate) mod blip_v1;
pub(crate) mod caption_json;
pub(crate) mod image;
pub(crate) mod json;
pub(crate) mod open_inference;
pub(crate) mod parameters;
pub(crate) mod pb;

use tokio_util::sync::CancellationToken;

use crate::{
    caption::{CaptionRequest, ImageSource, Prompt},
    config::ServerConfig,
    error::CaptionError,
    server::{error_response::shorten, middleware::deadline::Deadline},
};
use generation::GenerationParameters;

/// Bytes of a client's text that an error repeats.
const MAX_ECHO_BYTES: usize = 64;

/// Bounds of a request's content.
#[allow(clippy::struct_field_names, reason = "the names of the settings")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct ContentLimits {
    /// Bytes of one image file.
    pub(crate) max_image_bytes: usize,
    /// Images of one request.
    pub(crate) max_images: usize,
    /// Bytes of a prompt.
    pub(crate) max_prompt_bytes: usize,
}

impl ContentLimits {
    /// From the settings.
    pub(crate) fn new(config: &ServerConfig) -> Self {
        Self {
            max_image_bytes: config.max_image_bytes,
            max_images: config.limits.max_images as usize,
            max_prompt_bytes: config.limits.max_prompt_bytes,
        }
    }
}

/// A request for a caption of `image` with defaults for everything else.
pub(crate) fn new_request(image: ImageSource, deadline: Deadline) -> CaptionRequest {
    CaptionRequest {
        model: None,
        version: None,
        image,
        prompt: None,
        parameters: GenerationParameters::default(),
        deadline: Some(deadline.at),
        caller: deadline.caller,
        cancelled: CancellationToken::new(),
    }
}

/// A prompt from a request; an empty one is the same as none. `field` is the client's name for it.
pub(crate) fn prompt(
    field: &'static str,
    text: Option<&str>,
    limits: ContentLimits,
) -> Result<Option<Prompt>, CaptionError> {
    let text = text.unwrap_or_default();
    if text.len() > limits.max_prompt_bytes {
        let reason = format!("must be at most {} bytes, got {}", limits.max_prompt_bytes, text.len());
        return Err(CaptionError::invalid(field, reason));
    }
    Ok((!text.is_empty()).then(|| Prompt { text: text.to_owned(), field }))
}

/// A text of the client, shortened for an error.
pub(crate) fn echo(name: &str) -> String {
    shorten(name, MAX_ECHO_BYTES)
}
