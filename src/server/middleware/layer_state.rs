//! What every layer of the chain needs to know: who may come in, how much, until when.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Origin, ServerConfig, api_keys::ApiKeys, limits::Limits},
    observability::prometheus::Metrics,
    server::{
        health::Phase,
        middleware::admission::{ByteBudget, ConcurrencyLimit},
        routes::RouteClass,
    },
};

/// What the layers need to know; shared by all requests.
#[derive(Debug)]
pub(crate) struct LayerState {
    /// Who may call; none: everyone.
    pub(crate) api_keys: watch::Receiver<ApiKeys>,
    pub(crate) limits: Limits,
    pub(crate) places: Arc<ConcurrencyLimit>,
    pub(crate) budget: Arc<ByteBudget>,
    metrics: Metrics,
    pub(crate) open_metrics: bool,
    pub(crate) closing: CancellationToken,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) cors_origins: Vec<Origin>,
}

impl LayerState {
    /// `closing` ends every request that is still running when the grace of a shutdown is over.
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
            places: ConcurrencyLimit::new(limits.queue_capacity as usize, metrics.in_flight.clone()),
            budget: ByteBudget::new(limits.max_inflight_bytes, metrics.in_flight_bytes.clone()),
            metrics: metrics.clone(),
            open_metrics: config.open_metrics,
            closing,
            phase,
            cors_origins: config.cors_origins.clone(),
        })
    }

    /// The same for the administrators' port, where nobody needs a key.
    pub(crate) fn for_admin(&self) -> Arc<Self> {
        Arc::new(Self {
            api_keys: watch::channel(ApiKeys::default()).1,
            limits: self.limits,
            // Nothing there needs one: whoever asks for what is not there takes none of the clients'.
            places: ConcurrencyLimit::new(1, self.metrics.in_flight.clone()),
            budget: self.budget.clone(),
            metrics: self.metrics.clone(),
            open_metrics: true,
            closing: self.closing.clone(),
            phase: self.phase.clone(),
            cors_origins: vec![],
        })
    }

    /// Where requests are counted.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Bytes of a body, by what the request is for.
    pub(crate) fn max_body_bytes(&self, route_class: RouteClass) -> usize {
        route_class.max_body_bytes(self.limits.max_body_bytes)
    }
}
