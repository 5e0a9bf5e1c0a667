//! Deadlines: what the client requests (`x-request-timeout-ms` of REST, `grpc-timeout` of gRPC) within the server's limit.
//!
//! `grpc-timeout` is parsed here and not by tonic, which would answer CANCELLED instead of `DEADLINE_EXCEEDED`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{FromRequestParts, Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, HeaderName, HeaderValue, request::Parts};
use tokio::time::timeout_at;

use crate::{
    error::CaptionError,
    server::{
        health::SHUTTING_DOWN,
        middleware::{
            auth::caller_number,
            body::refuse,
            context::{RequestContext, Transport},
            layer_state::LayerState,
        },
        routes::RouteClass,
    },
};

const REST_HEADER: &str = "x-request-timeout-ms";
const GRPC_HEADER: &str = "grpc-timeout";
/// The header of REST, for the list of those that web pages may send.
pub(crate) const TIMEOUT_HEADER: HeaderName = HeaderName::from_static(REST_HEADER);

/// Limit of a request that needs no model: it needs no permit either, so it must be short.
const METADATA_TIMEOUT: Duration = Duration::from_secs(10);
/// Limit for loading a model.
const CONTROL_TIMEOUT: Duration = Duration::from_hours(1);

/// When the response must be complete, and the client's number; an extension set by [`enforce`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    pub(crate) at: Instant,
    /// Number of the client's key.
    pub(crate) caller: u64,
    /// When the client stops waiting, if it sent a timeout.
    requested: Option<Instant>,
    limit: Duration,
}

impl Deadline {
    /// The timeout that the client requested, within the server's limit.
    pub(crate) fn new(requested: Option<Duration>, limit: Duration, caller: u64) -> Self {
        let now = Instant::now();
        // A timeout beyond the range of the clock is no limit.
        let requested = requested.and_then(|timeout| now.checked_add(timeout));
        Self { at: now, caller, requested, limit }.renewed_at(now)
    }

    /// Returns the deadline of the next request of a stream: the server's whole limit, at most the end of the stream.
    pub(crate) fn renewed(self) -> Self {
        self.renewed_at(Instant::now())
    }

    fn renewed_at(self, now: Instant) -> Self {
        let at = now + self.limit;
        Self { at: self.requested.map_or(at, |requested| requested.min(at)), ..self }
    }
}

impl<S: Sync> FromRequestParts<S> for Deadline {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        let missing = || CaptionError::internal("the deadline layer did not run");
        let context = || RequestContext::from_extensions(&parts.extensions);
        parts.extensions.get::<Self>().copied().ok_or_else(|| context().response(&missing()))
    }
}

/// Sets the deadline of a request, and answers when it passes or when the grace period of a shutdown is over.
pub(crate) async fn enforce(State(state): State<Arc<LayerState>>, mut request: Request, next: Next) -> Response {
    let context = RequestContext::from_extensions(request.extensions());
    let limit = time_limit(context.route.class, state.limits.request_timeout);
    let deadline = match requested_timeout(context.transport, request.headers()) {
        Ok(timeout) => Deadline::new(timeout, limit, caller_number(&request)),
        Err(error) => return refuse(request, &context, &error).await,
    };
    request.extensions_mut().insert(deadline);
    tokio::select! {
        response = timeout_at(deadline.at.into(), next.run(request)) => {
            response.unwrap_or_else(|_| context.response(&CaptionError::DeadlineExceeded))
        }
        () = state.closing.cancelled() => context.response(&SHUTTING_DOWN),
    }
}

/// The longest that a request of this class may take; `configured` is the setting `request_timeout`.
fn time_limit(class: RouteClass, configured: Duration) -> Duration {
    match class {
        RouteClass::Inference => configured,
        RouteClass::Control => CONTROL_TIMEOUT,
        RouteClass::Public | RouteClass::Metrics | RouteClass::Metadata => configured.min(METADATA_TIMEOUT),
    }
}

/// The timeout that a client requests; none if it sends no header.
fn requested_timeout(transport: Transport, headers: &HeaderMap) -> Result<Option<Duration>, CaptionError> {
    let (name, parse, reason): (_, fn(&HeaderValue) -> Option<Duration>, _) = match transport {
        Transport::Rest => (REST_HEADER, milliseconds, "must be a whole number of milliseconds, 1 or more"),
        Transport::Grpc => (GRPC_HEADER, grpc_timeout, "must be at most 8 digits and a unit of H, M, S, m, u, n"),
    };
    let Some(value) = headers.get(name) else { return Ok(None) };
    parse(value).map(Some).ok_or_else(|| CaptionError::invalid(name, reason))
}

fn milliseconds(value: &HeaderValue) -> Option<Duration> {
    digits(value.to_str().ok()?, 15).filter(|count| *count > 0).map(Duration::from_millis)
}

