//! The path of a request, in one function: fetch -> decode -> preprocess -> decode loop -> reply.

mod streaming;

use std::{
    num::NonZero,
    sync::Arc,
    thread::available_parallelism,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::{Span, info};

use crate::{
    caption::{CaptionReply, CaptionRequest, ImageSource, Timings},
    config::ImageConfig,
    error::{CaptionError, Cause},
    fetch::Fetcher,
    observability::{self, Stage},
    registry::{CaptionOptions, Digest, Registry, RequestHandle, ServedModel},
};
use generation::TokenId;
use image_processor::{DecodeError, DecodeLimits, PixelValues, PreprocessConfig};

/// Bytes that are hashed in less time than it takes to hand them to another thread and a little more.
const QUICKLY_HASHED: usize = 128 * 1024;

/// Takes the ids decided so far.
type Progress = watch::Sender<Vec<TokenId>>;

/// Captions images; cheap to clone.
#[derive(Clone, Debug)]
pub struct Captioner {
    registry: Arc<Registry>,
    fetcher: Fetcher,
    limits: DecodeLimits,
    /// One permit a core: `spawn_blocking` alone would start a thread for every image there is.
    preprocessing: Arc<Semaphore>,
}

impl Captioner {
    /// From loaded models and the rules for images.
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub fn new(registry: Registry, config: &ImageConfig) -> Result<Self, Cause> {
        Ok(Self {
            registry: Arc::new(registry),
            fetcher: Fetcher::new(config)?,
            limits: DecodeLimits { max_pixels: config.max_image_pixels },
            preprocessing: Arc::new(Semaphore::new(available_parallelism().map_or(1, NonZero::get))),
        })
    }

    /// The models.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The model that a request names.
    ///
    /// # Errors
    /// There is none, or it is not loaded.
    pub fn resolve(&self, request: &CaptionRequest) -> Result<Arc<ServedModel>, CaptionError> {
        self.registry.resolve(request.model.as_deref(), request.version.as_deref())
    }

    /// Captions one image by this model, whatever takes its place meanwhile; so do those below.
    ///
    /// # Errors
    /// Every row of the table in `error`.
    pub async fn caption(&self, model: &ServedModel, request: CaptionRequest) -> Result<CaptionReply, CaptionError> {
        let timer = model.recorder.begin_request();
        let reply = self.caption_with(model, request, (None, true)).await?;
        timer.succeed(&[reply.timings]);
        Ok(reply)
    }

    /// Captions the images of one request, `at_once` at a time: a result for each, in order.
    pub async fn caption_all(
        &self,
        model: &ServedModel,
        requests: Vec<CaptionRequest>,
        at_once: usize,
    ) -> Vec<Result<CaptionReply, CaptionError>> {
        let timer = model.recorder.begin_request();
        // The images of one request decode together, equal ones too.
        let shared = requests.len() == 1;
        let results =
            stream::iter(requests).map(|request| self.caption_with(model, request, (None, shared))).buffered(at_once);
        let results: Vec<_> = results.collect().await;
        let timings: Option<Vec<Timings>> = results.iter().map(|result| Some(result.as_ref().ok()?.timings)).collect();
        if let Some(timings) = timings {
            timer.succeed(&timings);
        }
        results
    }

    /// The whole path of one image. `shared`: an equal request at the same time may do the work for this one.
    async fn caption_with(
        &self,
        model: &ServedModel,
        request: CaptionRequest,
        (progress, shared): (Option<Progress>, bool),
    ) -> Result<CaptionReply, CaptionError> {
        let CaptionRequest { image, prompt, parameters, deadline, cancelled, caller, .. } = request;
        within(deadline, &cancelled.clone(), async {
            // Before the image: a mistake in a parameter should not cost a download.
            let plan = model.plan(prompt.as_ref(), &parameters)?;
            let start = Instant::now();
            let (bytes, field) = self.bytes(image).await?;
            if field.is_none() {
                model.recorder.record_stage(Stage::Fetch, start.elapsed());
            }
            let digest = if model.uses_cache() { Some(self.digest_of(&bytes).await?) } else { None };
            let before = start.elapsed();
            let pixel_values = Box::pin(self.pixel_values(bytes, field, model));
            let audience = RequestHandle { deadline, cancelled, progress, caller, instance: None };
            let (captions, timings) = model
                .caption(plan, pixel_values, CaptionOptions { digest, single_flight: shared, request: audience })
                .await?;
            Ok(CaptionReply {
                model: model.name.clone(),
                model_version: model.version.clone(),
                captions: captions.to_vec(),
                timings: Timings { compute_input: timings.compute_input + before, ..timings },
            })
        })
        .await
        .inspect_err(|error| {
            if let CaptionError::ImageUrl { reason, source } = error {
                // The client is told one sentence; the operator must be able to see why.
                info!(reason, cause = source.as_ref().map(tracing::field::display), "image URL refused");
                self.registry.metrics().record_image_url_refusal(reason);
            }
        })
    }

    /// An image's file, and the request's field it came in; `None`: it was fetched.
    async fn bytes(&self, source: ImageSource) -> Result<(Bytes, Option<&'static str>), CaptionError> {
        match source {
            ImageSource::Bytes { bytes, field } => Ok((bytes, Some(field))),
            ImageSource::Url(url) => {
                let _stage = observability::stage("fetch");
                Ok((self.fetcher.fetch(&url).await?, None))
            }
        }
    }

    /// SHA-256 of an image's file.
    async fn digest_of(&self, bytes: &Bytes) -> Result<Digest, CaptionError> {
        if bytes.len() <= QUICKLY_HASHED {
            return Ok(Sha256::digest(bytes).into());
        }
        let (permit, bytes) = (self.permit().await?, bytes.clone());
        let work = move || {
            let _permit = permit;
            Sha256::digest(&bytes).into()
        };
        tokio::task::spawn_blocking(work).await.map_err(CaptionError::internal)
    }

    /// To keep a core busy.
    async fn permit(&self) -> Result<OwnedSemaphorePermit, CaptionError> {
        self.preprocessing.clone().acquire_owned().await.map_err(CaptionError::internal)
    }

    /// What the model sees of an image.
    async fn pixel_values(
        &self,
        bytes: Bytes,
        field: Option<&'static str>,
        model: &ServedModel,
    ) -> Result<PixelValues, CaptionError> {
        let (pixel_values, times) = self.preprocess(bytes, &model.preprocess).await?.map_err(|error| match field {
            Some(field) => CaptionError::image(field, &error),
            // What came from a URL stays one sentence: a caller must not read our network through error texts.
            None => CaptionError::ImageUrl { reason: "not_an_image", source: Some(error.into()) },
        })?;
        model.recorder.record_stage(Stage::Decode, times.0);
        model.recorder.record_stage(Stage::Preprocess, times.1);
        Ok(pixel_values)
    }

    /// Decodes and resizes on the blocking pool, one image a core; and how long each took.
    async fn preprocess(
        &self,
        bytes: Bytes,
        config: &PreprocessConfig,
    ) -> Result<Result<(PixelValues, (Duration, Duration)), DecodeError>, CaptionError> {
        let permit = self.permit().await?;
        let (limits, config, span) = (self.limits, *config, Span::current());
        let work = move || {
            let _permit = permit;
            let _span = span.entered();
            let (start, stage) = (Instant::now(), observability::stage("decode"));
            let rgb = image_processor::decode(&bytes, &limits, config.alpha())?;
            drop(stage);
            let (decoded, start) = (start.elapsed(), Instant::now());
            let _stage = observability::stage("preprocess");
            let pixel_values = image_processor::preprocess(&rgb, &config);
            Ok((pixel_values, (decoded, start.elapsed())))
        };
        // A panic in a decoder is this request's error only.
        tokio::task::spawn_blocking(work).await.map_err(CaptionError::internal)
    }
}

/// Ends `work` when the deadline passes or the client goes away.
async fn within<T>(
    deadline: Option<Instant>,
    cancelled: &CancellationToken,
    work: impl Future<Output = Result<T, CaptionError>>,
) -> Result<T, CaptionError> {
    let expired = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
            None => std::future::pending().await,
        }
    };
    // What is kept is answered at once, but not to who has stopped waiting.
    if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
        return Err(CaptionError::DeadlineExceeded);
    }
    tokio::select! {
        biased;
        result = work => result,
        () = cancelled.cancelled() => Err(CaptionError::Cancelled),
        () = expired => Err(CaptionError::DeadlineExceeded),
    }
}
