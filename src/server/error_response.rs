//! From a [`CaptionError`] to the client's response, on either transport.
//!
//! [`StatusCodes`] is the table from an [`ErrorCode`] to its gRPC and HTTP status. A failure is written as
//! `{"error": ...}` with its headers, or as a gRPC status with google.rpc details. It is logged here once, with causes.

use std::{collections::HashMap, error::Error, time::Duration};

use axum::{body::Body, response::Response};
use http::{HeaderValue, StatusCode, header};
use prost::Message;
use serde::Serialize;
use tonic::{Code, Status, metadata::MetadataValue};
use tonic_types::{ErrorDetails, StatusExt};
use tracing::{debug, error, info};
use utoipa::ToSchema;

use crate::{
    error::{CaptionError, ErrorCode},
    server::{
        middleware::context::{Failure, RequestContext, Transport},
        routes::RouteClass,
    },
};

/// `domain` of google.rpc.ErrorInfo.
const ERROR_DOMAIN: &str = "blip-serve";

/// Longest text of an error, in bytes: gRPC sends it in a header, which clients limit to 8 KiB and less.
const MAX_TEXT_BYTES: usize = 1024;

/// When to retry while the server is loading or shutting down.
const UNAVAILABLE_RETRY: Duration = Duration::from_secs(1);

/// The status of a failure on each transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StatusCodes {
    pub(crate) grpc: Code,
    pub(crate) http: StatusCode,
}

impl From<ErrorCode> for StatusCodes {
    fn from(code: ErrorCode) -> Self {
        // 499 is nginx's "client closed request"; the client that would read it has disconnected.
        let client_closed = StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST);
        let (grpc, http) = match code {
            ErrorCode::InvalidArgument => (Code::InvalidArgument, StatusCode::BAD_REQUEST),
            // As gRPC itself answers oversize messages.
            ErrorCode::TooLarge => (Code::ResourceExhausted, StatusCode::PAYLOAD_TOO_LARGE),
            ErrorCode::NotFound => (Code::NotFound, StatusCode::NOT_FOUND),
            ErrorCode::MethodNotAllowed => (Code::Unimplemented, StatusCode::METHOD_NOT_ALLOWED),
            ErrorCode::Unimplemented => (Code::Unimplemented, StatusCode::NOT_IMPLEMENTED),
            ErrorCode::UnsupportedMediaType => (Code::InvalidArgument, StatusCode::UNSUPPORTED_MEDIA_TYPE),
            ErrorCode::Unauthenticated => (Code::Unauthenticated, StatusCode::UNAUTHORIZED),
            ErrorCode::Forbidden => (Code::PermissionDenied, StatusCode::FORBIDDEN),
            ErrorCode::Overloaded => (Code::ResourceExhausted, StatusCode::TOO_MANY_REQUESTS),
            ErrorCode::DeadlineExceeded => (Code::DeadlineExceeded, StatusCode::GATEWAY_TIMEOUT),
            ErrorCode::Cancelled => (Code::Cancelled, client_closed),
            ErrorCode::Unavailable => (Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE),
            ErrorCode::Internal => (Code::Internal, StatusCode::INTERNAL_SERVER_ERROR),
        };
        Self { grpc, http }
    }
}

/// The body of every failure.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Error)]
pub(crate) struct ErrorBody {
    /// What is wrong, beginning with the field if there is one.
    #[schema(example = "num_beams: must be at least 1, got 0")]
    pub(crate) error: String,
    /// The same as the header `x-request-id`.
    pub(crate) request_id: String,
}

impl RequestContext {
    /// The response to a failed request, in the form of its transport. Logs the failure.
    pub(crate) fn response(&self, error: &CaptionError) -> Response {
        match self.transport {
            Transport::Grpc => self.status(error).into_http(),
            Transport::Rest => self.json_error(error),
        }
    }

    /// The gRPC status of a failed request. Logs the failure.
    pub(crate) fn status(&self, error: &CaptionError) -> Status {
        self.log(error);
        let code = StatusCodes::from(error.code()).grpc;
        let mut status = Status::with_error_details(code, public_text(error), self.details(error));
        if let Some(delay) = retry_after(error) {
            // The key that gRPC's own retry policies read.
            status.metadata_mut().insert("grpc-retry-pushback-ms", MetadataValue::from(delay.as_millis() as u64));
        }
        status
    }

