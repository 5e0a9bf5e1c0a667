//! The bounded resources that requests share: permits to run, and bytes of request bodies in memory.
//!
//! Both are represented by guards, which return their part when they are dropped.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use prometheus::IntGauge;

use crate::error::CaptionError;

/// When a refused client should retry.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// No permit is left.
pub(crate) const QUEUE_FULL: CaptionError =
    CaptionError::Overloaded { bound: "queue_capacity", retry_after: RETRY_AFTER };
/// The byte budget is used up.
pub(crate) const INFLIGHT_BYTES_FULL: CaptionError =
    CaptionError::Overloaded { bound: "max_inflight_bytes", retry_after: RETRY_AFTER };

/// Bounds the inference requests in flight to `queue_capacity`.
#[derive(Debug)]
pub(crate) struct ConcurrencyLimit {
    capacity: usize,
    /// Permits in use, by caller. A caller without any has no entry.
    in_use: Mutex<HashMap<u64, usize>>,
    gauge: IntGauge,
}

/// The right of one request to run; returned when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    limit: Arc<ConcurrencyLimit>,
    caller: u64,
}

impl ConcurrencyLimit {
    pub(crate) fn new(capacity: usize, gauge: IntGauge) -> Arc<Self> {
        Arc::new(Self { capacity, in_use: Mutex::default(), gauge })
    }

    /// A permit for this caller, if one is left. Where callers `share` the limit, each gets at most an equal part: the
    /// permits divided by the callers in flight plus one, so that another caller always finds some.
    pub(crate) fn try_acquire(self: &Arc<Self>, caller: u64, share: bool) -> Option<Permit> {
        let mut in_use = self.lock();
        let own = in_use.get(&caller).copied().unwrap_or(0);
        let callers = in_use.len() + usize::from(own == 0);
        let most = if share { (self.capacity / (callers + 1)).max(1) } else { self.capacity };
        if own >= most || in_use.values().sum::<usize>() >= self.capacity {
            return None;
        }
        in_use.insert(caller, own + 1);
        self.gauge.inc();
        Some(Permit { limit: self.clone(), caller })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, usize>> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut in_use = self.limit.lock();
        if let Some(own) = in_use.get_mut(&self.caller) {
            *own -= 1;
            if *own == 0 {
                in_use.remove(&self.caller);
            }
        }
        self.limit.gauge.dec();
    }
}

/// Bounds the bytes of all request bodies in memory to `max_inflight_bytes`.
#[derive(Debug)]
pub(crate) struct ByteBudget {
    limit: usize,
    used: AtomicUsize,
    gauge: IntGauge,
}

/// Why a body was not read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyFault {
    /// The byte budget is used up.
    OverBudget,
    /// The client sent nothing for too long.
    TooSlow,
}

/// The part of the budget that one request uses; returned when dropped.
#[derive(Debug)]
pub(crate) struct ByteReservation {
    budget: Arc<ByteBudget>,
    held: AtomicUsize,
    fault: OnceLock<BodyFault>,
}

impl ByteBudget {
    pub(crate) fn new(limit: usize, gauge: IntGauge) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0), gauge })
    }

    /// Whether this many more bytes currently fit.
    pub(crate) fn has_capacity(&self, bytes: usize) -> bool {
        self.used.load(Ordering::Relaxed).saturating_add(bytes) <= self.limit
    }

    /// An empty reservation for one request.
    pub(crate) fn reservation(self: &Arc<Self>) -> Arc<ByteReservation> {
        Arc::new(ByteReservation { budget: self.clone(), held: AtomicUsize::new(0), fault: OnceLock::new() })
    }
}

impl ByteReservation {
    /// Reserves more bytes. Returns false and sets the fault if they exceed the budget.
    pub(crate) fn add(&self, bytes: usize) -> bool {
        let used = self.budget.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.held.fetch_add(bytes, Ordering::Relaxed);
        self.budget.gauge.add(bytes as i64);
        if used > self.budget.limit {
            self.set_fault(BodyFault::OverBudget);
        }
        used <= self.budget.limit
    }

    /// Grows the reservation to `bytes`, the size of a message that was sent compressed.
    pub(crate) fn grow_to(&self, bytes: usize) -> bool {
        self.add(bytes.saturating_sub(self.held.load(Ordering::Relaxed)))
    }

    /// Moves the bytes of one message of a stream to a reservation that lives as long as the message is handled.
    pub(crate) fn split(&self, bytes: usize) -> Arc<Self> {
        let part = self.budget.reservation();
        // A message that was sent compressed is larger than what is reserved for it: the rest is new.
        let moved = self.held.load(Ordering::Relaxed).min(bytes);
        self.held.fetch_sub(moved, Ordering::Relaxed);
        part.held.store(moved, Ordering::Relaxed);
        part.add(bytes - moved);
        part
    }

