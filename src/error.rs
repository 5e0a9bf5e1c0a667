//! The errors of a request.
//!
//! An error has two readers. The client reads its `Display`: the field, what is wrong and what is allowed, but never an
//! address, a path or the text of a library. The operator reads the log, which gets the cause (`source`), once, when the
//! response is written.
//!
//! Errors arise in three places: where a request is parsed and validated ([`CaptionError::InvalidArgument`] and the
//! variants around it), where it is admitted (overload, rate limits, deadlines), and where it runs (a cancelled, failed or
//! unavailable model). Code below the server returns them unchanged and does not wrap them.
//!
//! What this module does not decide is the status: each error has an [`ErrorCode`], and `server/error_response` maps the
//! code to gRPC and HTTP. So this module does not depend on a transport.

use std::{borrow::Cow, time::Duration};

use thiserror::Error;

use generation::InvalidParameter;
use image_processor::DecodeError;

/// The answer to an image URL that could not be used, whatever the reason: a client must not be able to probe the
/// server's network.
pub const IMAGE_URL_REFUSED: &str = "the image could not be fetched from this URL";

/// A cause for the log.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a request got no caption.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CaptionError {
    /// A field of the request is missing, malformed or out of bounds.
    #[error("{field}: {reason}")]
    InvalidArgument {
        /// Name of the field as the client sent it, e.g. `num_beams` or `inputs[0].shape`.
        field: Cow<'static, str>,
        /// What is wrong and what is allowed, with the value.
        reason: String,
    },
    /// The image URL was refused, unresolvable, unreachable, too slow, too large or not an image.
    #[error("img_url: {IMAGE_URL_REFUSED}")]
    ImageUrl {
        /// Label for the metric and the log: "private_address", "timeout", "status", ...
        reason: &'static str,
        /// The cause, for the log.
        #[source]
        source: Option<Cause>,
    },
    /// The request's body is above `max_body_bytes`.
    #[error("request body is larger than {limit} bytes")]
    BodyTooLarge {
        /// The setting `max_body_bytes`.
        limit: u64,
    },
    /// No such model.
    #[error("Request for unknown model: '{name}' is not found")]
    UnknownModel {
        /// Name in the request, shortened.
        name: String,
    },
    /// The model has no such version.
    #[error("Request for unknown model: '{name}' version {version} is not found")]
    UnknownVersion {
        /// Name in the request.
        name: String,
        /// Version in the request.
        version: String,
    },
    /// There is no such route or method.
    #[error("Not Found")]
    NotFound,
    /// The route exists, but not for this HTTP method.
    #[error("Method Not Allowed")]
    MethodNotAllowed,
    /// The method is part of the protocol, but not implemented.
    #[error("{0} is not implemented")]
    Unimplemented(String),
    /// A media type or encoding that the server does not support.
    #[error("{0}")]
    UnsupportedMediaType(&'static str),
    /// The request has no valid API key.
    #[error("a valid API key is required: send 'authorization: Bearer <key>'")]
    Unauthenticated,
    /// A limit of concurrent work is reached.
    #[error("the server is at its capacity ({bound}), try again later")]
    Overloaded {
        /// The setting that is the limit.
        bound: &'static str,
        /// When to retry.
        retry_after: Duration,
    },
    /// The API key has reached its rate limit.
    #[error("the rate limit of this API key is reached, try again later")]
    RateLimited {
        /// When the next request is accepted.
        retry_after: Duration,
    },
    /// The client may not do this.
    #[error("{0}")]
    Forbidden(&'static str),
    /// The deadline of the request passed.
    #[error("deadline exceeded")]
    DeadlineExceeded,
    /// The client disconnected or cancelled the request.
    #[error("the request was cancelled")]
    Cancelled,
    /// The model is loading, or the server is shutting down.
    #[error("{0}")]
    Unavailable(&'static str),
    /// A failure of the server. The client gets the request id only.
    #[error("internal error")]
    Internal(#[source] Cause),
}

/// The class of an error. Its status on each transport is in `server/error_response`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// The request is not valid.
    InvalidArgument,
    /// The request body is too large.
    TooLarge,
    /// A model, route or method does not exist.
    NotFound,
    /// The route does not have this HTTP method.
    MethodNotAllowed,
    /// The method is not implemented.
    Unimplemented,
    /// The media type or encoding is not supported.
    UnsupportedMediaType,
    /// A valid API key is required.
    Unauthenticated,
    /// The client may not do this.
    Forbidden,
    /// A limit of concurrent work or of a rate is reached.
    Overloaded,
    /// The deadline passed.
    DeadlineExceeded,
    /// The client disconnected or cancelled.
    Cancelled,
    /// The model is loading, or the server is shutting down.
    Unavailable,
    /// The server failed.
    Internal,
}

impl CaptionError {
    /// A field that is not valid.
    pub fn invalid(field: impl Into<Cow<'static, str>>, reason: impl Into<String>) -> Self {
        Self::InvalidArgument { field: field.into(), reason: reason.into() }
    }

    /// An internal error with its cause for the log.
    pub fn internal(source: impl Into<Cause>) -> Self {
        Self::Internal(source.into())
    }

    /// An image that cannot be decoded, from the request field `field`.
    pub fn image(field: impl Into<Cow<'static, str>>, error: &DecodeError) -> Self {
        Self::invalid(field, error.to_string())
    }

    /// The class of this error.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::InvalidArgument { .. } | Self::ImageUrl { .. } => ErrorCode::InvalidArgument,
            Self::BodyTooLarge { .. } => ErrorCode::TooLarge,
            Self::UnknownModel { .. } | Self::UnknownVersion { .. } | Self::NotFound => ErrorCode::NotFound,
            Self::MethodNotAllowed => ErrorCode::MethodNotAllowed,
            Self::Unimplemented(_) => ErrorCode::Unimplemented,
            Self::UnsupportedMediaType(_) => ErrorCode::UnsupportedMediaType,
            Self::Unauthenticated => ErrorCode::Unauthenticated,
            Self::Overloaded { .. } | Self::RateLimited { .. } => ErrorCode::Overloaded,
            Self::Forbidden(_) => ErrorCode::Forbidden,
            Self::DeadlineExceeded => ErrorCode::DeadlineExceeded,
            Self::Cancelled => ErrorCode::Cancelled,
            Self::Unavailable(_) => ErrorCode::Unavailable,
            Self::Internal(_) => ErrorCode::Internal,
        }
    }

    /// The request field that is not valid, if the error is about one.
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::InvalidArgument { field, .. } => Some(field),
            Self::ImageUrl { .. } => Some("img_url"),
            _ => None,
        }
    }
}

impl From<InvalidParameter> for CaptionError {
    fn from(error: InvalidParameter) -> Self {
        Self::invalid(error.field, error.reason)
    }
}
