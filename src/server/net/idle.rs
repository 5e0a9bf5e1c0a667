//! Whether a connection is idle, or its client has stopped taking responses.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use crate::config::limits::Limits;

/// Time for a client to notice that its idle connection is being closed.
const CLOSING_TIME: Duration = Duration::from_secs(5);

/// What happens on one connection.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    /// Requests whose response is not sent yet.
    in_flight: AtomicUsize,
    /// Requests and responses that have begun. It also shows a request that began and ended between two checks.
    events: AtomicU64,
    /// Since when each unfinished response waits for its client to take available data. Its keys are `events`.
    unsent: Mutex<HashMap<u64, Instant>>,
}

impl Activity {
    /// Counts a request as in flight until the guard is dropped.
    pub(crate) fn begin_request(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.events.fetch_add(1, Ordering::Relaxed);
        InFlight(self.clone())
    }

    fn unsent(&self) -> MutexGuard<'_, HashMap<u64, Instant>> {
        self.unsent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request in flight.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A response that is being sent; its request is in flight until it is sent or dropped.
pub(crate) struct ResponseBody {
    body: Body,
    key: u64,
    request: InFlight,
}

impl ResponseBody {
    pub(crate) fn new(body: Body, request: InFlight) -> Self {
        let key = request.0.events.fetch_add(1, Ordering::Relaxed);
        request.0.unsent().insert(key, Instant::now());
        Self { body, key, request }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.request.0.unsent().remove(&self.key);
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        // The connection polls for more when the client has taken the last frame.
        match &frame {
            Poll::Pending => self.request.0.unsent().remove(&self.key),
            Poll::Ready(_) => self.request.0.unsent().insert(self.key, Instant::now()),
        };
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Measures how long a connection has been idle.
pub(crate) struct IdleTracker {
    activity: Arc<Activity>,
    /// `events` at the last check.
    events: u64,
    idle_since: Instant,
    limits: Limits,
}

/// Whether a client has not taken a frame of a response for longer than `write_timeout`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stall {
    None,
    /// Some responses are stalled, while other requests are in flight.
    Partial,
    Complete,
}

/// How long a connection has been idle.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Idleness {
    /// Within its limit.
    Active,
    /// Beyond its limit: it is closed gracefully.
    Idle,
    /// Its client did not react: it is dropped.
    Expired,
}

impl IdleTracker {
    pub(crate) fn new(activity: Arc<Activity>, limits: Limits) -> Self {
        Self { activity, events: 0, idle_since: Instant::now(), limits }
    }

    pub(crate) fn stall(&self, now: Instant) -> Stall {
        let Limits { write_timeout, request_timeout, .. } = self.limits;
        let waits = self.activity.unsent().values().map(|since| now.duration_since(*since)).collect::<Vec<_>>();
        let stalled = waits.iter().filter(|wait| **wait > write_timeout).count();
        if stalled == 0 {
            return Stall::None;
        }
        // Unless it is a stream, a request in flight ends within the request timeout.
        let has_others = self.activity.in_flight.load(Ordering::Relaxed) > stalled;
        let others_may_end = waits.iter().all(|wait| *wait <= write_timeout + request_timeout);
        if has_others && others_may_end { Stall::Partial } else { Stall::Complete }
    }

