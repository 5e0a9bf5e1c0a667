//! The state that every handler needs: the captioner once its models are loaded, the readiness and the limits.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::{StreamExt, stream, stream::BoxStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    caption::{CaptionEvent, CaptionReply, CaptionRequest},
    captioner::Captioner,
    config::ServerConfig,
    error::CaptionError,
    observability::prometheus::Metrics,
    registry::ServedModel,
    server::{
        health::{Phase, SHUTTING_DOWN},
        middleware::context::RequestContext,
        protocol::ContentLimits,
    },
};

/// Shared by the handlers of both transports.
#[derive(Debug)]
pub(crate) struct AppState {
    captioner: OnceLock<Captioner>,
    /// Limits of a request's content.
    pub(crate) limits: ContentLimits,
    /// Largest REST body or gRPC message, in bytes.
    pub(crate) max_body_bytes: usize,
    /// Name of the server in its metadata.
    pub(crate) name: String,
    /// Starting, serving or shutting down.
    pub(crate) phase: watch::Receiver<Phase>,
    /// The metrics of the process.
    pub(crate) metrics: Metrics,
    /// Whether clients may load and unload models.
    pub(crate) model_control: bool,
    /// Longest run of a graph before its model counts as stuck; zero means no limit.
    watchdog: Duration,
    /// Cancelled when the grace period of a shutdown is over.
    closing: CancellationToken,
}

impl AppState {
    /// A state whose models are still loading.
    pub(crate) fn new(
        config: &ServerConfig,
        metrics: Metrics,
        phase: watch::Receiver<Phase>,
        closing: CancellationToken,
    ) -> Self {
        Self {
            captioner: OnceLock::new(),
            limits: ContentLimits::new(config),
            max_body_bytes: config.limits.max_body_bytes,
            name: config.server_name.clone(),
            phase,
            metrics,
            model_control: config.model_control,
            watchdog: config.watchdog,
            closing,
        }
    }

    /// Sets the captioner when its models are loaded. Only the first call has an effect.
    pub(crate) fn set_captioner(&self, captioner: Captioner) -> &Captioner {
        self.captioner.get_or_init(|| captioner)
    }

    /// The captioner, or an error while the models are loading.
    pub(crate) fn captioner(&self) -> Result<&Captioner, CaptionError> {
        self.captioner.get().ok_or(CaptionError::Unavailable("the models are loading"))
    }

    /// Whether the server accepts requests.
    pub(crate) fn is_ready(&self) -> bool {
        *self.phase.borrow() == Phase::Serving
    }

    /// False if only a restart helps: an engine stopped or is stuck.
    pub(crate) fn is_live(&self) -> bool {
        let Some(captioner) = self.captioner.get() else { return true };
        let is_stuck = !self.watchdog.is_zero() && captioner.registry().longest_action() > self.watchdog;
        captioner.registry().is_serving() && !is_stuck
    }

    /// The model that a request names.
    pub(crate) fn resolve(&self, request: &CaptionRequest) -> Result<Arc<ServedModel>, CaptionError> {
        self.captioner()?.resolve(request)
    }

    /// Captions one image. As in the functions below, dropping the future, when the client disconnects, cancels the work.
    pub(crate) async fn caption(
        &self,
        context: &RequestContext,
        model: &ServedModel,
        request: CaptionRequest,
    ) -> Result<CaptionReply, CaptionError> {
        let (cancelled, _guard) = cancelled_on_drop();
        context.record.set_model(&model.name);
        let reply = self.captioner()?.caption(model, CaptionRequest { cancelled, ..request }).await?;
        context.record.add_timings(reply.timings);
        Ok(reply)
    }

    /// Captions at most `concurrency` images of one request concurrently: a result for each, in order.
    pub(crate) async fn caption_all(
        &self,
        context: &RequestContext,
        model: &ServedModel,
        mut requests: Vec<CaptionRequest>,
        concurrency: usize,
    ) -> Result<Vec<Result<CaptionReply, CaptionError>>, CaptionError> {
        let (cancelled, _guard) = cancelled_on_drop();
        for request in &mut requests {
            request.cancelled = cancelled.clone();
        }
        context.record.set_model(&model.name);
        let results = self.captioner()?.caption_all(model, requests, concurrency).await;
        for reply in results.iter().flatten() {
            context.record.add_timings(reply.timings);
        }
        Ok(results)
    }

    /// Captions one image as a stream of events, which ends with the grace period of a shutdown.
    pub(crate) fn stream(
        &self,
        context: &RequestContext,
        model: &Arc<ServedModel>,
        request: CaptionRequest,
    ) -> Result<BoxStream<'static, Result<CaptionEvent, CaptionError>>, CaptionError> {
        let (cancelled, guard) = cancelled_on_drop();
        context.record.set_model(&model.name);
        let events = self.captioner()?.stream(model, CaptionRequest { cancelled, ..request });
        let events = events.map(move |event| {
            let _guard = &guard;
            event
        });
        let closed = self.closing.clone();
        let ending = stream::once(async move { closed.is_cancelled().then_some(Err(SHUTTING_DOWN)) });
        let ending = ending.filter_map(|ending| async { ending });
        Ok(events.take_until(self.closing.clone().cancelled_owned()).chain(ending).boxed())
    }
}

/// A token that is cancelled when the guard is dropped.
fn cancelled_on_drop() -> (CancellationToken, DropGuard) {
    let token = CancellationToken::new();
    (token.clone(), token.drop_guard())
}