    /// Sets why the body was not read to its end; the first fault counts.
    pub(crate) fn set_fault(&self, fault: BodyFault) {
        self.fault.get_or_init(|| fault);
    }

    pub(crate) fn fault(&self) -> Option<BodyFault> {
        self.fault.get().copied()
    }
}

impl Drop for ByteReservation {
    fn drop(&mut self) {
        let held = *self.held.get_mut();
        self.budget.used.fetch_sub(held, Ordering::Relaxed);
        self.budget.gauge.sub(held as i64);
    }
}

/// A body that keeps a guard until it is sent or dropped.
pub(crate) struct GuardedBody<T> {
    body: Body,
    _guard: T,
}

impl<T> GuardedBody<T> {
    pub(crate) fn new(body: Body, guard: T) -> Self {
        Self { body, _guard: guard }
    }
}

impl<T: Unpin> HttpBody for GuardedBody<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
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
    use super::*;

    fn gauge() -> IntGauge {
        IntGauge::new("g", "g").unwrap()
    }

    #[test]
    fn a_single_caller_may_have_every_permit() {
        let limit = ConcurrencyLimit::new(2, gauge());
        let held: Vec<_> = (0..3).map(|_| limit.try_acquire(0, false)).collect();
        assert_eq!(held.iter().flatten().count(), 2);
        drop(held);
        assert!(limit.try_acquire(0, false).is_some() && limit.lock().is_empty());
        assert_eq!(limit.gauge.get(), 0);
    }

    #[test]
    fn a_caller_with_many_requests_leaves_permits_for_others() {
        let limit = ConcurrencyLimit::new(12, gauge());
        let greedy: Vec<_> = (0..12).filter_map(|_| limit.try_acquire(1, true)).collect();
        assert_eq!(greedy.len(), 6);
        let second: Vec<_> = (0..12).filter_map(|_| limit.try_acquire(2, true)).collect();
        assert_eq!(second.len(), 4);
        let third = limit.try_acquire(3, true);
        assert!(third.is_some());
        assert_eq!(limit.gauge.get(), 11);
        drop(second);
        assert_eq!(limit.gauge.get(), 7);
        assert_eq!(limit.lock().len(), 2);
    }

    #[test]
    fn more_callers_than_permits_get_one_each_while_they_last() {
        let limit = ConcurrencyLimit::new(2, gauge());
        let held: Vec<_> = (1..=3).map(|caller| limit.try_acquire(caller, true)).collect();
        assert_eq!(held.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false]);
    }

    #[test]
    fn bytes_are_returned_when_a_reservation_is_dropped() {
        let budget = ByteBudget::new(100, gauge());
        let whole = budget.reservation();
        assert!(whole.add(60));
        let part = whole.split(50);
        drop(whole);
        assert_eq!(budget.gauge.get(), 50);
        let next = budget.reservation();
        assert!(!next.add(51));
        assert_eq!(next.fault(), Some(BodyFault::OverBudget));
        drop((part, next));
        assert_eq!((budget.gauge.get(), budget.has_capacity(100), budget.has_capacity(101)), (0, true, false));
    }

    #[test]
    fn the_budget_may_be_used_up_and_not_exceeded() {
        let budget = ByteBudget::new(10, gauge());
        let reservation = budget.reservation();
        assert!(reservation.add(10));
        assert_eq!(reservation.fault(), None);
        assert!(!reservation.add(1));
        reservation.set_fault(BodyFault::TooSlow);
        assert_eq!(reservation.fault(), Some(BodyFault::OverBudget), "the first fault counts");
    }

    #[test]
    fn a_compressed_message_is_counted_at_its_full_size() {
        let budget = ByteBudget::new(100, gauge());
        let reservation = budget.reservation();
        assert!(reservation.add(10) && reservation.grow_to(40));
        assert_eq!(budget.gauge.get(), 40);
        assert!(reservation.grow_to(30), "it does not shrink");
        assert_eq!(budget.gauge.get(), 40);
        let part = reservation.split(70);
        assert_eq!((budget.gauge.get(), part.fault()), (70, None));
        assert_eq!(reservation.split(31).fault(), Some(BodyFault::OverBudget));
        drop((reservation, part));
        assert_eq!(budget.gauge.get(), 0);
    }

    #[tokio::test]
    async fn a_guarded_body_keeps_its_guard_and_its_size() {
        let limit = ConcurrencyLimit::new(1, gauge());
        let body = GuardedBody::new(Body::from("12345"), limit.try_acquire(0, false));
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(5), false));
        assert!(GuardedBody::new(Body::empty(), ()).is_end_stream());
        assert!(limit.try_acquire(0, false).is_none());
        assert_eq!(axum::body::to_bytes(Body::new(body), 5).await.unwrap(), "12345");
        assert!(limit.try_acquire(0, false).is_some());
    }
}
