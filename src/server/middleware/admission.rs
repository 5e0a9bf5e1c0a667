//! Who gets in: places for requests, shared fairly between API keys, and bytes for their bodies.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use prometheus::IntGauge;

use crate::error::CaptionError;

/// What a client is told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// No place is free.
pub(crate) const QUEUE_FULL: CaptionError =
    CaptionError::Overloaded { bound: "queue_capacity", retry_after: RETRY_AFTER };
/// No bytes are free.
pub(crate) const INFLIGHT_BYTES_FULL: CaptionError =
    CaptionError::Overloaded { bound: "max_inflight_bytes", retry_after: RETRY_AFTER };

/// `queue_capacity` places.
#[derive(Debug)]
pub(crate) struct ConcurrencyLimit {
    capacity: usize,
    /// ConcurrencyLimit taken, by caller. Callers without any are not in it.
    taken: Mutex<HashMap<u64, usize>>,
    gauge: IntGauge,
}

/// A place; free again when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    places: Arc<ConcurrencyLimit>,
    caller: u64,
}

impl ConcurrencyLimit {
    pub(crate) fn new(capacity: usize, gauge: IntGauge) -> Arc<Self> {
        Arc::new(Self { capacity, taken: Mutex::default(), gauge })
    }

    /// A place for this caller, if there is one. Where `shared`, a caller gets no more than its share: one part of the
    /// places for each caller that has some, and one for the next that comes.
    pub(crate) fn take(self: &Arc<Self>, caller: u64, shared: bool) -> Option<Permit> {
        let mut taken = self.lock();
        let own = taken.get(&caller).copied().unwrap_or(0);
        let callers = taken.len() + usize::from(own == 0);
        let share = if shared { (self.capacity / (callers + 1)).max(1) } else { self.capacity };
        if own >= share || taken.values().sum::<usize>() >= self.capacity {
            return None;
        }
        taken.insert(caller, own + 1);
        self.gauge.inc();
        Some(Permit { places: self.clone(), caller })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        if let Some(own) = taken.get_mut(&self.caller) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.caller);
            }
        }
        self.places.gauge.dec();
    }
}

/// `max_inflight_bytes`.
#[derive(Debug)]
pub(crate) struct ByteBudget {
    limit: usize,
    used: AtomicUsize,
    gauge: IntGauge,
}

/// Why a body was not read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The budget is used up.
    TooMuch,
    /// Nothing came for too long.
    TooSlow,
}

/// What the bodies of one request have of the budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct ByteReservation {
    budget: Arc<ByteBudget>,
    held: AtomicUsize,
    fault: OnceLock<Fault>,
}

impl ByteBudget {
    pub(crate) fn new(limit: usize, gauge: IntGauge) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0), gauge })
    }

    /// Whether so many bytes more would fit now.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.used.load(Ordering::Relaxed).saturating_add(bytes) <= self.limit
    }

    /// For one request.
    pub(crate) fn reservation(self: &Arc<Self>) -> Arc<ByteReservation> {
        Arc::new(ByteReservation { budget: self.clone(), held: AtomicUsize::new(0), fault: OnceLock::new() })
    }
}

impl ByteReservation {
    /// Takes more of the budget, or marks the request as refused.
    pub(crate) fn add(&self, bytes: usize) -> bool {
        let used = self.budget.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.held.fetch_add(bytes, Ordering::Relaxed);
        self.budget.gauge.add(bytes as i64);
        if used > self.budget.limit {
            self.fail(Fault::TooMuch);
        }
        used <= self.budget.limit
    }

    /// Takes what a message is larger than what came over the wire: it was compressed.
    pub(crate) fn hold(&self, bytes: usize) -> bool {
        self.add(bytes.saturating_sub(self.held.load(Ordering::Relaxed)))
    }

    /// Hands a message of a stream, and its bytes with it, to whoever works on it.
    pub(crate) fn split(&self, bytes: usize) -> Arc<Self> {
        let part = self.budget.reservation();
        // What came over the wire was perhaps compressed: the rest is new.
        let moved = self.held.load(Ordering::Relaxed).min(bytes);
        self.held.fetch_sub(moved, Ordering::Relaxed);
        part.held.store(moved, Ordering::Relaxed);
        part.add(bytes - moved);
        part
    }

    pub(crate) fn fail(&self, fault: Fault) {
        self.fault.get_or_init(|| fault);
    }

    pub(crate) fn fault(&self) -> Option<Fault> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn gauge() -> IntGauge {
        IntGauge::new("g", "g").unwrap()
    }

    #[test]
    fn a_lone_caller_may_have_every_place() {
        let places = ConcurrencyLimit::new(2, gauge());
        let held: Vec<_> = (0..3).map(|_| places.take(0, false)).collect();
        assert_eq!(held.iter().flatten().count(), 2);
        drop(held);
        assert!(places.take(0, false).is_some() && places.lock().is_empty());
    }

    #[test]
    fn a_greedy_caller_leaves_room_for_others() {
        let places = ConcurrencyLimit::new(12, gauge());
        let greedy: Vec<_> = (0..12).filter_map(|_| places.take(1, true)).collect();
        assert_eq!(greedy.len(), 6);
        let second: Vec<_> = (0..12).filter_map(|_| places.take(2, true)).collect();
        assert_eq!(second.len(), 4);
        assert!(places.take(3, true).is_some());
        assert_eq!(places.gauge.get(), 10);
    }

    #[test]
    fn bytes_are_given_back() {
        let budget = ByteBudget::new(100, gauge());
        let whole = budget.reservation();
        assert!(whole.add(60));
        let part = whole.split(50);
        drop(whole);
        assert_eq!(budget.gauge.get(), 50);
        let next = budget.reservation();
        assert!(!next.add(51));
        assert_eq!(next.fault(), Some(Fault::TooMuch));
        drop((part, next));
        assert_eq!((budget.gauge.get(), budget.has_room(100), budget.has_room(101)), (0, true, false));
    }
}
