//! From the source of an image to `pixel_values`.
//!
//! Work that occupies a core runs on the blocking pool, at most one job per core: `spawn_blocking` has no limit and would
//! start a thread for every image in flight.

use std::{
    num::NonZero,
    sync::Arc,
    thread::available_parallelism,
    time::{Duration, Instant},
};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
};
use tracing::Span;

use crate::{
    caption::ImageSource,
    config::ImageConfig,
    error::{CaptionError, Cause},
    fetch::Fetcher,
    observability::{self, ModelRecorder, Stage},
    registry::{Digest, ServedModel},
};
use image_processor::{DecodeError, DecodeLimits, PixelValues, PreprocessConfig};

/// Size up to which a file is hashed in place: handing it to another thread would take about as long.
const INLINE_HASH_LIMIT: usize = 128 * 1024;

/// Loads and preprocesses images; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct ImageLoader {
    fetcher: Fetcher,
    limits: DecodeLimits,
    /// One permit per core.
    permits: Arc<Semaphore>,
}

/// An image file in memory.
#[derive(Debug)]
pub(super) struct ImageFile {
    bytes: Bytes,
    /// The request field that contained it, for errors; `None` if it was fetched.
    field: Option<&'static str>,
}

/// A preprocessed image, and the duration of each stage.
struct PreprocessResult {
    pixel_values: PixelValues,
    decode: Duration,
    preprocess: Duration,
}

impl ImageLoader {
    pub(super) fn new(config: &ImageConfig) -> Result<Self, Cause> {
        Ok(Self {
            fetcher: Fetcher::new(config)?,
            limits: DecodeLimits { max_pixels: config.max_image_pixels },
            permits: Arc::new(Semaphore::new(available_parallelism().map_or(1, NonZero::get))),
        })
    }

    /// Fetches the image if its source is a URL.
    pub(super) async fn load(&self, source: ImageSource, recorder: &ModelRecorder) -> Result<ImageFile, CaptionError> {
        match source {
            ImageSource::Bytes { bytes, field } => Ok(ImageFile { bytes, field: Some(field) }),
            ImageSource::Url(url) => {
                let (start, _stage) = (Instant::now(), observability::stage("fetch"));
                let bytes = self.fetcher.fetch(&url).await?;
                recorder.record_stage(Stage::Fetch, start.elapsed());
                Ok(ImageFile { bytes, field: None })
            }
        }
    }

    /// SHA-256 of an image file.
    pub(super) async fn digest(&self, file: &ImageFile) -> Result<Digest, CaptionError> {
        if file.bytes.len() <= INLINE_HASH_LIMIT {
            return Ok(Sha256::digest(&file.bytes).into());
        }
        let bytes = file.bytes.clone();
        self.run_blocking(move || Sha256::digest(&bytes).into()).await
    }

    /// Decodes an image file, resizes and normalises it.
    pub(super) async fn preprocess(&self, file: ImageFile, model: &ServedModel) -> Result<PixelValues, CaptionError> {
        let ImageFile { bytes, field } = file;
        let (limits, config) = (self.limits, model.preprocess);
        let result = self.run_blocking(move || preprocess(&bytes, &limits, &config)).await?;
        let PreprocessResult { pixel_values, decode, preprocess } = result.map_err(|error| match field {
            Some(field) => CaptionError::image(field, &error),
            // The details of what a URL returned are for the log only: a client must not probe the server's network.
            None => CaptionError::ImageUrl { reason: "not_an_image", source: Some(error.into()) },
        })?;
        model.recorder.record_stage(Stage::Decode, decode);
        model.recorder.record_stage(Stage::Preprocess, preprocess);
        Ok(pixel_values)
    }

    /// Runs `work` on the blocking pool, inside the request's span. A panic in it is an error of this request only.
    async fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, CaptionError> {
        let permit: OwnedSemaphorePermit =
            self.permits.clone().acquire_owned().await.map_err(CaptionError::internal)?;
        let span = Span::current();
        let work = move || {
            let _permit = permit;
            span.in_scope(work)
        };
        spawn_blocking(work).await.map_err(CaptionError::internal)
    }
}

fn preprocess(bytes: &[u8], limits: &DecodeLimits, config: &PreprocessConfig) -> Result<PreprocessResult, DecodeError> {
    let (start, stage) = (Instant::now(), observability::stage("decode"));
    let rgb = image_processor::decode(bytes, limits, config.alpha())?;
    drop(stage);
    let (decode, start) = (start.elapsed(), Instant::now());
    let _stage = observability::stage("preprocess");
    let pixel_values = image_processor::preprocess(&rgb, config);
    Ok(PreprocessResult { pixel_values, decode, preprocess: start.elapsed() })
}
