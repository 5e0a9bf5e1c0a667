//! A caption that is read along: the text as it is decided, then the reply.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, stream};
use tokio::sync::watch;

use super::Captioner;
use crate::{
    caption::{CaptionEvent, CaptionReply, CaptionRequest},
    error::CaptionError,
    generation::TokenId,
    registry::ServedModel,
};

/// A caption on its way to a client.
struct Reading {
    model: Arc<ServedModel>,
    work: Pin<Box<dyn Future<Output = Result<CaptionReply, CaptionError>> + Send>>,
    decided: watch::Receiver<Vec<TokenId>>,
    /// What the client has.
    text: String,
    /// When all is said.
    reply: Option<CaptionReply>,
}

impl Captioner {
    /// Captions one image; events come as the text is decided, the reply is the last. Nothing is done before the stream is
    /// polled, and the work ends when it is dropped. A slow reader gets longer pieces; nothing piles up.
    ///
    /// With beams, or several sequences, nothing is decided before the end: the reply is the only event.
    ///
    /// # Errors
    /// There is no such model; any other failure is the last item of the stream.
    pub fn stream(
        &self,
        request: CaptionRequest,
    ) -> Result<impl Stream<Item = Result<CaptionEvent, CaptionError>> + Send + use<>, CaptionError> {
        let model = self.resolve(&request)?.clone();
        let (progress, decided) = watch::channel(Vec::new());
        let (captioner, served) = (self.clone(), model.clone());
        let work = async move {
            let recording = served.statistics.begin();
            let reply = captioner.caption_with(&served, request, Some(progress)).await?;
            recording.succeed(&[reply.timings]);
            Ok(reply)
        };
        let reading = Reading { model, work: Box::pin(work), decided, text: String::new(), reply: None };
        Ok(stream::unfold(Some(reading), |reading| async {
            let mut reading = reading?;
            match reading.next().await {
                Ok(CaptionEvent::Piece(piece)) => Some((Ok(CaptionEvent::Piece(piece)), Some(reading))),
                end => Some((end, None)),
            }
        }))
    }
}

impl Reading {
    async fn next(&mut self) -> Result<CaptionEvent, CaptionError> {
        loop {
            if let Some(reply) = self.reply.take() {
                return Ok(CaptionEvent::Reply(reply));
            }
            let text = tokio::select! {
                biased;
                reply = &mut self.work => self.end(reply?),
                // The sender is a part of the work.
                Ok(()) = self.decided.changed() => {
                    let token_ids = self.decided.borrow_and_update().clone();
                    self.model.decided_text(&token_ids)?
                }
            };
            if let Some(piece) = text.strip_prefix(&self.text).filter(|piece| !piece.is_empty()).map(str::to_owned) {
                self.text = text;
                return Ok(CaptionEvent::Piece(piece));
            }
        }
    }

    /// Keeps the reply for the last event; the text that the pieces must have told by then.
    fn end(&mut self, reply: CaptionReply) -> String {
        let nothing_was_decided = self.decided.borrow().is_empty();
        let text = reply.captions.first().filter(|_| !nothing_was_decided).map(|caption| caption.text.clone());
        self.reply = Some(reply);
        text.unwrap_or_default()
    }
}
