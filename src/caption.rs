//! The types of a caption request and its reply. They depend neither on a wire format nor on tensors.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use url::Url;

use generation::{FinishReason, GenerationParameters, TokenId};

/// Where the image is.
#[derive(Clone, Debug)]
pub enum ImageSource {
    /// An http or https URL that must be fetched.
    Url(Url),
    /// The bytes of an image file inside the request.
    Bytes {
        /// The image file.
        bytes: Bytes,
        /// Name of the request field, for errors; e.g. `image`, or `img_url` for a `data:` URL.
        field: &'static str,
    },
}

/// Text that the caption continues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// The text; an empty one is the same as none.
    pub text: String,
    /// Name of the request field, for errors.
    pub field: &'static str,
}

/// One image to caption. Everything is checked except what needs the model.
#[derive(Clone, Debug)]
pub struct CaptionRequest {
    /// Name or alias of the model; `None` means the default model.
    pub model: Option<String>,
    /// Version of the model; `None` means its only version.
    pub version: Option<String>,
    /// The image.
    pub image: ImageSource,
    /// Text to continue; `None` means an unconditional caption.
    pub prompt: Option<Prompt>,
    /// Generation parameters of the request; the model's defaults apply to the others.
    pub parameters: GenerationParameters,
    /// When the client stops waiting.
    pub deadline: Option<Instant>,
    /// Cancelled when the client disconnects.
    pub cancelled: CancellationToken,
    /// Number of the API key: keys take turns in the engine.
    pub caller: u64,
}

/// The captions of one image.
#[derive(Clone, Debug)]
pub struct CaptionReply {
    /// Name of the model, not the alias in the request.
    pub model: String,
    /// Version of the model.
    pub model_version: String,
    /// The captions, `num_return_sequences` of them.
    pub captions: Vec<Caption>,
    /// Duration of each stage.
    pub timings: Timings,
}

/// Duration of each stage of one image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Fetching, decoding and resizing.
    pub compute_input: Duration,
    /// Waiting in the engine's queue.
    pub queue: Duration,
    /// From the first run of a graph to the last token.
    pub compute_infer: Duration,
    /// From token ids to text.
    pub compute_output: Duration,
    /// Whether the captions come from the cache or from an equal concurrent request, so that nothing was computed.
    pub cache_hit: bool,
}

/// An event of a caption stream.
#[derive(Clone, Debug)]
pub enum CaptionEvent {
    /// The next piece of the text; all pieces joined are the text of the caption.
    Piece(String),
    /// The reply, which is the last event.
    Reply(CaptionReply),
}

/// One caption.
#[derive(Clone, Debug, PartialEq)]
pub struct Caption {
    /// The text, including the prompt.
    pub text: String,
    /// The start token, the prompt, the generated ids, and the end token if it was generated.
    pub token_ids: Vec<TokenId>,
    /// Log-probability of the sequence: with beams transformers' `sequences_scores`, else the sum over the generated ids
    /// divided by their number to the power of `length_penalty`.
    pub score: f32,
    /// Why the generation stopped.
    pub finish_reason: FinishReason,
}
