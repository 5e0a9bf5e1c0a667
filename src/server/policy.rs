//! What every layer of the chain needs to know: who may come in, how much, until when.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    api_keys::ApiKeys,
    config::{Origin, ServerConfig},
    limits::Limits,
    metrics::Metrics,
    server::{
        admission::{Budget, Places},
        context::Kind,
        health::Phase,
    },
};

/// Of a body that holds no image.
const MAX_METADATA_BYTES: usize = 64 << 10;

/// What the layers need to know; shared by all requests.
#[derive(Debug)]
pub(crate) struct Policy {
    /// Who may call; none: everyone.
    pub(super) api_keys: watch::Receiver<ApiKeys>,
    pub(super) limits: Limits,
    pub(super) places: Arc<Places>,
    pub(super) budget: Arc<Budget>,
    metrics: Metrics,
    pub(super) open_metrics: bool,
    pub(super) closing: CancellationToken,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) cors_origins: Vec<Origin>,
}

impl Policy {
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
            places: Places::new(limits.queue_capacity as usize, metrics.in_flight.clone()),
            budget: Budget::new(limits.max_inflight_bytes, metrics.in_flight_bytes.clone()),
            metrics: metrics.clone(),
            open_metrics: config.open_metrics,
            closing,
            phase,
            cors_origins: config.cors_origins.clone(),
        })
    }

    /// The same for the administrators' port, where nobody needs a key.
    pub(crate) fn of_administrators(&self) -> Arc<Self> {
        Arc::new(Self {
            api_keys: watch::channel(ApiKeys::default()).1,
            limits: self.limits,
            // Nothing there needs one: whoever asks for what is not there takes none of the clients'.
            places: Places::new(1, self.metrics.in_flight.clone()),
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
    pub(crate) fn max_body_bytes(&self, kind: Kind) -> usize {
        match kind {
            Kind::Inference => self.limits.max_body_bytes,
            Kind::Open | Kind::Metadata | Kind::Control => self.limits.max_body_bytes.min(MAX_METADATA_BYTES),
        }
    }
}
