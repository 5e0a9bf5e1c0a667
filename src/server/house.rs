//! What every handler needs: the captioner once it is there, the readiness, the limits.

use std::sync::OnceLock;

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    captioner::Captioner,
    config::ServerConfig,
    error::CaptionError,
    server::{convert::ContentLimits, health::Phase},
};

/// Shared by the handlers of both transports.
#[derive(Debug)]
pub(crate) struct House {
    captioner: OnceLock<Captioner>,
    /// Bounds of a request's content.
    pub(crate) limits: ContentLimits,
    /// Bytes of a REST body or a gRPC message.
    pub(crate) max_body_bytes: usize,
    /// Name of the server in its metadata.
    pub(crate) name: String,
    /// Where the server is in its life.
    pub(crate) phase: watch::Receiver<Phase>,
    /// Cancelled when the grace of a shutdown is over.
    pub(crate) closing: CancellationToken,
}

impl House {
    /// A house whose models are still loading.
    pub(crate) fn new(config: &ServerConfig, phase: watch::Receiver<Phase>, closing: CancellationToken) -> Self {
        Self {
            captioner: OnceLock::new(),
            limits: ContentLimits::new(config),
            max_body_bytes: config.max_body_bytes,
            name: config.server_name.clone(),
            phase,
            closing,
        }
    }

    /// The models are loaded. Only the first call counts.
    pub(crate) fn open(&self, captioner: Captioner) -> &Captioner {
        self.captioner.get_or_init(|| captioner)
    }

    /// The way to the models.
    pub(crate) fn captioner(&self) -> Result<&Captioner, CaptionError> {
        self.captioner.get().ok_or(CaptionError::Unavailable("the models are loading"))
    }

    /// Whether new requests are welcome.
    pub(crate) fn is_ready(&self) -> bool {
        *self.phase.borrow() == Phase::Serving
    }
}

/// `events` up to the end of the grace of a shutdown, which is told to whoever still reads.
pub(crate) fn until_closing<T>(
    events: impl Stream<Item = Result<T, CaptionError>>,
    closing: CancellationToken,
) -> impl Stream<Item = Result<T, CaptionError>> {
    let closed = closing.clone();
    let ending = stream::once(async move { closed.is_cancelled().then_some(Err(SHUTTING_DOWN)) });
    events.take_until(closing.cancelled_owned()).chain(ending.filter_map(|ending| async { ending }))
}

/// What requests that outlive the grace are told.
pub(crate) const SHUTTING_DOWN: CaptionError = CaptionError::Unavailable("the server is shutting down");

/// A token that is cancelled when the guard goes, which is when the handler ends or its client disconnects.
pub(crate) fn cancelled_on_drop() -> (CancellationToken, tokio_util::sync::DropGuard) {
    let token = CancellationToken::new();
    (token.clone(), token.drop_guard())
}
