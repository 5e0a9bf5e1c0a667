//! What goes on in one connection: requests in flight, answers that their peer does not take, silence.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use crate::config::limits::Limits;

/// For a peer to take notice that its idle connection is closed.
const CLOSING_TIME: Duration = Duration::from_secs(5);

/// What a connection does; every request in flight holds one clone.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    pub(crate) had_request: AtomicBool,
    /// Since when each answer, by its number, waits for its peer to take what is there.
    unsent: Mutex<HashMap<u64, Instant>>,
    answers: AtomicU64,
}

impl Activity {
    fn unsent(&self) -> MutexGuard<'_, HashMap<u64, Instant>> {
        self.unsent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer on its way: the connection is busy until it is sent.
pub(crate) struct Sending {
    body: Body,
    number: u64,
    activity: Arc<Activity>,
}

impl Sending {
    pub(crate) fn new(body: Body, activity: Arc<Activity>) -> Self {
        let number = activity.answers.fetch_add(1, Ordering::Relaxed);
        activity.unsent().insert(number, Instant::now());
        Self { body, number, activity }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.activity.unsent().remove(&self.number);
    }
}

impl HttpBody for Sending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        // Asked for more, the peer had room; with more given, it is waited for again.
        match &frame {
            Poll::Pending => self.activity.unsent().remove(&self.number),
            Poll::Ready(_) => self.activity.unsent().insert(self.number, Instant::now()),
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

/// Measures how long a connection has had nothing in flight.
pub(crate) struct IdleClock {
    activity: Arc<Activity>,
    /// Clones that exist without any request: ours and the service's.
    base: usize,
    /// Answers that had begun at the last look.
    answers: u64,
    since: Instant,
    limits: Limits,
}

/// Whether a peer has long not taken a piece of an answer that is there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stalled {
    No,
    /// Of some answers; other requests are in flight.
    Some,
    All,
}

pub(crate) enum Idle {
    No,
    Long,
    TooLong,
}

impl IdleClock {
    pub(crate) fn new(activity: Arc<Activity>, limits: Limits) -> Self {
        let base = Arc::strong_count(&activity);
        Self { activity, base, answers: 0, since: Instant::now(), limits }
    }

    pub(crate) fn stalled(&self, now: Instant) -> Stalled {
        let Limits { write_timeout, request_timeout, .. } = self.limits;
        let waits = self.activity.unsent().values().map(|since| now.duration_since(*since)).collect::<Vec<_>>();
        let stalled = waits.iter().filter(|wait| **wait > write_timeout).count();
        if stalled == 0 {
            return Stalled::No;
        }
        // Each request in flight holds one clone. Unless it is a stream, it ends in time.
        let has_others = Arc::strong_count(&self.activity) > self.base + stalled;
        let is_in_time = waits.iter().all(|wait| *wait <= write_timeout + request_timeout);
        if has_others && is_in_time { Stalled::Some } else { Stalled::All }
    }

    /// How long nothing has happened.
    pub(crate) fn state(&mut self, now: Instant) -> Idle {
        // A short request comes and goes between two looks.
        let answers = self.activity.answers.load(Ordering::Relaxed);
        if Arc::strong_count(&self.activity) > self.base || answers != self.answers {
            self.answers = answers;
            self.since = now;
        }
        let had_request = self.activity.had_request.load(Ordering::Relaxed);
        let limit = if had_request { self.limits.idle_timeout } else { self.limits.header_timeout };
        match now.duration_since(self.since) {
            elapsed if elapsed > limit + CLOSING_TIME => Idle::TooLong,
            elapsed if elapsed > limit => Idle::Long,
            _ => Idle::No,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{StreamExt, stream};
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn only_a_peer_that_does_not_take_what_is_there_is_stalled() {
        let activity = Arc::new(Activity::default());
        let limits = Limits::defaults();
        let clock = IdleClock::new(activity.clone(), limits);
        let is_stalled_after = |time: Duration| match clock.stalled(Instant::now() + time) {
            Stalled::Some => panic!("there is one answer"),
            stalled => stalled == Stalled::All,
        };
        let late = limits.write_timeout + Duration::from_secs(1);
        let piece = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"a"))]);
        let mut answer = Sending::new(Body::from_stream(piece.chain(stream::pending())), activity.clone());
        assert!(is_stalled_after(late), "never asked for");
        assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
        assert!(!is_stalled_after(limits.write_timeout / 2));
        assert!(is_stalled_after(late), "not asked for more");
        assert!(futures_util::poll!(answer.frame()).is_pending());
        assert!(!is_stalled_after(late), "there is nothing to take");
        drop(answer);
        assert!(!is_stalled_after(late));
    }

    #[test]
    fn a_request_between_two_looks_is_no_silence() {
        let activity = Arc::new(Activity::default());
        activity.had_request.store(true, Ordering::Relaxed);
        let limits = Limits::defaults();
        let mut clock = IdleClock::new(activity.clone(), limits);
        let mut now = Instant::now();
        for _ in 0..3 {
            now += limits.idle_timeout * 3 / 4;
            drop(Sending::new(Body::empty(), activity.clone()));
            assert!(matches!(clock.state(now), Idle::No));
        }
        now += limits.idle_timeout + Duration::from_secs(1);
        assert!(matches!(clock.state(now), Idle::Long));
    }
}