fn grpc_timeout(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (count, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count = digits(count, 8)?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// A number of at most `max_len` decimal digits (`parse` alone accepts a plus sign too).
fn digits(text: &str, max_len: usize) -> Option<u64> {
    let is_number = text.len() <= max_len && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::pending};

    use axum::{body::Body, middleware::from_fn_with_state};
    use tower::{Layer, ServiceExt, service_fn};

    use super::*;
    use crate::config::limits::Limits;

    fn parse(transport: Transport, value: &str) -> Result<Option<Duration>, CaptionError> {
        let name = if transport == Transport::Rest { REST_HEADER } else { GRPC_HEADER };
        requested_timeout(transport, &HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]))
    }

    #[test]
    fn parses_every_unit_of_grpc() {
        for (text, expected) in [
            ("2H", Duration::from_hours(2)),
            ("3M", Duration::from_mins(3)),
            ("4S", Duration::from_secs(4)),
            ("5m", Duration::from_millis(5)),
            ("6u", Duration::from_micros(6)),
            ("99999999n", Duration::from_nanos(99_999_999)),
        ] {
            assert_eq!(parse(Transport::Grpc, text).unwrap(), Some(expected), "{text}");
        }
        assert_eq!(requested_timeout(Transport::Grpc, &HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn names_the_header_that_is_wrong() {
        for bad in ["", "S", "1", "1s", "-1S", "+1S", "123456789S", "1 S"] {
            let text = parse(Transport::Grpc, bad).unwrap_err().to_string();
            assert!(text.starts_with("grpc-timeout: "), "{bad}: {text}");
        }
        for bad in ["", "0", "-5", "+5", "1.5", "1s", "9999999999999999"] {
            let text = parse(Transport::Rest, bad).unwrap_err().to_string();
            assert!(text.starts_with("x-request-timeout-ms: "), "{bad}: {text}");
        }
        assert_eq!(parse(Transport::Rest, "1").unwrap(), Some(Duration::from_millis(1)));
        let longest = Duration::from_millis(999_999_999_999_999);
        assert_eq!(parse(Transport::Rest, "999999999999999").unwrap(), Some(longest));
    }

    #[test]
    fn each_class_has_its_limit() {
        let seconds = Duration::from_secs;
        for (class, configured, limit) in [
            (RouteClass::Inference, seconds(120), seconds(120)),
            (RouteClass::Metadata, seconds(120), seconds(10)),
            (RouteClass::Metrics, seconds(120), seconds(10)),
            (RouteClass::Public, seconds(5), seconds(5)),
            (RouteClass::Control, seconds(5), seconds(3600)),
        ] {
            assert_eq!(time_limit(class, configured), limit, "{class:?} {configured:?}");
        }
    }

    #[test]
    fn the_earlier_of_the_client_s_and_the_server_s_deadline_counts() {
        let (now, limit) = (Instant::now(), Duration::from_secs(10));
        let deadline = |requested: Option<u64>| {
            let requested = requested.map(|seconds| now + Duration::from_secs(seconds));
            Deadline { at: now, caller: 7, requested, limit }
        };
        assert_eq!(deadline(None).renewed_at(now).at, now + limit);
        assert_eq!(deadline(Some(3)).renewed_at(now).at, now + Duration::from_secs(3));
        assert_eq!(deadline(Some(30)).renewed_at(now).at, now + limit);
        let later = now + Duration::from_secs(25);
        assert_eq!(deadline(Some(30)).renewed_at(later).at, now + Duration::from_secs(30));
        assert_eq!(deadline(None).renewed_at(later).at, later + limit);
        let unlimited = Deadline::new(Some(Duration::MAX), limit, 7);
        assert!(unlimited.requested.is_none() && unlimited.caller == 7);
    }

    /// Status of a handler that never answers, with this header.
    async fn status(state: LayerState, timeout: &str) -> u16 {
        let hanging = service_fn(|request: Request| async move {
            assert!(request.extensions().get::<Deadline>().is_some());
            pending::<Result<Response, Infallible>>().await
        });
        let request = Request::builder().uri("/v2").header(REST_HEADER, timeout).body(Body::empty()).unwrap();
        let response = from_fn_with_state(Arc::new(state), enforce).layer(hanging).oneshot(request).await;
        response.unwrap().status().as_u16()
    }

    #[tokio::test]
    async fn a_handler_that_hangs_is_answered_at_the_deadline_or_after_the_grace_period() {
        let state = || LayerState::for_test(Limits::defaults(), &[]);
        assert_eq!(status(state(), "1").await, 504);
        assert_eq!(status(state(), "soon").await, 400);
        let closing = state();
        closing.closing.cancel();
        assert_eq!(status(closing, "100000").await, 503);
    }
}
