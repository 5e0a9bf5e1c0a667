//! What every handler needs: the captioner, the readiness, the limits.

use futures_util::{StreamExt, stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    caption::{CaptionReply, CaptionRequest},
    captioner::Captioner,
    config::ServerConfig,
    error::CaptionError,
    server::{
        convert::{ContentLimits, infer::gather},
        health::Phase,
    },
};

/// Images of one request that are worked on at the same time; the rest wait, so that one request cannot fill the house.
const IMAGES_AT_ONCE: usize = 8;

/// Shared by the handlers of both transports.
#[derive(Debug)]
pub(crate) struct House {
    /// The way to the models.
    pub(crate) captioner: Captioner,
    /// Bounds of a request's content.
    pub(crate) limits: ContentLimits,
    /// Bytes of a REST body.
    pub(crate) max_body_bytes: usize,
    /// Name of the server in its metadata.
    pub(crate) name: String,
    phase: watch::Receiver<Phase>,
}

impl House {
    /// The server is called after its default model unless a name is set: importers use it in the paths that follow.
    pub(crate) fn new(config: &ServerConfig, captioner: Captioner, phase: watch::Receiver<Phase>) -> Self {
        let name = config.server_name.clone().unwrap_or_else(|| captioner.registry().default_model().name.clone());
        Self { captioner, limits: ContentLimits::new(config), max_body_bytes: config.max_body_bytes, name, phase }
    }

    /// Whether new requests are welcome.
    pub(crate) fn is_ready(&self) -> bool {
        *self.phase.borrow() == Phase::Serving
    }

    /// One reply per request, in order; an error names the images that failed.
    pub(crate) async fn caption_all(&self, requests: Vec<CaptionRequest>) -> Result<Vec<CaptionReply>, CaptionError> {
        let replies = stream::iter(requests).map(|request| self.captioner.caption(request)).buffered(IMAGES_AT_ONCE);
        gather(replies.collect::<Vec<_>>().await.into_iter())
    }
}

/// A token that is cancelled when the guard goes, which is when the handler ends or its client disconnects.
pub(crate) fn cancelled_on_drop() -> (CancellationToken, tokio_util::sync::DropGuard) {
    let token = CancellationToken::new();
    (token.clone(), token.drop_guard())
}
