//! The domain's nouns: what comes in, what goes out. No wire format, no tensor.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use url::Url;

use generation::{FinishReason, GenerationParameters, TokenId};

/// Where the picture is.
#[derive(Clone, Debug)]
pub enum ImageSource {
    /// To be fetched; http or https.
    Url(Url),
    /// The bytes of an image file, and the name of the request field they came in (for errors).
    Bytes {
        /// The file.
        bytes: Bytes,
        /// e.g. `image`, `img_url` for a data: URI.
        field: &'static str,
    },
}

/// Text that a caption continues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Empty is the same as none.
    pub text: String,
    /// The name of the request field it came in (for errors).
    pub field: &'static str,
}

/// One image to caption, already checked at the edge except for what needs the model.
#[derive(Clone, Debug)]
pub struct CaptionRequest {
    /// Name or alias; `None` is the default model.
    pub model: Option<String>,
    /// `None` is the model's only version.
    pub version: Option<String>,
    /// The picture.
    pub image: ImageSource,
    /// Text to continue; `None` is an unconditional caption.
    pub prompt: Option<Prompt>,
    /// What the client asked for; the model's defaults fill the rest.
    pub parameters: GenerationParameters,
    /// After this nobody waits for the answer.
    pub deadline: Option<Instant>,
    /// Cancelled when the client goes away.
    pub cancelled: CancellationToken,
    /// Who asks, as a number: callers take turns at the engine.
    pub caller: u64,
}

/// The captions of one image.
#[derive(Clone, Debug)]
pub struct CaptionReply {
    /// Name of the model that answered (not the alias asked for).
    pub model: String,
    /// Its version.
    pub model_version: String,
    /// `num_return_sequences` captions.
    pub captions: Vec<Caption>,
    /// Where the time went.
    pub timings: Timings,
}

/// Where the time of one image went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Fetching, decoding and resizing it.
    pub compute_input: Duration,
    /// Waiting for the engine.
    pub queue: Duration,
    /// From the first run of a graph to the last token.
    pub compute_infer: Duration,
    /// From token ids to text.
    pub compute_output: Duration,
    /// Nothing was computed: the captions were kept, or another request's.
    pub kept: bool,
}

/// What a client that reads along is told.
#[derive(Clone, Debug)]
pub enum CaptionEvent {
    /// The next piece of the text; the pieces joined are the caption's text.
    Piece(String),
    /// The end.
    Reply(CaptionReply),
}

/// One caption.
#[derive(Clone, Debug, PartialEq)]
pub struct Caption {
    /// Detokenised, prompt included.
    pub text: String,
    /// Start token, prompt, generated ids, end token if it came.
    pub token_ids: Vec<TokenId>,
    /// See `score` in the README's table of outputs.
    pub score: f32,
    /// Why generation stopped.
    pub finish_reason: FinishReason,
}
