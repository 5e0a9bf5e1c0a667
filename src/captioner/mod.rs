//! The path of a request: fetch, decode, preprocess, encode and decode, detokenise.
//!
//! `Captioner::caption_image` is that path in one function. It ends at the request's deadline or when the client
//! disconnects. What happens inside the model is in `registry` and `engine`; the captioner uses no wire format.

mod image_loader;
mod stream;

use std::{sync::Arc, time::Instant};

use futures_util::{StreamExt, stream as futures_stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    caption::{CaptionReply, CaptionRequest, Timings},
    captioner::image_loader::ImageLoader,
    config::ImageConfig,
    error::{CaptionError, Cause},
    registry::{CaptionOptions, Registry, RequestHandle, ServedModel},
};
use generation::TokenId;

/// Sends the token ids that are final so far.
type Progress = watch::Sender<Vec<TokenId>>;

/// Captions images; cheap to clone.
#[derive(Clone, Debug)]
pub struct Captioner {
    registry: Arc<Registry>,
    images: ImageLoader,
}

/// How one image of a request is captioned.
#[derive(Debug, Default)]
struct ImageOptions {
    /// Where to send tokens as they become final; `None` if the client waits for the whole caption.
    progress: Option<Progress>,
    /// Whether an equal concurrent request may do the work for this one.
    single_flight: bool,
}

impl Captioner {
    /// Creates a captioner from loaded models and the settings for images.
    ///
    /// # Errors
    /// The HTTP client cannot be built.
    pub fn new(registry: Registry, config: &ImageConfig) -> Result<Self, Cause> {
        Ok(Self { registry: Arc::new(registry), images: ImageLoader::new(config)? })
    }

    /// The served models.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The model that a request names.
    ///
    /// # Errors
    /// There is no such model, or it is not loaded.
    pub fn resolve(&self, request: &CaptionRequest) -> Result<Arc<ServedModel>, CaptionError> {
        self.registry.resolve(request.model.as_deref(), request.version.as_deref())
    }

    /// Captions one image by this model, even if a reload replaces the model meanwhile.
    ///
    /// # Errors
    /// Any [`CaptionError`].
    pub async fn caption(&self, model: &ServedModel, request: CaptionRequest) -> Result<CaptionReply, CaptionError> {
        let timer = model.recorder.begin_request();
        let options = ImageOptions { progress: None, single_flight: true };
        let reply = self.caption_image(model, request, options).await?;
        timer.succeed(&[reply.timings]);
        Ok(reply)
    }

    /// Captions the images of one request, at most `concurrency` concurrently, and returns a result for each, in order.
    pub async fn caption_all(
        &self,
        model: &ServedModel,
        requests: Vec<CaptionRequest>,
        concurrency: usize,
    ) -> Vec<Result<CaptionReply, CaptionError>> {
        let timer = model.recorder.begin_request();
        // The images of one request decode together, equal ones too.
        let single_flight = requests.len() == 1;
        let caption = |request| self.caption_image(model, request, ImageOptions { progress: None, single_flight });
        let results: Vec<_> = futures_stream::iter(requests).map(caption).buffered(concurrency).collect().await;
        let timings: Option<Vec<Timings>> = results.iter().map(|result| Some(result.as_ref().ok()?.timings)).collect();
        if let Some(timings) = timings {
            timer.succeed(&timings);
        }
        results
    }

    /// The path of one image, from its source to its captions.
    async fn caption_image(
        &self,
        model: &ServedModel,
        request: CaptionRequest,
        options: ImageOptions,
    ) -> Result<CaptionReply, CaptionError> {
        let CaptionRequest { image, prompt, parameters, deadline, cancelled, caller, .. } = request;
        let ImageOptions { progress, single_flight } = options;
        let path = async {
            // Parameters are checked first, so that nothing is fetched for an invalid request.
            let plan = model.plan(prompt.as_ref(), &parameters)?;
            let start = Instant::now();
            let file = self.images.load(image, &model.recorder).await?;
            let digest = if model.uses_cache() { Some(self.images.digest(&file).await?) } else { None };
            let load_time = start.elapsed();
            // Polled only if neither the captions nor the encoded image are cached.
            let pixel_values = Box::pin(self.images.preprocess(file, model));
            let handle = RequestHandle { deadline, cancelled: cancelled.clone(), progress, caller, instance: None };
            let options = CaptionOptions { digest, single_flight, request: handle };
            let (captions, timings) = model.caption(plan, pixel_values, options).await?;
            Ok(CaptionReply {
                model: model.name.clone(),
                model_version: model.version.clone(),
                captions: captions.to_vec(),
                timings: Timings { compute_input: timings.compute_input + load_time, ..timings },
            })
        };
        with_deadline(deadline, &cancelled, path).await.inspect_err(|error| self.record_refusal(error))
    }

    /// Logs and counts an image URL that could not be used; the client gets one fixed text, without the reason.
    fn record_refusal(&self, error: &CaptionError) {
        if let CaptionError::ImageUrl { reason, source } = error {
            info!(reason, cause = source.as_ref().map(tracing::field::display), "image URL refused");
            self.registry.metrics().record_image_url_refusal(reason);
        }
    }
}

/// Ends `work` when the deadline passes or the client disconnects.
async fn with_deadline<T>(
    deadline: Option<Instant>,
    cancelled: &CancellationToken,
    work: impl Future<Output = Result<T, CaptionError>>,
) -> Result<T, CaptionError> {
    // Work that is ready at once, such as a cache hit, would win in the `select!` below.
    if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
        return Err(CaptionError::DeadlineExceeded);
    }
    let expired = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        result = work => result,
        () = cancelled.cancelled() => Err(CaptionError::Cancelled),
        () = expired => Err(CaptionError::DeadlineExceeded),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        time::Duration,
    };

    use super::*;

    async fn end(deadline: Option<Instant>, cancelled: &CancellationToken) -> CaptionError {
        with_deadline(deadline, cancelled, pending::<Result<(), _>>()).await.unwrap_err()
    }

    #[tokio::test]
    async fn work_ends_when_the_deadline_passes() {
        let soon = Instant::now() + Duration::from_millis(1);
        assert!(matches!(end(Some(soon), &CancellationToken::new()).await, CaptionError::DeadlineExceeded));
    }

    #[tokio::test]
    async fn work_ends_when_the_client_disconnects() {
        let cancelled = CancellationToken::new();
        cancelled.cancel();
        assert!(matches!(end(None, &cancelled).await, CaptionError::Cancelled));
    }

    #[tokio::test]
    async fn a_result_that_is_ready_is_not_returned_after_the_deadline() {
        let result = with_deadline(Some(Instant::now()), &CancellationToken::new(), ready(Ok(()))).await;
        assert!(matches!(result, Err(CaptionError::DeadlineExceeded)));
        assert!(with_deadline(None, &CancellationToken::new(), ready(Ok(()))).await.is_ok());
    }
}
