//! What becomes known of a request on its way, and what is counted and told when it is over.

use std::{
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Instant,
};

use axum::{body::Body, extract::MatchedPath, response::Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tracing::Span;

use crate::{
    caption::Timings,
    error::{CaptionError, ErrorCode},
    observability::prometheus::{Metrics, RequestLabels},
    server::{
        error_response::{StatusCodes, reason},
        middleware::{
            context::{RequestContext, Transport},
            request_log::{Asked, Told},
        },
        routes::RouteClass,
    },
};

/// Shared by everyone who handles a request.
#[derive(Debug, Default)]
pub(crate) struct Notes(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    route: Option<MatchedPath>,
    model: String,
    key: String,
    failure: Option<(ErrorCode, &'static str)>,
    timings: Option<Timings>,
}

impl Notes {
    /// The route of REST that the request took.
    pub(crate) fn route(&self, route: &MatchedPath) {
        self.lock().route = Some(route.clone());
    }

    /// The model that does the work.
    pub(crate) fn model(&self, name: &str) {
        name.clone_into(&mut self.lock().model);
    }

    /// The label of the client's key.
    pub(crate) fn key(&self, label: &str) {
        label.clone_into(&mut self.lock().key);
    }

    /// The first failure is the one that counts.
    pub(crate) fn failure(&self, error: &CaptionError) {
        self.lock().failure.get_or_insert((error.code(), reason(error)));
    }

    /// What was noted is only what followed from the failure that comes now.
    pub(crate) fn forget_failure(&self) {
        self.lock().failure = None;
    }

    /// Where the time went; of several images, the slowest.
    pub(crate) fn timings(&self, timings: Timings) {
        let mut noted = self.lock();
        let total = |timings: &Timings| timings.compute_input + timings.queue + timings.compute_infer;
        if noted.timings.as_ref().is_none_or(|known| total(known) < total(&timings)) {
            noted.timings = Some(timings);
        }
    }

    /// The header `server-timing`, in milliseconds, if there is anything to say.
    pub(crate) fn server_timing(&self) -> Option<HeaderValue> {
        let Timings { compute_input, queue, compute_infer, compute_output, cache_hit } = self.lock().timings?;
        let [input, queue, infer, output] =
            [compute_input, queue, compute_infer, compute_output].map(|time| time.as_secs_f64() * 1e3);
        let cache = if cache_hit { "hit" } else { "miss" };
        let text = format!(
            "input;dur={input:.3}, queue;dur={queue:.3}, compute;dur={infer:.3}, output;dur={output:.3}, cache;desc={cache}"
        );
        HeaderValue::from_str(&text).ok()
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a request, and tells of it, when its answer is sent or given up.
pub(crate) struct Recorder {
    metrics: Metrics,
    context: RequestContext,
    asked: Asked,
    span: Span,
    status: Option<StatusCode>,
    grpc_status: Option<i64>,
    started: Instant,
    is_answered: bool,
}

impl Recorder {
    /// For a request that has just come.
    pub(crate) fn new(metrics: Metrics, context: RequestContext, asked: Asked, span: Span) -> Self {
        let (status, grpc_status) = (None, None);
        Self { metrics, context, asked, span, status, grpc_status, started: Instant::now(), is_answered: false }
    }

    /// Goes with the answer to its end.
    pub(crate) fn follow(mut self, response: Response) -> Response {
        // A body of known size is an answer that is complete, whether or not its client reads it.
        self.is_answered = response.body().size_hint().exact().is_some();
        self.status = Some(response.status());
        self.grpc_status = grpc_status(response.headers());
        response.map(|body| Body::new(Recorded { body, recorder: self }))
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _inside = self.span.enter();
        let elapsed = self.started.elapsed();
        let noted = self.context.notes.lock();
        let (outcome, reason) = match noted.failure {
            Some((code, reason)) => (outcome(code), reason),
            None if self.is_answered => ("ok", "OK"),
            None => (outcome(ErrorCode::Cancelled), reason(&CaptionError::Cancelled)),
        };
        self.asked.end(
            &self.span,
            &Told {
                status: self.status,
                grpc_status: self.grpc_status,
                elapsed,
                route: noted.route.as_ref(),
                model: &noted.model,
                key: &noted.key,
                outcome,
                reason,
                is_failed: noted.failure.is_some_and(|(code, _)| StatusCodes::from(code).http.is_server_error()),
            },
        );
        // Probes are not what anybody waits for.
        if self.context.route.class == RouteClass::Public {
            return;
        }
        let surface = match self.context.transport {
            Transport::Grpc => "grpc",
            Transport::Rest => "rest",
        };
        let labels = RequestLabels { surface, model: &noted.model, key: &noted.key, outcome, reason };
        self.metrics.record_request(&labels, elapsed);
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<i64> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

fn outcome(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Overloaded => "overloaded",
        ErrorCode::DeadlineExceeded => "deadline",
        ErrorCode::Cancelled => "cancelled",
        ErrorCode::Unavailable => "unavailable",
        ErrorCode::Internal => "error",
        ErrorCode::InvalidArgument
        | ErrorCode::TooLarge
        | ErrorCode::NotFound
        | ErrorCode::MethodNotAllowed
        | ErrorCode::Unimplemented
        | ErrorCode::UnsupportedMediaType
        | ErrorCode::Unauthenticated
        | ErrorCode::Forbidden => "client_error",
    }
}

/// An answer whose end is counted.
struct Recorded {
    body: Body,
    recorder: Recorder,
}

impl HttpBody for Recorded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Self { body, recorder: Recorder { span, is_answered, grpc_status: status, .. } } = &mut *self;
        // A stream's work is done here.
        let _inside = span.enter();
        let frame = Pin::new(body).poll_frame(cx);
        match &frame {
            Poll::Ready(None) => *is_answered = true,
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    *is_answered = true;
                    *status = grpc_status(trailers);
                }
            }
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Request;

    use super::*;

    fn counted(metrics: &Metrics, wanted: &str) -> bool {
        metrics.render().lines().any(|line| line.starts_with("blip_requests_total{") && line.contains(wanted))
    }

    #[tokio::test]
    async fn a_request_is_counted_once_with_what_became_of_it() {
        let metrics = Metrics::new().unwrap();
        let request = Request::builder().method("POST").uri("/infer").body(Body::empty()).unwrap();
        let context = || RequestContext::of(&request);
        let recorder = |context: RequestContext| {
            let asked = Asked::begin(&request, &context, &Span::none());
            Recorder::new(metrics.clone(), context, asked, Span::none())
        };
        let answered = recorder(context()).follow(Response::new(Body::from("x")));
        drop(answered);
        assert!(counted(&metrics, "outcome=\"ok\""));
        drop(recorder(context()));
        assert!(counted(&metrics, "outcome=\"cancelled\""));
        let failed = context();
        failed.notes.model("m");
        failed.notes.failure(&CaptionError::DeadlineExceeded);
        failed.notes.failure(&CaptionError::Cancelled);
        drop(recorder(failed));
        assert!(counted(&metrics, "model=\"m\",outcome=\"deadline\",reason=\"DEADLINE_EXCEEDED\""));
    }

    #[test]
    fn the_times_are_those_of_the_slowest_image() {
        let notes = Notes::default();
        assert!(notes.server_timing().is_none());
        for ms in [1, 3, 2] {
            notes.timings(Timings { queue: Duration::from_millis(ms), ..Timings::default() });
        }
        let text = "input;dur=0.000, queue;dur=3.000, compute;dur=0.000, output;dur=0.000, cache;desc=miss";
        assert_eq!(notes.server_timing().unwrap(), text);
    }
}