    /// The body of a failure inside a stream of events. Logs the failure.
    pub(crate) fn error_body(&self, error: &CaptionError) -> ErrorBody {
        self.log(error);
        self.body(error)
    }

    /// The body of a failure that is logged elsewhere.
    pub(crate) fn body(&self, error: &CaptionError) -> ErrorBody {
        ErrorBody { error: public_text(error), request_id: self.request_id.to_string() }
    }

    fn json_error(&self, error: &CaptionError) -> Response {
        self.log(error);
        let status = StatusCodes::from(error.code()).http;
        let mut response = json_response(status, &self.body(error));
        if let Some(delay) = retry_after(error) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(delay)));
        }
        if matches!(error, CaptionError::Unauthenticated) {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if matches!(error, CaptionError::UnsupportedMediaType(_)) {
            response.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate"));
        }
        response
    }

    /// The gRPC status of one request of a stream, as a message. Logs the failure.
    pub(crate) fn status_message(&self, error: &CaptionError) -> tonic_types::Status {
        let status = self.status(error);
        tonic_types::Status::decode(status.details()).unwrap_or_else(|_| tonic_types::Status {
            code: status.code().into(),
            message: status.message().to_owned(),
            details: vec![],
        })
    }

    fn details(&self, error: &CaptionError) -> ErrorDetails {
        let mut details = ErrorDetails::new();
        details.set_error_info(reason(error), ERROR_DOMAIN, HashMap::new());
        details.set_request_info(&*self.request_id, "");
        if let Some(field) = error.field() {
            details.add_bad_request_violation(shorten(field, MAX_TEXT_BYTES), public_text(error));
        }
        if let Some(delay) = retry_after(error) {
            details.set_retry_info(Some(delay));
        }
        details
    }

    fn log(&self, error: &CaptionError) {
        self.record.set_failure(Failure { code: error.code(), reason: reason(error) });
        // As texts: a line break that a client sent must not start a line of the log.
        let (text, causes) = (public_text(error), causes(error));
        if StatusCodes::from(error.code()).http.is_server_error() && !is_expected(error) {
            error!(error = text, causes, "request failed");
        } else if self.route.class == RouteClass::Public {
            // Probes come every few seconds while the server is not ready.
            debug!(error = text, causes, "request refused");
        } else {
            info!(error = text, causes, "request refused");
        }
    }
}

