//! A caption as a stream: pieces of the text as they become final, then the reply.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, stream};
use tokio::sync::watch;

use crate::{
    caption::{CaptionEvent, CaptionReply, CaptionRequest},
    captioner::{Captioner, ImageOptions},
    error::CaptionError,
    registry::ServedModel,
};
use generation::TokenId;

/// The state of one stream.
struct CaptionStream {
    model: Arc<ServedModel>,
    work: Pin<Box<dyn Future<Output = Result<CaptionReply, CaptionError>> + Send>>,
    /// Token ids that are final.
    token_ids: watch::Receiver<Vec<TokenId>>,
    /// Number of them whose text was sent.
    sent: usize,
    /// The text that was sent.
    text: String,
    /// The reply, once the work is done.
    reply: Option<CaptionReply>,
}

impl Captioner {
    /// Captions one image as a stream of events, of which the reply is the last. Nothing happens before the stream is
    /// polled, and the work ends when it is dropped. Every token that completes some text is a separate event, however
    /// slow the client is.
    ///
    /// With beams or several sequences no token is final before the end: the reply is the only event.
    ///
    /// An error is the last item of the stream.
    pub fn stream(
        &self,
        model: &Arc<ServedModel>,
        request: CaptionRequest,
    ) -> impl Stream<Item = Result<CaptionEvent, CaptionError>> + Send + use<> {
        let (progress, token_ids) = watch::channel(Vec::new());
        let (captioner, served) = (self.clone(), model.clone());
        let work = async move {
            let timer = served.recorder.begin_request();
            let options = ImageOptions { progress: Some(progress), single_flight: false };
            let reply = captioner.caption_image(&served, request, options).await?;
            timer.succeed(&[reply.timings]);
            Ok(reply)
        };
        let state = CaptionStream {
            model: model.clone(),
            work: Box::pin(work),
            token_ids,
            sent: 0,
            text: String::new(),
            reply: None,
        };
        stream::unfold(Some(state), |state| async {
            let mut state = state?;
            match state.next().await {
                Ok(CaptionEvent::Piece(piece)) => Some((Ok(CaptionEvent::Piece(piece)), Some(state))),
                end => Some((end, None)),
            }
        })
    }
}

impl CaptionStream {
    async fn next(&mut self) -> Result<CaptionEvent, CaptionError> {
        loop {
            if self.sent < self.token_ids.borrow().len() {
                self.sent += 1;
                let text = self.model.stable_text(&self.token_ids.borrow()[..self.sent])?;
                if let Some(piece) = self.take_piece(&text) {
                    return Ok(CaptionEvent::Piece(piece));
                }
            } else if let Some(reply) = self.reply.take() {
                // The end of the text was held back while later tokens might have changed it.
                let text = reply.captions.first().filter(|_| self.sent > 0).map(|caption| caption.text.clone());
                return Ok(match text.and_then(|text| self.take_piece(&text)) {
                    Some(piece) => {
                        self.reply = Some(reply);
                        CaptionEvent::Piece(piece)
                    }
                    None => CaptionEvent::Reply(reply),
                });
            } else {
                tokio::select! {
                    biased;
                    reply = &mut self.work => self.reply = Some(reply?),
                    // The sender belongs to the work, which ends with it.
                    Ok(()) = self.token_ids.changed() => {}
                }
            }
        }
    }

    /// The part of `text` that was not sent yet; it counts as sent from here on.
    fn take_piece(&mut self, text: &str) -> Option<String> {
        let piece = text.strip_prefix(&self.text).filter(|piece| !piece.is_empty())?.to_owned();
        text.clone_into(&mut self.text);
        Some(piece)
    }
}
