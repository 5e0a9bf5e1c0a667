//! The engine: an OS thread owns a loaded model and decodes all admitted images together.
//!
//! A model can have several such threads, its instances, each with its own sessions and batch. [`Engine`] is their
//! handle for all other code; the threads end when it is dropped. Between two runs of the model a thread asks the
//! `scheduler`, a pure function, for the next action, and the `worker` executes it. The engine uses the model only as a
//! [`Backend`].

mod backend;
mod batch;
mod encoder_abort;
mod entry;
mod image_cache;
mod instance;
mod latency;
mod queue;
mod scheduler;
#[cfg(test)]
mod scripted;
mod worker;

use std::time::Duration;

pub use backend::{AbortHandle, Backend};
pub use entry::{Caller, Job, JobImage, Outcome, RequestHandle};
pub use image_cache::{Digest, ImageCache};
pub use scheduler::EngineLimits;
pub use worker::EngineConfig;

use instance::{Instance, NOT_SERVING};

use crate::error::CaptionError;

/// The threads that run a model.
#[derive(Debug)]
pub struct Engine<B: Backend> {
    instances: Vec<Instance<B>>,
}

impl<B: Backend> Engine<B> {
    /// Starts a thread for each of `backends`, which are the same model, loaded several times.
    ///
    /// # Errors
    /// The operating system cannot start a thread.
    pub fn spawn(name: &str, backends: Vec<B>, config: &EngineConfig<B::EncodedImage>) -> std::io::Result<Self> {
        let spawn = |(index, backend)| Instance::spawn(name, index, backend, config.clone());
        let instances = backends.into_iter().enumerate().map(spawn);
        Ok(Self { instances: instances.collect::<Result<_, _>>()? })
    }

    /// Decodes one image, together with other admitted ones. Dropping the future aborts a run of the encoder that no
    /// other job waits for.
    ///
    /// # Errors
    /// The job was cancelled or its deadline passed, a run of the model failed, or the engine has stopped.
    pub async fn run(&self, job: Job<B::EncodedImage>) -> Result<Outcome, CaptionError> {
        let instance = match job.request.instance {
            Some(index) => self.instances.get(index),
            None => self.instances.iter().min_by_key(|instance| instance.rows()),
        };
        instance.ok_or(CaptionError::Unavailable(NOT_SERVING))?.run(job).await
    }

    /// Returns the number of instances.
    pub fn instances(&self) -> usize {
        self.instances.len()
    }

    /// Returns the longest time that an instance has been executing its current action; zero if all wait for jobs.
    pub fn busy_for(&self) -> Duration {
        self.instances.iter().map(Instance::busy_for).max().unwrap_or_default()
    }

    /// Returns false once a thread has ended.
    pub fn is_running(&self) -> bool {
        self.instances.iter().all(Instance::is_running)
    }
}