/// A JSON response.
pub(crate) fn json_response(status: StatusCode, body: &impl Serialize) -> Response {
    let mut response = Response::new(Body::from(to_json(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The text of a JSON response.
pub(crate) fn to_json(body: &impl Serialize) -> Vec<u8> {
    // Response bodies consist of strings and numbers, which always serialise.
    serde_json::to_vec(body).unwrap_or_default()
}

/// `text` cut at a character boundary to at most `limit` bytes, an ellipsis not counted.
pub(crate) fn shorten(text: &str, limit: usize) -> String {
    if text.len() <= limit { text.to_owned() } else { format!("{}...", &text[..text.floor_char_boundary(limit)]) }
}

fn public_text(error: &CaptionError) -> String {
    shorten(&error.to_string(), MAX_TEXT_BYTES)
}

fn retry_after(error: &CaptionError) -> Option<Duration> {
    match error {
        CaptionError::Overloaded { retry_after, .. } | CaptionError::RateLimited { retry_after } => Some(*retry_after),
        CaptionError::Unavailable(_) => Some(UNAVAILABLE_RETRY),
        _ => None,
    }
}

fn whole_seconds(delay: Duration) -> u64 {
    delay.as_secs() + u64::from(delay.subsec_nanos() > 0)
}

/// A shutdown, a deadline and an unknown method are not faults of the server, though their status is 5xx.
fn is_expected(error: &CaptionError) -> bool {
    use CaptionError::{DeadlineExceeded, Unavailable, Unimplemented};
    matches!(error, DeadlineExceeded | Unavailable(_) | Unimplemented(_))
}

fn causes(error: &CaptionError) -> String {
    let label = if let CaptionError::ImageUrl { reason, .. } = error { vec![(*reason).to_owned()] } else { vec![] };
    let chain = std::iter::successors(error.source(), |cause| (*cause).source()).map(ToString::to_string);
    label.into_iter().chain(chain).collect::<Vec<_>>().join(": ")
}

/// `reason` of google.rpc.ErrorInfo: a stable name that programs can compare.
pub(crate) fn reason(error: &CaptionError) -> &'static str {
    match error {
        CaptionError::InvalidArgument { .. } => "INVALID_ARGUMENT",
        CaptionError::ImageUrl { .. } => "IMAGE_URL_REFUSED",
        CaptionError::BodyTooLarge { .. } => "BODY_TOO_LARGE",
        CaptionError::UnknownModel { .. } => "UNKNOWN_MODEL",
        CaptionError::UnknownVersion { .. } => "UNKNOWN_VERSION",
        CaptionError::NotFound => "NOT_FOUND",
        CaptionError::MethodNotAllowed => "METHOD_NOT_ALLOWED",
        CaptionError::Unimplemented(_) => "UNIMPLEMENTED",
        CaptionError::UnsupportedMediaType(_) => "UNSUPPORTED_MEDIA_TYPE",
        CaptionError::Unauthenticated => "UNAUTHENTICATED",
        CaptionError::Overloaded { .. } => "OVERLOADED",
        CaptionError::RateLimited { .. } => "RATE_LIMITED",
        CaptionError::Forbidden(_) => "FORBIDDEN",
        CaptionError::DeadlineExceeded => "DEADLINE_EXCEEDED",
        CaptionError::Cancelled => "CANCELLED",
        CaptionError::Unavailable(_) => "UNAVAILABLE",
        CaptionError::Internal(_) => "INTERNAL",
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn grpc() -> RequestContext {
        let request = Request::builder().header("content-type", "application/grpc").header("x-request-id", "r1");
        RequestContext::for_request(&request.body(()).unwrap())
    }

    #[test]
    fn an_internal_error_hides_its_cause_and_names_the_request() {
        let error = CaptionError::internal("secret path /etc/x");
        let status = grpc().status(&error);
        assert_eq!(status.message(), "internal error");
        assert_eq!(status.get_error_details().request_info().unwrap().request_id, "r1");
        assert!(!format!("{status:?}").contains("secret"));
        assert_eq!(causes(&error), "secret path /etc/x");
    }

    #[test]
    fn every_error_has_its_status_on_both_transports() {
        for (error, grpc, http) in [
            (CaptionError::invalid("f", "x"), Code::InvalidArgument, 400),
            (CaptionError::BodyTooLarge { limit: 1 }, Code::ResourceExhausted, 413),
            (CaptionError::NotFound, Code::NotFound, 404),
            (CaptionError::MethodNotAllowed, Code::Unimplemented, 405),
            (CaptionError::Unimplemented("m".to_owned()), Code::Unimplemented, 501),
            (CaptionError::UnsupportedMediaType("x"), Code::InvalidArgument, 415),
            (CaptionError::Unauthenticated, Code::Unauthenticated, 401),
            (CaptionError::Forbidden("x"), Code::PermissionDenied, 403),
            (CaptionError::RateLimited { retry_after: Duration::ZERO }, Code::ResourceExhausted, 429),
            (CaptionError::DeadlineExceeded, Code::DeadlineExceeded, 504),
            (CaptionError::Cancelled, Code::Cancelled, 499),
            (CaptionError::Unavailable("x"), Code::Unavailable, 503),
            (CaptionError::internal("x"), Code::Internal, 500),
        ] {
            let codes = StatusCodes::from(error.code());
            assert_eq!((codes.grpc, codes.http.as_u16()), (grpc, http), "{error:?}");
        }
    }

    #[test]
    fn a_wrong_field_is_a_violation() {
        let status = grpc().status(&CaptionError::invalid("num_beams", "must be at least 1, got 0"));
        let details = status.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "num_beams");
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
    }

    #[test]
    fn overload_says_when_to_retry() {
        let error = CaptionError::Overloaded { bound: "queue_capacity", retry_after: Duration::from_millis(1500) };
        let rest = RequestContext { transport: Transport::Rest, ..grpc() }.response(&error);
        assert_eq!((rest.status().as_u16(), &rest.headers()["retry-after"]), (429, &HeaderValue::from(2)));
        let delay = grpc().status(&error).get_error_details().retry_info().unwrap().retry_delay;
        assert_eq!(delay, Some(Duration::from_millis(1500)));
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        assert_eq!(shorten("äöü", 3), "ä...");
        assert_eq!(shorten("abc", 3), "abc");
        let status = grpc().status(&CaptionError::invalid("f", "é".repeat(1_000_000)));
        assert!(status.message().len() < MAX_TEXT_BYTES + 8);
    }
}
