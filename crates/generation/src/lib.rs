//! Decoding: from the logits of each step to finished sequences of token ids.
//!
//! Pure arithmetic that follows `generate()` of transformers (version in `tests/golden/generation.json`), so that ids equal
//! the reference. A [`Search`] is the state of one image between two decoder steps; whoever runs the decoder feeds it
//! logits and may mix the rows of many searches in one step. Knows nothing of ONNX Runtime, images or text.

#![allow(clippy::float_cmp, reason = "ties and the values that switch a parameter off are exact")]

mod beam_search;
mod bounds;
mod config;
mod early_stopping;
#[cfg(test)]
mod golden;
mod hypotheses;
mod independent;
mod log_softmax;
mod logits_processor;
mod maxima;
mod parameters;
mod sampler;
mod search;
mod top_k;
mod warper;

use std::fmt;

pub use bounds::{GenerationLimits, InvalidParameter};
pub use config::GenerationConfig;
pub use early_stopping::EarlyStopping;
pub use parameters::{GenerationParameters, ParameterMut};
pub use search::Search;

/// Index into the vocabulary.
pub type TokenId = u32;

/// What a search must know of the model's vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    /// Width of a row of logits.
    pub size: usize,
    /// Ends a sequence.
    pub eos_token_id: TokenId,
    /// Fed to the decoder for rows that have finished while others go on.
    pub pad_token_id: TokenId,
}

/// What is to be done after a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Advance {
    /// Run the decoder once more.
    Continue {
        /// `[rows]`: for each row, the row of the last step whose cache it goes on from.
        beam_idx: Vec<usize>,
        /// `[rows]`: the token to feed for each row.
        token_ids: Vec<TokenId>,
    },
    /// The search is over: `num_return_sequences` sequences, best first when they come from beams.
    Done(Vec<Sequence>),
}

/// One finished sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// Prompt (start token first) and generated ids, with the end token if it was generated, without fill.
    pub token_ids: Vec<TokenId>,
    /// Beams: transformers' `sequences_scores`. Else the sum of `log_softmax(logits)` of the generated ids, before any
    /// processor, divided by (number of generated ids)^`length_penalty`.
    pub score: f32,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The end token was generated.
    Eos,
    /// The length limit was reached.
    Length,
}

impl FinishReason {
    /// The word used on every surface: `eos` or `length`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Eos => "eos",
            Self::Length => "length",
        }
    }

    /// Of `generated`, the ids after the prompt.
    fn of(generated: &[TokenId], eos_token_id: TokenId) -> Self {
        if generated.last() == Some(&eos_token_id) { Self::Eos } else { Self::Length }
    }
}

impl fmt::Display for FinishReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
