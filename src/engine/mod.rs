//! Who runs when: one OS thread per model owns the sessions and decodes all admitted images together.
//!
//! [`Engine`] is the handle everybody else holds: a bounded sender. The thread ends when the last handle is dropped.

mod batch;
mod worker;

use std::{thread, time::Instant};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use crate::{
    blip::BlipModel,
    error::CaptionError,
    generation::{Search, Sequence, TokenId},
    image::PixelValues,
};

/// Jobs inside the engine's channel. Those behind them wait in their senders, in order; admission bounds them.
const CHANNEL_CAPACITY: usize = 16;

/// One image to caption, with everything checked.
#[derive(Debug)]
pub struct Job {
    /// What the model sees.
    pub pixel_values: PixelValues,
    /// At least the start token.
    pub prompt: Vec<TokenId>,
    /// Decides the tokens.
    pub search: Search,
    /// After this nobody waits for the answer.
    pub deadline: Option<Instant>,
    /// Cancelled when the client goes away.
    pub cancelled: CancellationToken,
}

/// Handle of the thread that runs a model.
#[derive(Clone, Debug)]
pub struct Engine {
    sender: mpsc::Sender<Entry>,
}

/// A job on its way through the thread.
struct Entry {
    job: Job,
    reply: Reply,
}

/// Where the sequences go, and when they are not wanted any more.
struct Reply {
    sender: oneshot::Sender<Result<Vec<Sequence>, CaptionError>>,
    deadline: Option<Instant>,
    cancelled: CancellationToken,
    /// The request's span: work on the engine's thread is logged under it.
    span: Span,
}

impl Engine {
    /// Starts the thread, which takes the model. At most `max_rows` rows decode together; an image with more rows
    /// decodes alone.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn spawn(name: &str, model: BlipModel, max_rows: usize) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel(CHANNEL_CAPACITY);
        thread::Builder::new()
            .name(format!("engine-{name}"))
            .spawn(move || worker::Worker::new(model, max_rows, receiver).run())?;
        Ok(Self { sender })
    }

    /// Decodes one image, in company if there is any.
    ///
    /// # Errors
    /// Cancelled, too late, a run of a graph failed, or the engine is gone.
    pub async fn run(&self, job: Job) -> Result<Vec<Sequence>, CaptionError> {
        let (sender, receiver) = oneshot::channel();
        let reply = Reply { sender, deadline: job.deadline, cancelled: job.cancelled.clone(), span: Span::current() };
        // Waiting here is bounded: whoever calls was admitted, and drops this future when its time is over.
        let sent = self.sender.send(Entry { job, reply }).await;
        sent.map_err(|_| CaptionError::Unavailable(NOT_SERVING))?;
        receiver.await.unwrap_or(Err(CaptionError::Unavailable(NOT_SERVING)))
    }

    /// False once the thread has died.
    pub fn is_running(&self) -> bool {
        !self.sender.is_closed()
    }
}

const NOT_SERVING: &str = "the model is not serving";

impl Reply {
    /// Why the answer is not wanted any more, if so.
    fn unwanted(&self) -> Option<CaptionError> {
        if self.cancelled.is_cancelled() || self.sender.is_closed() {
            Some(CaptionError::Cancelled)
        } else if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            Some(CaptionError::DeadlineExceeded)
        } else {
            None
        }
    }

    fn send(self, result: Result<Vec<Sequence>, CaptionError>) {
        // The receiver is gone if the client is: nobody is left to tell.
        let _ = self.sender.send(result);
    }
}
