//! The context of a request for the layers: its transport, route and id, and the record of what becomes known later.
//!
//! Layers and handlers find the [`RequestContext`] in the request's extensions and answer failures through it
//! (`error_response`), so that a failure has the same form in every layer.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::extract::{FromRequestParts, MatchedPath};
use http::{HeaderMap, HeaderName, HeaderValue, Request, header, request::Parts};

use crate::{
    caption::Timings,
    error::ErrorCode,
    server::routes::{RouteRules, grpc_rules, rest_rules},
};

/// Header and gRPC metadata key of the request id, in requests and responses.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Response header with the duration of each stage of the request.
pub(crate) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Header of the binary tensor extension: the length of the JSON part, in requests and responses.
pub(crate) const BINARY_HEADER: HeaderName = HeaderName::from_static("inference-header-content-length");

/// Longest request id of a client that is kept; a longer one is replaced.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// The protocol of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// `content-type: application/grpc*`.
    Grpc,
    /// Everything else.
    Rest,
}

/// The context of one request.
#[derive(Clone, Debug)]
pub(crate) struct RequestContext {
    /// Decides the form of the response.
    pub(crate) transport: Transport,
    /// How the layers treat the request.
    pub(crate) route: RouteRules,
    /// The client's id if it sent a valid one, else a random one; visible ASCII.
    pub(crate) request_id: Arc<str>,
    /// What becomes known while the request is handled.
    pub(crate) record: Arc<RequestRecord>,
}

impl RequestContext {
    /// Creates the context of a request from its head.
    pub(crate) fn for_request<B>(request: &Request<B>) -> Self {
        let transport = transport(request.headers());
        let path = request.uri().path();
        let route = match transport {
            Transport::Grpc => grpc_rules(path),
            Transport::Rest => rest_rules(request.method(), path),
        };
        Self { transport, route, request_id: request_id(request.headers()), record: Arc::default() }
    }

    /// The context of a request that passed the middleware; a fresh one for any other.
    pub(crate) fn from_extensions(extensions: &http::Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_else(|| Self::for_request(&Request::new(())))
    }
}

impl<S: Sync> FromRequestParts<S> for RequestContext {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let context = Self::from_extensions(&parts.extensions);
        if let Some(route) = parts.extensions.get::<MatchedPath>() {
            context.record.set_route(route);
        }
        Ok(context)
    }
}

fn transport(headers: &HeaderMap) -> Transport {
    let content_type = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let prefix = b"application/grpc";
    // application/grpc-web is another protocol.
    let is_grpc = content_type.split_at_checked(prefix.len()).is_some_and(|(start, rest)| {
        start.eq_ignore_ascii_case(prefix) && matches!(rest.first(), None | Some(b'+' | b';'))
    });
    if is_grpc { Transport::Grpc } else { Transport::Rest }
}

fn request_id(headers: &HeaderMap) -> Arc<str> {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let is_valid = |id: &&str| {
        !id.is_empty() && id.len() <= MAX_REQUEST_ID_BYTES && id.bytes().all(|byte| byte.is_ascii_graphic())
    };
    given.filter(is_valid).map_or_else(|| format!("{:032x}", rand::random::<u128>()).into(), Into::into)
}

/// What the log, the metrics and the trace contain of a request; layers and handlers fill it in.
#[derive(Debug, Default)]
pub(crate) struct RequestRecord(Mutex<RecordFields>);

/// The fields of a [`RequestRecord`].
#[derive(Debug, Default)]
pub(crate) struct RecordFields {
    /// Route of REST that matched.
    pub(crate) route: Option<MatchedPath>,
    /// Name of the model that does the work; empty if none was reached.
    pub(crate) model: String,
    /// Label of the client's API key; empty without one.
    pub(crate) key: String,
    pub(crate) failure: Option<Failure>,
    timings: Option<Timings>,
}

/// Why a request failed, as metrics count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: ErrorCode,
    /// Stable name of the error.
    pub(crate) reason: &'static str,
}

impl RequestRecord {
    pub(crate) fn set_route(&self, route: &MatchedPath) {
        self.fields().route = Some(route.clone());
    }

    pub(crate) fn set_model(&self, name: &str) {
        name.clone_into(&mut self.fields().model);
    }

    pub(crate) fn set_key(&self, label: &str) {
        label.clone_into(&mut self.fields().key);
    }

