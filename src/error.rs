//! Everything that can go wrong with a request, and the class of failure that decides its status.
//!
//! Both transports read [`CaptionError::code`]; `server/error_response.rs` gives each code its gRPC and HTTP status. `Display` is what the client sees: it names
//! the field and the bound, and never holds an address, a path or the text of a library. The cause is kept as `source`
//! and goes to the log once, at the edge.

use std::{borrow::Cow, time::Duration};

use thiserror::Error;

use generation::InvalidParameter;
use image_processor::DecodeError;

/// What an image URL that could not be used is answered with, whatever the reason: a client must not learn from us what
/// answers inside our network.
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
        /// Name of the field as the client wrote it, e.g. `num_beams` or `inputs[0].shape`.
        field: Cow<'static, str>,
        /// What is wrong, with bound and value.
        reason: String,
    },
    /// The image URL was refused, unresolvable, unreachable, too slow, too large or no image.
    #[error("img_url: {IMAGE_URL_REFUSED}")]
    ImageUrl {
        /// Short label for the counter and the log: "private_address", "timeout", "status", ...
        reason: &'static str,
        /// For the log.
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
        /// As the client wrote it, shortened.
        name: String,
    },
    /// The model has no such version.
    #[error("Request for unknown model: '{name}' version {version} is not found")]
    UnknownVersion {
        /// As the client wrote it.
        name: String,
        /// As the client wrote it.
        version: String,
    },
    /// No route or method of this name.
    #[error("Not Found")]
    NotFound,
    /// The route exists, for another HTTP method.
    #[error("Method Not Allowed")]
    MethodNotAllowed,
    /// The method is known and not offered.
    #[error("{0} is not implemented")]
    Unimplemented(String),
    /// A header or encoding that the server cannot read.
    #[error("{0}")]
    UnsupportedMediaType(&'static str),
    /// No valid API key.
    #[error("a valid API key is required: send 'authorization: Bearer <key>'")]
    Unauthenticated,
    /// All that a setting allows is taken; try again.
    #[error("the server is at its capacity ({bound}), try again later")]
    Overloaded {
        /// The setting.
        bound: &'static str,
        /// When to come back.
        retry_after: Duration,
    },
    /// The API key has used up its rate.
    #[error("the rate limit of this API key is reached, try again later")]
    RateLimited {
        /// When the next request is welcome.
        retry_after: Duration,
    },
    /// Known, and not for this client.
    #[error("{0}")]
    Forbidden(&'static str),
    /// The deadline of the request passed.
    #[error("deadline exceeded")]
    DeadlineExceeded,
    /// The client went away or cancelled.
    #[error("the request was cancelled")]
    Cancelled,
    /// The model is loading, or the server is shutting down.
    #[error("{0}")]
    Unavailable(&'static str),
    /// Our fault. The client is told nothing but the request id.
    #[error("internal error")]
    Internal(#[source] Cause),
}

/// The classes of failure: each has one gRPC code and one HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// INVALID_ARGUMENT, 400.
    InvalidArgument,
    /// RESOURCE_EXHAUSTED in gRPC, as gRPC itself answers oversize messages; 413.
    TooLarge,
    /// NOT_FOUND, 404.
    NotFound,
    /// UNIMPLEMENTED, 405.
    MethodNotAllowed,
    /// UNIMPLEMENTED, 501.
    Unimplemented,
    /// INVALID_ARGUMENT, 415.
    UnsupportedMediaType,
    /// UNAUTHENTICATED, 401.
    Unauthenticated,
    /// PERMISSION_DENIED, 403.
    Forbidden,
    /// RESOURCE_EXHAUSTED, 429.
    Overloaded,
    /// DEADLINE_EXCEEDED, 504.
    DeadlineExceeded,
    /// CANCELLED, 499.
    Cancelled,
    /// UNAVAILABLE, 503.
    Unavailable,
    /// INTERNAL, 500.
    Internal,
}

impl CaptionError {
    /// A request field that is wrong.
    pub fn invalid(field: impl Into<Cow<'static, str>>, reason: impl Into<String>) -> Self {
        Self::InvalidArgument { field: field.into(), reason: reason.into() }
    }

    /// An internal error with its cause for the log.
    pub fn internal(source: impl Into<Cause>) -> Self {
        Self::Internal(source.into())
    }

    /// An image that cannot be read; `field` is where the client put it.
    pub fn image(field: impl Into<Cow<'static, str>>, error: &DecodeError) -> Self {
        Self::invalid(field, error.to_string())
    }

    /// The class of this failure, which decides its status.
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

    /// The field the client should look at, if there is one.
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
