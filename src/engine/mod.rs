//! Who runs when: an OS thread owns the sessions of a model and decodes all admitted images together.
//!
//! A model can have several such threads, its instances, each with sessions and a batch of its own. [`Engine`] is the handle
//! everybody else holds. The threads end when it is dropped.

mod batch;
mod encoder_abort;
mod instance;
mod latency;
mod queue;
mod stages;
mod watch;
mod worker;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub use encoder_abort::ImageCache;
use instance::Instance;
use stages::Stages;

use crate::{
    blip::{BlipModel, EncodedImage},
    error::CaptionError,
    observability::ModelRecorder,
};
use generation::{Search, Sequence, TokenId};
use image_processor::PixelValues;

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
    pub audience: RequestHandle,
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
pub struct RequestHandle {
    /// After this nobody waits for the answer.
    pub deadline: Option<Instant>,
    /// Cancelled when the client goes away.
    pub cancelled: CancellationToken,
    /// Takes the ids decided so far, prompt included, after each step of a search that decides as it goes.
    pub progress: Option<tokio::sync::watch::Sender<Vec<TokenId>>>,
    /// Whose turn it is to wait.
    pub caller: Caller,
    /// Which instance must do it, if not just any.
    pub instance: Option<usize>,
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

/// Handle of the threads that run a model.
#[derive(Debug)]
pub struct Engine {
    instances: Vec<Instance>,
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
    audience: RequestHandle,
    called: Instant,
    /// When the first graph ran.
    admitted: Option<Instant>,
    /// The request's span, under which work on the engine's thread is logged, and what it tells of it.
    stages: Stages,
}

impl Engine {
    /// Starts a thread for each of `models`, which are one and the same, loaded several times.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn spawn(
        name: &str,
        models: Vec<BlipModel>,
        limits: EngineLimits,
        recorder: &Arc<ModelRecorder>,
        images: &Arc<ImageCache>,
    ) -> std::io::Result<Self> {
        let spawn = |(index, model)| Instance::spawn((name, index), model, limits, recorder.clone(), images.clone());
        let instances = models.into_iter().enumerate().map(spawn);
        Ok(Self { instances: instances.collect::<Result<_, _>>()? })
    }

    /// Decodes one image, in company if there is any. Dropped, it ends the run of the encoder if that is for this image.
    ///
    /// # Errors
    /// Cancelled, too late, a run of a graph failed, or the engine is gone.
    pub async fn run(&self, job: Job) -> Result<Outcome, CaptionError> {
        let instance = match job.audience.instance {
            Some(index) => self.instances.get(index),
            None => self.instances.iter().min_by_key(|instance| instance.rows()),
        };
        instance.ok_or(CaptionError::Unavailable(NOT_SERVING))?.run(job).await
    }

    /// How many run side by side.
    pub fn instances(&self) -> usize {
        self.instances.len()
    }

    /// How long a thread has been at what it does now, at most; nothing if all wait for jobs.
    pub fn busy_for(&self) -> Duration {
        self.instances.iter().map(Instance::busy_for).max().unwrap_or_default()
    }

    /// False once a thread has died.
    pub fn is_running(&self) -> bool {
        self.instances.iter().all(Instance::is_running)
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
