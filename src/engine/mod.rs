//! Who runs when: one OS thread per model owns the sessions and decodes all admitted images together.
//!
//! [`Engine`] is the handle everybody else holds: a bounded sender. The thread ends when the last handle is dropped.

mod batch;
mod encoding;
mod stages;
mod waiting;
mod watch;
mod worker;

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use encoding::Encoding;
pub use encoding::ImageCache;
use stages::Stages;
use watch::RunWatch;

use crate::{
    blip::{BlipModel, EncodedImage},
    error::CaptionError,
    generation::{Search, Sequence, TokenId},
    image::PixelValues,
    statistics::Statistics,
};

/// Jobs on their way to the thread, which takes them out between two runs of a graph. Those behind them wait in their
/// senders, in order; admission bounds all.
const CHANNEL_CAPACITY: usize = 16;

/// One image to caption, with everything checked.
#[derive(Debug)]
pub struct Job {
    /// What the model sees.
    pub image: JobImage,
    /// At least the start token.
    pub prompt: Vec<TokenId>,
    /// Decides the tokens.
    pub search: Search,
    /// Who waits for them.
    pub audience: Audience,
}

/// What the thread of a model may do at once.
#[derive(Clone, Copy, Debug)]
pub struct EngineLimits {
    /// Rows of a decoder step; an image with more rows decodes alone.
    pub max_rows: usize,
    /// Images of a run of the encoder.
    pub max_batch_size: usize,
    /// How long such a run waits for more images when nothing else is to be done.
    pub max_batch_delay: Duration,
}

/// The image of a job.
#[derive(Debug)]
pub enum JobImage {
    /// To be encoded.
    Pixels {
        /// What the encoder takes.
        pixel_values: PixelValues,
        /// Under which the encoded image is kept for other prompts on it.
        digest: Option<Digest>,
    },
    /// Kept from an earlier job.
    Encoded(Arc<EncodedImage>),
}

/// SHA-256 of an image's file.
pub type Digest = [u8; 32];

/// Who waits for an answer, and how long.
#[derive(Debug, Default)]
pub struct Audience {
    /// After this nobody waits for the answer.
    pub deadline: Option<Instant>,
    /// Cancelled when the client goes away.
    pub cancelled: CancellationToken,
    /// Takes the ids decided so far, prompt included, after each step of a search that decides as it goes.
    pub progress: Option<tokio::sync::watch::Sender<Vec<TokenId>>>,
    /// Whose turn it is to wait.
    pub caller: Caller,
}

/// Who asks, as a number: callers take turns.
pub type Caller = u64;

/// A finished job.
#[derive(Debug)]
pub struct Outcome {
    /// Best first with beams.
    pub sequences: Vec<Sequence>,
    /// From the call to the first run of a graph.
    pub queue: Duration,
    /// From there to the last token.
    pub infer: Duration,
}

/// Handle of the thread that runs a model.
#[derive(Clone, Debug)]
pub struct Engine {
    sender: mpsc::Sender<Entry>,
    /// What the encoder is busy with.
    encoding: Encoding,
    /// Since when a run is going on.
    run: RunWatch,
}

/// A job on its way through the thread.
struct Entry {
    image: JobImage,
    prompt: Vec<TokenId>,
    search: Search,
    reply: Reply,
}

/// Where the sequences go, and when they are not wanted any more.
struct Reply {
    id: u64,
    sender: oneshot::Sender<Result<Outcome, CaptionError>>,
    audience: Audience,
    called: Instant,
    /// When the first graph ran.
    admitted: Option<Instant>,
    /// The request's span, under which work on the engine's thread is logged, and what it tells of it.
    stages: Stages,
}

impl Engine {
    /// Starts the thread, which takes the model.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn spawn(
        name: &str,
        model: BlipModel,
        limits: EngineLimits,
        statistics: Arc<Statistics>,
        images: Arc<ImageCache>,
    ) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel(CHANNEL_CAPACITY);
        let encoding = Encoding::default();
        let run = RunWatch::default();
        let worker = worker::Worker::new(model, limits, receiver, statistics, (images, encoding.clone(), run.clone()));
        // A panic ends the thread and with it the channel: the server sees that the engine is gone.
        thread::Builder::new().name(format!("engine-{name}")).spawn(move || worker.run())?;
        Ok(Self { sender, encoding, run })
    }

    /// Decodes one image, in company if there is any. Dropped, it ends the run of the encoder if that is for this image.
    ///
    /// # Errors
    /// Cancelled, too late, a run of a graph failed, or the engine is gone.
    pub async fn run(&self, job: Job) -> Result<Outcome, CaptionError> {
        let Job { image, prompt, search, audience } = job;
        let (sender, receiver) = oneshot::channel();
        let id = self.encoding.next_id();
        let called = Instant::now();
        let stages = Stages::new(Span::current(), called, (search.rows(), prompt.len()));
        let reply = Reply { id, sender, audience, called, admitted: None, stages };
        // Waiting here is bounded: whoever calls was admitted, and drops this future when its time is over.
        let sent = self.sender.send(Entry { image, prompt, search, reply }).await;
        sent.map_err(|_| CaptionError::Unavailable(NOT_SERVING))?;
        let _leaving = self.encoding.abort_on_drop(id);
        receiver.await.unwrap_or(Err(CaptionError::Unavailable(NOT_SERVING)))
    }

    /// How long the thread has been at what it does now; nothing if it waits for jobs.
    pub fn busy_for(&self) -> Duration {
        self.run.elapsed()
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
        if self.audience.cancelled.is_cancelled() || self.sender.is_closed() {
            Some(CaptionError::Cancelled)
        } else if self.audience.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            Some(CaptionError::DeadlineExceeded)
        } else {
            None
        }
    }

    /// Tells who reads along what is decided.
    fn tell(&self, search: &Search) {
        if let (Some(progress), Some(decided)) = (&self.audience.progress, search.decided()) {
            progress.send_modify(|ids| ids.extend_from_slice(&decided[ids.len()..]));
        }
    }

    fn finish(self, sequences: Vec<Sequence>) {
        let admitted = self.admitted.unwrap_or(self.called);
        let (queue, infer) = (admitted - self.called, admitted.elapsed());
        self.stages.end(&sequences);
        self.send(Ok(Outcome { sequences, queue, infer }));
    }

    fn fail(self, error: CaptionError) {
        self.stages.end(&[]);
        self.send(Err(error));
    }

    fn send(self, result: Result<Outcome, CaptionError>) {
        // The receiver is gone if the client is: nobody is left to tell.
        let _ = self.sender.send(result);
    }
}
