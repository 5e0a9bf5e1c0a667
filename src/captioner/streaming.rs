//! A caption that is read along: the text as it is decided, then the reply.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, stream};
use tokio::sync::watch;

use crate::captioner::Captioner;
use crate::{
    caption::{CaptionEvent, CaptionReply, CaptionRequest},
    error::CaptionError,
    registry::ServedModel,
};
use generation::TokenId;

/// A caption on its way to a client.
struct Reading {
    model: Arc<ServedModel>,
    work: Pin<Box<dyn Future<Output = Result<CaptionReply, CaptionError>> + Send>>,
    decided: watch::Receiver<Vec<TokenId>>,
    /// Decided ids that the client has.
    told: usize,
    /// Their text.
    text: String,
    /// Once the work is done.
    reply: Option<CaptionReply>,
}

impl Captioner {
    /// Captions one image; events come as the text is decided, the reply is the last. Nothing is done before the stream is
    /// polled, and the work ends when it is dropped. Every token that completes some text is an event of its own, however
    /// slow the reader is.
    ///
    /// With beams, or several sequences, nothing is decided before the end: the reply is the only event.
    ///
    /// A failure is the last item of the stream.
    pub fn stream(
        &self,
        model: &Arc<ServedModel>,
        request: CaptionRequest,
    ) -> impl Stream<Item = Result<CaptionEvent, CaptionError>> + Send + use<> {
        let (progress, decided) = watch::channel(Vec::new());
        let (captioner, served) = (self.clone(), model.clone());
        let work = async move {
            let timer = served.recorder.begin_request();
            let reply = captioner.caption_with(&served, request, (Some(progress), false)).await?;
            timer.succeed(&[reply.timings]);
            Ok(reply)
        };
        let reading =
            Reading { model: model.clone(), work: Box::pin(work), decided, told: 0, text: String::new(), reply: None };
        stream::unfold(Some(reading), |reading| async {
            let mut reading = reading?;
            match reading.next().await {
                Ok(CaptionEvent::Piece(piece)) => Some((Ok(CaptionEvent::Piece(piece)), Some(reading))),
                end => Some((end, None)),
            }
        })
    }
}

impl Reading {
    async fn next(&mut self) -> Result<CaptionEvent, CaptionError> {
        loop {
            if self.told < self.decided.borrow().len() {
                self.told += 1;
                let text = self.model.stable_text(&self.decided.borrow()[..self.told])?;
                if let Some(piece) = self.rest(&text) {
                    return Ok(CaptionEvent::Piece(piece));
                }
            } else if let Some(reply) = self.reply.take() {
                // What was held back because later tokens might have changed it.
                let text = reply.captions.first().filter(|_| self.told > 0).map(|caption| caption.text.clone());
                return Ok(match text.and_then(|text| self.rest(&text)) {
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
                    // The sender is a part of the work.
                    Ok(()) = self.decided.changed() => {}
                }
            }
        }
    }

    /// What `text` has that the client has not.
    fn rest(&mut self, text: &str) -> Option<String> {
        let piece = text.strip_prefix(&self.text).filter(|piece| !piece.is_empty())?.to_owned();
        text.clone_into(&mut self.text);
        Some(piece)
    }
}
