//! Transport <-> domain: every check of a request's form is made here, once; the rooms behind take what they get.
//!
//! `image` and `parameters` are shared by all surfaces. The Open Inference request is read by `oip` (JSON) or `grpc` into its
//! `form`, with `tensor` (elements), given meaning by `infer` and answered by `answer`; `describe` says what a model is. `typed` is
//! `blip.v1`, `friendly` the short JSON requests.

pub(crate) mod blip_v1;
pub(crate) mod caption_json;
pub(crate) mod image;
pub(crate) mod json;
pub(crate) mod open_inference;
pub(crate) mod parameters;
pub(crate) mod pb;

use crate::{caption::Prompt, config::ServerConfig, error::CaptionError, server::error_response::shorten};

/// Bytes of a client's name that an error repeats.
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

/// A prompt from the wire; an empty one is none. `field` is the client's name for it.
pub(crate) fn prompt(field: &'static str, text: &str, limits: ContentLimits) -> Result<Option<Prompt>, CaptionError> {
    if text.len() > limits.max_prompt_bytes {
        let reason = format!("must be at most {} bytes, got {}", limits.max_prompt_bytes, text.len());
        return Err(CaptionError::invalid(field, reason));
    }
    Ok((!text.is_empty()).then(|| Prompt { text: text.to_owned(), field }))
}

/// A client's name, shortened for an error.
pub(crate) fn echo(name: &str) -> String {
    shorten(name, MAX_ECHO_BYTES)
}
