//! The state that the layers share: limits, keys and permits, the same for all requests of a port.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Origin, ServerConfig, api_keys::ApiKeys, limits::Limits},
    observability::prometheus::Metrics,
    server::{
        health::Phase,
        middleware::capacity::{ByteBudget, ConcurrencyLimit},
    },
};

/// State of the layers of one port.
#[derive(Debug)]
pub(crate) struct LayerState {
    /// Keys of the clients; without any, every client may call.
    pub(crate) api_keys: watch::Receiver<ApiKeys>,
    pub(crate) limits: Limits,
    pub(crate) concurrency: Arc<ConcurrencyLimit>,
    pub(crate) budget: Arc<ByteBudget>,
    pub(crate) metrics: Metrics,
    /// Whether the metrics page needs no key.
    pub(crate) open_metrics: bool,
    /// Cancelled when the grace period of a shutdown is over, which ends every request.
    pub(crate) closing: CancellationToken,
    pub(crate) phase: watch::Receiver<Phase>,
    /// Origins whose pages may call REST.
    pub(crate) cors_origins: Vec<Origin>,
}

impl LayerState {
    pub(crate) fn new(
        config: &ServerConfig,
        metrics: &Metrics,
        api_keys: watch::Receiver<ApiKeys>,
        closing: CancellationToken,
        phase: watch::Receiver<Phase>,
    ) -> Arc<Self> {
        let limits = config.limits;
        metrics.capacity.set(limits.queue_capacity.into());
        metrics.in_flight_bytes_limit.set(limits.max_inflight_bytes as i64);
        Arc::new(Self {
            api_keys,
            limits,
            concurrency: ConcurrencyLimit::new(limits.queue_capacity as usize, metrics.in_flight.clone()),
            budget: ByteBudget::new(limits.max_inflight_bytes, metrics.in_flight_bytes.clone()),
            metrics: metrics.clone(),
            open_metrics: config.open_metrics,
            closing,
            phase,
            cors_origins: config.cors_origins.clone(),
        })
    }

    /// The state for the administrators' port, where no request needs a key.
    pub(crate) fn for_admin(&self) -> Arc<Self> {
        Arc::new(Self {
            api_keys: watch::channel(ApiKeys::default()).1,
            limits: self.limits,
            // Only an unknown path needs a permit there, and must not take one of the clients'.
            concurrency: ConcurrencyLimit::new(1, self.metrics.in_flight.clone()),
            budget: self.budget.clone(),
            metrics: self.metrics.clone(),
            open_metrics: true,
            closing: self.closing.clone(),
            phase: self.phase.clone(),
            cors_origins: vec![],
        })
    }

    /// A state with these limits and keys, for the tests of a layer.
    #[cfg(test)]
    pub(crate) fn for_test(limits: Limits, keys: &[&str]) -> Self {
        let metrics = Metrics::new().unwrap();
        let keys = ApiKeys::parse(keys.iter().copied(), 0.0).unwrap();
        Self {
            api_keys: watch::channel(keys).1,
            limits,
            concurrency: ConcurrencyLimit::new(limits.queue_capacity as usize, metrics.in_flight.clone()),
            budget: ByteBudget::new(limits.max_inflight_bytes, metrics.in_flight_bytes.clone()),
            metrics,
            open_metrics: false,
            closing: CancellationToken::new(),
            phase: watch::channel(Phase::Serving).1,
            cors_origins: vec![],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_administrators_port_needs_no_key_and_takes_no_permit_of_the_clients() {
        let state = LayerState::for_test(Limits { queue_capacity: 1, ..Limits::defaults() }, &["key"]);
        let admin = state.for_admin();
        assert!(admin.api_keys.borrow().is_empty() && admin.open_metrics && admin.cors_origins.is_empty());
        let permit = admin.concurrency.try_acquire(0, false);
        assert!(permit.is_some() && admin.concurrency.try_acquire(0, false).is_none());
        assert!(state.concurrency.try_acquire(0, false).is_some());
        assert!(admin.budget.reservation().add(1) && Arc::ptr_eq(&admin.budget, &state.budget));
    }
}
