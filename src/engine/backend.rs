//! What the engine needs from a model: the trait [`Backend`].
//!
//! The engine decides which images run together and when; a backend runs them. It holds the key-value cache of the images
//! that decode, in the order in which they joined. The ONNX implementation is `blip::OnnxBackend`; the engine's tests use
//! a scripted one. A backend is a type parameter and not a trait object: its tensors stay concrete types that are moved
//! from one call to the next, without a box or a downcast on the path of a decoder step.

use std::{
    error::Error,
    fmt::Debug,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use generation::TokenId;
use image_processor::PixelValues;
use ndarray::ArrayView2;

/// A loaded model and the key-value cache of the images that decode together. One thread owns it.
pub trait Backend: Debug + Send + 'static {
    /// One image as the decoder reads it. The image cache shares it with the images that decode.
    type EncodedImage: Debug + Send + Sync + 'static;
    /// What the run of a prompt leaves: the logits of its last position, and the keys and values of all positions.
    type Prefill;
    /// The result of a decoder step, owned: the cache may change while it is read.
    type Logits;
    /// Ends a run of the encoder from another thread.
    type Abort: AbortHandle;
    /// A failed run of the model.
    type Error: Error + Send + Sync + 'static;

    /// Makes a handle that can end the next run of the encoder.
    ///
    /// # Errors
    /// The handle cannot be allocated.
    fn abort_handle(&self) -> Result<Self::Abort, Self::Error>;

    /// Runs the encoder once on all of `images`, and returns an encoded image for each, in order.
    ///
    /// # Errors
    /// The run failed, or `abort` ended it.
    fn encode(
        &mut self,
        images: Vec<PixelValues>,
        abort: &Self::Abort,
    ) -> Result<Vec<Arc<Self::EncodedImage>>, Self::Error>;

    /// Runs a prompt of at least two ids on an encoded image.
    ///
    /// # Errors
    /// The run failed.
    fn prefill(&mut self, image: &Self::EncodedImage, prompt: &[TokenId]) -> Result<Self::Prefill, Self::Error>;

    /// Reads the logits of a prompt's last position: `[1, vocab_size]`.
    ///
    /// # Errors
    /// The tensor cannot be read.
    fn prefill_logits(prefill: &Self::Prefill) -> Result<ArrayView2<'_, f32>, Self::Error>;

    /// Adds an image with `rows` rows after those that decode. Without `past`, the next step feeds it its start token.
    ///
    /// # Errors
    /// A tensor of the image cannot be read. The image has not joined.
    fn join(
        &mut self,
        image: Arc<Self::EncodedImage>,
        past: Option<Self::Prefill>,
        rows: usize,
    ) -> Result<(), Self::Error>;

    /// Removes the image at `index`. The last image takes its place.
    fn swap_remove(&mut self, index: usize);

    /// Lets row `i` of the image at `index` continue from its row `beam_idx[i]`. A single row can become several.
    ///
    /// # Errors
    /// The image has not had a step.
    fn reorder(&mut self, index: usize, beam_idx: &[usize]) -> Result<(), Self::Error>;

    /// Runs one decoder step for all rows. `input_ids` holds the next token of each row, image by image.
    ///
    /// # Errors
    /// The run failed. The cache is then only good for [`Self::clear`].
    fn step(&mut self, input_ids: &[TokenId]) -> Result<Self::Logits, Self::Error>;

    /// Reads the logits of a step: `[rows, vocab_size]`, in the order of its `input_ids`.
    ///
    /// # Errors
    /// The tensor cannot be read.
    fn logits(logits: &Self::Logits) -> Result<ArrayView2<'_, f32>, Self::Error>;

    /// Frees the memory of the cache if no image is left in it.
    fn release(&mut self);

    /// Replaces the cache by an empty one.
    fn clear(&mut self);

    /// Returns the time spent running the model since the last call.
    fn take_run_time(&mut self) -> Duration;

    /// Returns the current time. A scripted backend decides how much of it a run takes.
    fn now(&self) -> Instant {
        Instant::now()
    }

    /// Waits. A scripted backend only advances its clock.
    fn sleep(&self, duration: Duration) {
        thread::sleep(duration);
    }
}

/// Ends a run of the encoder from another thread.
pub trait AbortHandle: Clone + Debug + Send + 'static {
    /// Ends the run, or the next one with this handle if none is in progress.
    fn abort(&self);
}