    /// Sets the failure of a request, unless there is one: later failures follow from the first.
    pub(crate) fn set_failure(&self, failure: Failure) {
        self.fields().failure.get_or_insert(failure);
    }

    /// Removes a failure that is a consequence of the one that is set next.
    pub(crate) fn clear_failure(&self) {
        self.fields().failure = None;
    }

    /// Adds the times of one image; of several, the slowest counts.
    pub(crate) fn add_timings(&self, timings: Timings) {
        let mut fields = self.fields();
        let total = |timings: &Timings| timings.compute_input + timings.queue + timings.compute_infer;
        if fields.timings.as_ref().is_none_or(|known| total(known) < total(&timings)) {
            fields.timings = Some(timings);
        }
    }

    /// The header `server-timing`, in milliseconds; none before an image was captioned.
    pub(crate) fn server_timing(&self) -> Option<HeaderValue> {
        let Timings { compute_input, queue, compute_infer, compute_output, cache_hit } = self.fields().timings?;
        let [input, queue, infer, output] =
            [compute_input, queue, compute_infer, compute_output].map(|time| time.as_secs_f64() * 1e3);
        let cache = if cache_hit { "hit" } else { "miss" };
        let text = format!(
            "input;dur={input:.3}, queue;dur={queue:.3}, compute;dur={infer:.3}, output;dur={output:.3}, cache;desc={cache}"
        );
        HeaderValue::from_str(&text).ok()
    }

    pub(crate) fn fields(&self) -> MutexGuard<'_, RecordFields> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::server::routes::RouteClass;

    fn context(path: &str, headers: &[(&str, &str)]) -> RequestContext {
        let mut request = Request::builder().method("POST").uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        RequestContext::for_request(&request.body(()).unwrap())
    }

    #[test]
    fn the_content_type_decides_the_transport() {
        for (value, transport) in [
            ("application/grpc", Transport::Grpc),
            ("Application/GRPC+proto", Transport::Grpc),
            ("application/grpc;x", Transport::Grpc),
            ("application/json", Transport::Rest),
            ("application/gr", Transport::Rest),
            ("application/grpc-web", Transport::Rest),
        ] {
            assert_eq!(context("/infer", &[("content-type", value)]).transport, transport, "{value}");
        }
        let path = "/grpc.health.v1.Health/Check";
        assert_eq!(context(path, &[("content-type", "application/grpc")]).route.class, RouteClass::Public);
        assert_eq!(context(path, &[]).route.class, RouteClass::Inference);
    }

    #[test]
    fn a_valid_request_id_is_kept_and_any_other_replaced() {
        let longest = "x".repeat(MAX_REQUEST_ID_BYTES);
        for good in ["abc-1", "~", &longest] {
            assert_eq!(&*context("/", &[("x-request-id", good)]).request_id, good);
        }
        for bad in ["", "two words", &"x".repeat(MAX_REQUEST_ID_BYTES + 1)] {
            let id = context("/", &[("x-request-id", bad)]).request_id;
            assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{bad:?}: {id}");
        }
        assert_ne!(context("/", &[]).request_id, context("/", &[]).request_id);
    }

    #[test]
    fn the_first_failure_counts_until_it_is_cleared() {
        let record = RequestRecord::default();
        let deadline = Failure { code: ErrorCode::DeadlineExceeded, reason: "DEADLINE_EXCEEDED" };
        let cancelled = Failure { code: ErrorCode::Cancelled, reason: "CANCELLED" };
        record.set_failure(deadline);
        record.set_failure(cancelled);
        assert_eq!(record.fields().failure, Some(deadline));
        record.clear_failure();
        record.set_failure(cancelled);
        assert_eq!(record.fields().failure, Some(cancelled));
    }

    #[test]
    fn the_times_are_those_of_the_slowest_image() {
        let record = RequestRecord::default();
        assert!(record.server_timing().is_none());
        for [input, queue, infer] in [[1, 0, 0], [0, 5, 0], [1, 1, 4], [2, 2, 1], [4, 1, 1]] {
            record.add_timings(Timings {
                compute_input: Duration::from_millis(input),
                queue: Duration::from_millis(queue),
                compute_infer: Duration::from_millis(infer),
                ..Timings::default()
            });
        }
        let text = "input;dur=1.000, queue;dur=1.000, compute;dur=4.000, output;dur=0.000, cache;desc=miss";
        assert_eq!(record.server_timing().unwrap(), text, "of two that are equally slow, the first");
    }
}