    pub(crate) fn idleness(&mut self, now: Instant) -> Idleness {
        let events = self.activity.events.load(Ordering::Relaxed);
        if self.activity.in_flight.load(Ordering::Relaxed) > 0 || events != self.events {
            self.events = events;
            self.idle_since = now;
        }
        let limit = if events > 0 { self.limits.idle_timeout } else { self.limits.header_timeout };
        match now.duration_since(self.idle_since) {
            elapsed if elapsed > limit + CLOSING_TIME => Idleness::Expired,
            elapsed if elapsed > limit => Idleness::Idle,
            _ => Idleness::Active,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{StreamExt, stream};
    use http_body_util::BodyExt;

    use super::*;

    const INSTANT: Duration = Duration::from_nanos(1);

    #[test]
    fn a_request_is_in_flight_until_its_response_is_sent() {
        let activity = Arc::new(Activity::default());
        let in_flight = || activity.in_flight.load(Ordering::Relaxed);
        let (first, second) = (activity.begin_request(), activity.begin_request());
        assert_eq!(in_flight(), 2);
        drop(first);
        assert_eq!(in_flight(), 1);
        let response = ResponseBody::new(Body::empty(), second);
        assert_eq!(in_flight(), 1);
        drop(response);
        assert_eq!(in_flight(), 0);
        assert!(activity.unsent().is_empty());
    }

    #[tokio::test]
    async fn only_a_client_that_does_not_take_available_data_stalls() {
        let activity = Arc::new(Activity::default());
        let limits = Limits::defaults();
        let tracker = IdleTracker::new(activity.clone(), limits);
        let stall_after = |time: Duration| tracker.stall(Instant::now() + time);
        let late = limits.write_timeout + Duration::from_secs(1);
        let frame = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"a"))]);
        let body = Body::from_stream(frame.chain(stream::pending()));
        let mut response = ResponseBody::new(body, activity.begin_request());
        assert_eq!(stall_after(late), Stall::Complete, "never asked for");
        assert_eq!(response.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
        assert_eq!(stall_after(limits.write_timeout / 2), Stall::None);
        assert_eq!(stall_after(late), Stall::Complete, "not asked for more");
        assert!(futures_util::poll!(response.frame()).is_pending());
        assert_eq!(stall_after(late), Stall::None, "there is nothing to take");
        drop(response);
        assert_eq!(stall_after(late), Stall::None);
    }

    #[test]
    fn other_requests_of_a_stalled_client_are_waited_for_within_the_request_timeout() {
        let activity = Arc::new(Activity::default());
        let limits = Limits::defaults();
        let tracker = IdleTracker::new(activity.clone(), limits);
        let _response = ResponseBody::new(Body::from("x"), activity.begin_request());
        let since = *activity.unsent().values().next().unwrap();
        let stall_at = |time: Duration| tracker.stall(since + time);
        assert_eq!(stall_at(limits.write_timeout), Stall::None);
        assert_eq!(stall_at(limits.write_timeout + INSTANT), Stall::Complete);
        let other = activity.begin_request();
        assert_eq!(stall_at(limits.write_timeout + INSTANT), Stall::Partial);
        let last = limits.write_timeout + limits.request_timeout;
        assert_eq!(stall_at(last), Stall::Partial);
        assert_eq!(stall_at(last + INSTANT), Stall::Complete);
        drop(other);
        assert_eq!(stall_at(limits.write_timeout + INSTANT), Stall::Complete);
    }

    #[test]
    fn a_request_between_two_checks_is_activity() {
        let activity = Arc::new(Activity::default());
        let limits = Limits::defaults();
        let mut tracker = IdleTracker::new(activity.clone(), limits);
        let mut now = Instant::now();
        for _ in 0..3 {
            now += limits.idle_timeout * 3 / 4;
            drop(activity.begin_request());
            assert_eq!(tracker.idleness(now), Idleness::Active);
        }
        assert_eq!(tracker.idleness(now + limits.idle_timeout), Idleness::Active);
        assert_eq!(tracker.idleness(now + limits.idle_timeout + INSTANT), Idleness::Idle);
        let expired = now + limits.idle_timeout + CLOSING_TIME;
        assert_eq!(tracker.idleness(expired), Idleness::Idle);
        assert_eq!(tracker.idleness(expired + INSTANT), Idleness::Expired);
    }

    #[test]
    fn a_request_in_flight_keeps_its_connection() {
        let activity = Arc::new(Activity::default());
        let limits = Limits::defaults();
        let mut tracker = IdleTracker::new(activity.clone(), limits);
        let request = activity.begin_request();
        let now = Instant::now() + limits.idle_timeout * 10;
        assert_eq!(tracker.idleness(now), Idleness::Active);
        assert_eq!(tracker.idleness(now + limits.idle_timeout * 10), Idleness::Active);
        drop(request);
        assert_eq!(tracker.idleness(now + limits.idle_timeout * 11 + INSTANT), Idleness::Idle);
    }

    #[test]
    fn a_connection_without_a_request_has_the_time_of_a_header() {
        let limits = Limits::defaults();
        let mut tracker = IdleTracker::new(Arc::default(), limits);
        let since = tracker.idle_since;
        assert!(limits.header_timeout < limits.idle_timeout);
        assert_eq!(tracker.idleness(since + limits.header_timeout), Idleness::Active);
        assert_eq!(tracker.idleness(since + limits.header_timeout + INSTANT), Idleness::Idle);
    }
}
